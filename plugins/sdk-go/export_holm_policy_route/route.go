// Package export_holm_policy_route exports the hook of the policy to the host. The bindings call it.
package export_holm_policy_route

import (
	"holm"
	"holm/holm_policy_facts"
	"holm/holm_policy_route"
	"holm/input"
	"holm/internal/result"
	"holm/wit/types"
)

// Reads returns the inputs of Choose.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return result.Reads(func(reads holm.Reads) []input.Input { return reads.Route })
}

// Choose has the policy order the candidates for a request.
func Choose(
	values holm_policy_route.Values, candidates []holm_policy_route.Candidate,
) wit_types.Result[holm_policy_route.Choice, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	var given holm.Choice
	policy, err := holm.Served[holm.Route]()
	if err == nil {
		given, err = policy.Choose(values, result.Each(candidates, candidate))
	}
	return result.Of(given, err, choice)
}

func candidate(from holm_policy_route.Candidate) holm.Candidate { return holm.Candidate(from) }

func choice(from holm.Choice) holm_policy_route.Choice { return holm_policy_route.Choice(from) }
