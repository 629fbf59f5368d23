// Package export_holm_policy_prefetch exports the hook of the policy to the host. The bindings call it.
package export_holm_policy_prefetch

import (
	"holm"
	"holm/holm_policy_facts"
	"holm/holm_policy_prefetch"
	"holm/input"
	"holm/internal/result"
	"holm/wit/types"
)

// Reads returns the inputs of Suggest.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return result.Reads(func(reads holm.Reads) []input.Input { return reads.Prefetch })
}

// Suggest has the policy suggest which requests will follow.
func Suggest(
	values holm_policy_prefetch.Values, hit bool,
) wit_types.Result[[]holm_policy_prefetch.Hint, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	var given []holm.Hint
	policy, err := holm.Served[holm.Prefetch]()
	if err == nil {
		given, err = policy.Suggest(values, hit)
	}
	return result.Of(given, err, hints)
}

func hints(from []holm.Hint) []holm_policy_prefetch.Hint { return result.Each(from, hint) }

func hint(from holm.Hint) holm_policy_prefetch.Hint {
	header := func(header [2]string) wit_types.Tuple2[string, string] {
		return wit_types.Tuple2[string, string]{F0: header[0], F1: header[1]}
	}
	headers := result.Each(from.Headers, header)
	return holm_policy_prefetch.Hint{Path: from.Path, Headers: headers, ConfidencePpm: from.ConfidencePpm}
}
