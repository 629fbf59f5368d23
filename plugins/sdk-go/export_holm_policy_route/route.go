// Package export_holm_policy_route answers the host for the policy. The bindings call it.
package export_holm_policy_route

import (
	"holm"
	"holm/holm_policy_facts"
	"holm/holm_policy_route"
	"holm/input"
	"holm/internal/answer"
	"holm/wit/types"
)

// Reads says what Choose is given.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return answer.Reads(func(reads holm.Reads) []input.Input { return reads.Route })
}

// Choose asks the policy who answers.
func Choose(
	values holm_policy_route.Values, candidates []holm_policy_route.Candidate,
) wit_types.Result[holm_policy_route.Choice, holm_policy_facts.Fault] {
	defer holm.TellOfPanic()
	var given holm.Choice
	policy, err := holm.Served[holm.Route]()
	if err == nil {
		given, err = policy.Choose(values, answer.Each(candidates, candidate))
	}
	return answer.Of(given, err, choice)
}

func candidate(from holm_policy_route.Candidate) holm.Candidate { return holm.Candidate(from) }

func choice(from holm.Choice) holm_policy_route.Choice { return holm_policy_route.Choice(from) }
