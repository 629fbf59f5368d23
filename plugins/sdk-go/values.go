package holm

import (
	"strings"
	"unicode/utf8"
)

// Values are a hook's inputs, in the order of the manifest.
type Values []Option[[]byte]

// Bytes is a value, and whether there is one: none is not the same as an empty one.
func (values Values) Bytes(index int) ([]byte, bool) {
	if index >= len(values) || !values[index].IsSome() {
		return nil, false
	}
	return values[index].Some(), true
}

// Text is a value as text, empty if there is none.
func (values Values) Text(index int) string {
	value, _ := values.Bytes(index)
	return String(value)
}

// Slot is a value as a part of a key that keeps none and an empty one apart: a byte 0, or a byte 1 and the value.
func (values Values) Slot(index int) []byte {
	value, present := values.Bytes(index)
	if !present {
		return []byte{0}
	}
	return append(append(make([]byte, 0, len(value)+1), 1), value...)
}

// Lower turns ASCII letters to lower case, in place.
func Lower(value []byte) []byte {
	for i, letter := range value {
		if 'A' <= letter && letter <= 'Z' {
			value[i] = letter + 'a' - 'A'
		}
	}
	return value
}

// String is bytes as text. The host traps on a string that isn't UTF-8, so what isn't becomes U+FFFD: one for each
// longest beginning of a character, as Rust, JavaScript and Python have it.
func String(value []byte) string {
	if utf8.Valid(value) {
		return string(value)
	}
	var text strings.Builder
	for len(value) > 0 {
		character, length := utf8.DecodeRune(value)
		if character == utf8.RuneError && length == 1 {
			length = beginning(value)
		}
		text.WriteRune(character)
		value = value[length:]
	}
	return text.String()
}

// The number of bytes that begin a character that isn't there to the end.
func beginning(value []byte) int {
	for length := min(3, len(value)); length > 1; length-- {
		if !utf8.FullRune(value[:length]) {
			return length
		}
	}
	return 1
}
