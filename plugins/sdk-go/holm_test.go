package holm

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"holm/input"
)

func TestFieldsAreTakenByNameAndType(t *testing.T) {
	table := NewTable(` {"t": "a\"\u00e9\ud83d\ude00\n", "f": true, "n": -12, "l": ["a", "b"], "e": []} `)
	if text := table.Text("t", ""); text != "a\"é😀\n" {
		t.Errorf("%q", text)
	}
	if !table.Flag("f", false) || table.Integer("n", 0) != -12 {
		t.Error("a flag or a number")
	}
	if texts := table.Texts("l"); !reflect.DeepEqual(texts, []string{"a", "b"}) {
		t.Error(texts)
	}
	if texts := table.Texts("e"); len(texts) != 0 {
		t.Error(texts)
	}
	if table.Text("absent", "default") != "default" || table.Err() != nil {
		t.Error(table.Err())
	}
}

func TestTheFirstThingThatIsWrongIsReported(t *testing.T) {
	for config, detail := range map[string]string{
		`{"t": 1}`:                      `"t" isn't a string`,
		`{"t": null}`:                   `"t" isn't a string`,
		`{"l": ["a", null]}`:            `"l" isn't a list of strings`,
		`{"f": "true"}`:                 `"f" isn't true or false`,
		`{"n": 1.5}`:                    `"n" isn't a number in range`,
		`{"n": 9223372036854775808}`:    `"n" isn't a number in range`,
		`{"T": "x"}`:                    `unknown field "T"`,
		`{"x": {"y": [1e-3, {}, "z"]}}`: `unknown field "x"`,
		`[]`:                            "the configuration isn't the JSON of a table",
	} {
		table := NewTable(config)
		table.Text("t", "")
		table.Texts("l")
		table.Flag("f", false)
		table.Integer("n", 0)
		if err := table.Err(); err != (Fault{1, detail}) {
			t.Errorf("%s: %v", config, err)
		}
	}
}

func TestWhatIsNotJSONIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "{", "{}}", "{} {}", `{"a"}`, `{"a":1,}`, `{"a":1 "b":2}`, `{a:1}`, `{"a":[1,]}`, `{"a":01}`, `{"a":1.}`,
		`{"a":-}`, `{"a":+1}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\ud800"}`, `{"a":"\ud800\u0041"}`, "{\"a\":\"\n\"}",
		`{"a":"`, `{"a":tru}`, `{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}",
	} {
		if _, ok := parse(text); ok {
			t.Error(text)
		}
	}
}

func TestNoneAndEmptyAreTwoValues(t *testing.T) {
	values := Values{Some([]byte("Ab")), Some[[]byte](nil), {}}
	if string(values.Slot(0)) != "\x01Ab" || string(values.Slot(1)) != "\x01" || string(values.Slot(2)) != "\x00" {
		t.Error("slots")
	}
	if _, present := values.Bytes(1); !present {
		t.Error("an empty value is there")
	}
	if _, present := values.Bytes(3); present {
		t.Error("past the end")
	}
	if string(Lower([]byte("ABÉ[z"))) != "ab\u00c9[z" {
		t.Error("lower")
	}
}

func TestWhatIsNotUTF8IsReplaced(t *testing.T) {
	for bytes, text := range map[string]string{
		"a\xffb": "a\ufffdb", "\xe2\x82": "\ufffd", "\xe2\x82A": "\ufffdA", "\xf0\x9f\x98A": "\ufffdA", "\xc3\xa9": "é",
		"\xed\xa0\x80": "\ufffd\ufffd\ufffd", "\xc0\xaf": "\ufffd\ufffd", "\xf0\x80\x80\x80": "\ufffd\ufffd\ufffd\ufffd",
		"\xf4\x90\x80\x80": "\ufffd\ufffd\ufffd\ufffd", "\xef\xbf\xbd": "\ufffd", "\xf1\x80\x80": "\ufffd",
	} {
		if made := String([]byte(bytes)); made != text {
			t.Errorf("%x: %q", bytes, made)
		}
	}
}

func TestAnErrorIsAFault(t *testing.T) {
	if fault := FaultOf(errors.New("words")); fault != (Fault{1, "words"}) {
		t.Error(fault)
	}
	if fault := FaultOf(Fault{7, "w\xff"}); fault != (Fault{7, "w\ufffd"}) {
		t.Error(fault)
	}
}

func TestInputsAreTheWordsOfTheContract(t *testing.T) {
	for _, row := range []struct {
		input     input.Input
		kind      string
		arguments []string
	}{
		{input.QueryAll(), "query-all", nil},
		{input.Header("Accept"), "header", []string{"Accept"}},
		{input.ClientPrefix(24), "client-prefix", []string{"24"}},
		{input.ClientRegion(), "client-region", nil},
		{input.NodeRegion(), "node-region", nil},
		{input.BodyTokens("/messages", input.O200kBase), "body-tokens", []string{"/messages", "o200k-base"}},
		{input.Clock(4294967295), "clock", []string{"4294967295"}},
	} {
		if !reflect.DeepEqual(row.input, input.Input{Kind: row.kind, Arguments: row.arguments}) {
			t.Error(row)
		}
	}
	if Identity.String() != "identity" || JSONCanonical.String() != "json-canonical" {
		t.Error("transforms")
	}
}
