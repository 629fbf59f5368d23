// Package result makes what the bindings return of what a policy returns.
package result

import (
	"errors"

	"holm"
	"holm/holm_policy_facts"
	"holm/input"
	"holm/wit/types"
)

// Of is a value in the type of the bindings, or else a fault.
func Of[From, To any](value From, err error, convert func(From) To) wit_types.Result[To, holm_policy_facts.Fault] {
	if err != nil {
		return wit_types.Err[To](holm_policy_facts.Fault(holm.FaultOf(err)))
	}
	return wit_types.Ok[To, holm_policy_facts.Fault](convert(value))
}

// Each converts a list.
func Each[From, To any](from []From, convert func(From) To) []To {
	to := make([]To, len(from))
	for i, element := range from {
		to[i] = convert(element)
	}
	return to
}

// Input is an input in the type of the bindings.
func Input(from input.Input) holm_policy_facts.Input { return holm_policy_facts.Input(from) }

// Reads is what the policy's manifest says that a hook reads.
func Reads(of func(holm.Reads) []input.Input) wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	var reads []input.Input
	policy, err := holm.Served[holm.Policy]()
	if err == nil {
		reads = of(policy.Manifest().Reads)
		if reads == nil {
			err = errors.New("the manifest has no list for it, which is empty if it reads nothing")
		}
	}
	return Of(reads, err, func(reads []input.Input) []holm_policy_facts.Input { return Each(reads, Input) })
}
