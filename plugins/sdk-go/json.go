package holm

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A reader of JSON. With encoding/json a component is twice as large, and takes names in another case for equal.
// A value is nil, a bool, a string, a number, []any or []field.
type reader struct {
	rest  string
	depth int
}

type number string

type field struct {
	name  string
	value any
}

// Lists and tables in one another, at most.
const depthMax = 32

// Reads one JSON text; false if it isn't one.
func parse(text string) (any, bool) {
	reader := reader{rest: text}
	value, ok := reader.value()
	reader.skipSpace()
	return value, ok && reader.rest == ""
}

func (reader *reader) skipSpace() { reader.rest = strings.TrimLeft(reader.rest, " \t\n\r") }

func (reader *reader) next(wanted string) bool {
	rest, found := strings.CutPrefix(reader.rest, wanted)
	reader.rest = rest
	return found
}

func (reader *reader) token(wanted string) bool {
	reader.skipSpace()
	return reader.next(wanted)
}

func (reader *reader) value() (any, bool) {
	reader.depth++
	defer func() { reader.depth-- }()
	switch {
	case reader.depth > depthMax:
		return nil, false
	case reader.token("{"):
		return all(reader, "}", reader.field)
	case reader.next("["):
		return all(reader, "]", reader.value)
	case reader.next(`"`):
		return reader.text()
	case reader.next("true"):
		return true, true
	case reader.next("false"):
		return false, true
	case reader.next("null"):
		return nil, true
	default:
		return reader.number()
	}
}

// Reads what is between brackets; the first was read.
func all[T any](reader *reader, closing string, one func() (T, bool)) (any, bool) {
	values := []T{}
	if reader.token(closing) {
		return values, true
	}
	for {
		value, ok := one()
		if !ok {
			return nil, false
		}
		values = append(values, value)
		if !reader.token(",") {
			return values, reader.token(closing)
		}
	}
}

func (reader *reader) field() (field, bool) {
	if !reader.token(`"`) {
		return field{}, false
	}
	name, ok := reader.text()
	if !ok || !reader.token(":") {
		return field{}, false
	}
	value, ok := reader.value()
	return field{name, value}, ok
}

// Reads a string whose first quote was read.
func (reader *reader) text() (string, bool) {
	var text strings.Builder
	for {
		end := strings.IndexFunc(reader.rest, func(letter rune) bool {
			return letter == '"' || letter == '\\' || letter < ' '
		})
		if end < 0 {
			return "", false
		}
		text.WriteString(reader.rest[:end])
		reader.rest = reader.rest[end:]
		if reader.next(`"`) {
			return text.String(), true
		}
		letter, ok := reader.escaped()
		if !ok {
			return "", false
		}
		text.WriteRune(letter)
	}
}

func (reader *reader) escaped() (rune, bool) {
	const letters, meant = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if reader.next(`\u`) {
		return reader.codePoint()
	}
	if !reader.next(`\`) || reader.rest == "" {
		return 0, false
	}
	at := strings.IndexByte(letters, reader.rest[0])
	if at < 0 {
		return 0, false
	}
	reader.rest = reader.rest[1:]
	return rune(meant[at]), true
}

// Four digits, or two times four for what lies beyond U+FFFF.
func (reader *reader) codePoint() (rune, bool) {
	first, ok := reader.fourDigits()
	if !ok || !utf16.IsSurrogate(first) {
		return first, ok
	}
	if !reader.next(`\u`) {
		return 0, false
	}
	second, _ := reader.fourDigits()
	both := utf16.DecodeRune(first, second)
	return both, both != utf8.RuneError
}

func (reader *reader) fourDigits() (rune, bool) {
	if len(reader.rest) < 4 {
		return 0, false
	}
	digits, err := strconv.ParseUint(reader.rest[:4], 16, 16)
	reader.rest = reader.rest[4:]
	return rune(digits), err == nil
}

func (reader *reader) number() (number, bool) {
	before := reader.rest
	reader.next("-")
	ok := reader.next("0") || reader.digits()
	if reader.next(".") {
		ok = reader.digits() && ok
	}
	if reader.next("e") || reader.next("E") {
		_ = reader.next("+") || reader.next("-")
		ok = reader.digits() && ok
	}
	return number(before[:len(before)-len(reader.rest)]), ok
}

func (reader *reader) digits() bool {
	before := len(reader.rest)
	reader.rest = strings.TrimLeft(reader.rest, "0123456789")
	return len(reader.rest) < before
}
