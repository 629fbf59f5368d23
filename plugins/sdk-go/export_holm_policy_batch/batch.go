// Package export_holm_policy_batch exports the hook of the policy to the host. The bindings call it.
package export_holm_policy_batch

import (
	"holm"
	"holm/holm_policy_batch"
	"holm/holm_policy_facts"
	"holm/input"
	"holm/internal/result"
	"holm/wit/types"
)

// Reads returns the inputs of Classify.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return result.Reads(func(reads holm.Reads) []input.Input { return reads.Batch })
}

// Classify has the policy class an item.
func Classify(values holm_policy_batch.Values) wit_types.Result[holm_policy_batch.Class, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	var given holm.Class
	policy, err := holm.Served[holm.Batch]()
	if err == nil {
		given, err = policy.Classify(values)
	}
	return result.Of(given, err, class)
}

func class(from holm.Class) holm_policy_batch.Class { return holm_policy_batch.Class(from) }
