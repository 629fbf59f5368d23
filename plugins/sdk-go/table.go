package holm

import (
	"slices"
	"strconv"
)

// Table is the operator's table, read field by field, each with a default for where it is missing. It remembers the
// first thing that was wrong; that is reported after Configure, a field that was not taken included.
type Table struct {
	fields []field
	wrong  error
}

// NewTable reads the JSON that the host hands over; in the tests of a policy it stands for the host.
func NewTable(config string) *Table {
	value, ok := parse(config)
	fields, isTable := value.([]field)
	table := &Table{fields: fields}
	if !ok || !isTable {
		table.refuse("the configuration isn't the JSON of a table")
	}
	return table
}

// Text takes a string.
func (table *Table) Text(name, missing string) string {
	return take(table, name, "a string", missing, as[string])
}

// Texts takes a list of strings.
func (table *Table) Texts(name string) []string {
	return take(table, name, "a list of strings", nil, func(value any) ([]string, bool) {
		values, ok := value.([]any)
		texts := make([]string, len(values))
		for i, value := range values {
			text, isText := value.(string)
			texts[i], ok = text, ok && isText
		}
		return texts, ok
	})
}

// Flag takes true or false.
func (table *Table) Flag(name string, missing bool) bool {
	return take(table, name, "true or false", missing, as[bool])
}

// Integer takes a whole number.
func (table *Table) Integer(name string, missing int64) int64 {
	return take(table, name, "a number in range", missing, func(value any) (int64, bool) {
		digits, _ := value.(number)
		integer, err := strconv.ParseInt(string(digits), 10, 64)
		return integer, err == nil
	})
}

// Err is the first thing that was wrong.
func (table *Table) Err() error {
	if len(table.fields) > 0 {
		table.refuse(`unknown field "` + table.fields[0].name + `"`)
	}
	return table.wrong
}

func as[T any](value any) (T, bool) {
	is, ok := value.(T)
	return is, ok
}

func take[T any](table *Table, name, what string, missing T, fits func(any) (T, bool)) T {
	at := slices.IndexFunc(table.fields, func(field field) bool { return field.name == name })
	if at < 0 {
		return missing
	}
	value, ok := fits(table.fields[at].value)
	table.fields = slices.Delete(table.fields, at, at+1)
	if !ok {
		table.refuse(`"` + name + `" isn't ` + what)
		return missing
	}
	return value
}

func (table *Table) refuse(detail string) {
	if table.wrong == nil {
		table.wrong = Fault{1, detail}
	}
}
