// Package export_holm_policy_batch answers the host for the policy. The bindings call it.
package export_holm_policy_batch

import (
	"holm"
	"holm/holm_policy_batch"
	"holm/holm_policy_facts"
	"holm/input"
	"holm/internal/answer"
	"holm/wit/types"
)

// Reads says what Classify is given.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return answer.Reads(func(reads holm.Reads) []input.Input { return reads.Batch })
}

// Classify asks the policy about a question.
func Classify(values holm_policy_batch.Values) wit_types.Result[holm_policy_batch.Class, holm_policy_facts.Fault] {
	defer holm.TellOfPanic()
	var given holm.Class
	policy, err := holm.Served[holm.Batch]()
	if err == nil {
		given, err = policy.Classify(values)
	}
	return answer.Of(given, err, class)
}

func class(from holm.Class) holm_policy_batch.Class { return holm_policy_batch.Class(from) }
