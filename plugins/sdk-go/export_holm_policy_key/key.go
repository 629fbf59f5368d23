// Package export_holm_policy_key exports the hook of the policy to the host. The bindings call it.
package export_holm_policy_key

import (
	"holm"
	"holm/holm_policy_facts"
	"holm/holm_policy_key"
	"holm/input"
	"holm/internal/result"
	"holm/wit/types"
)

// Plan is a recipe if the policy has one, and else a call for each request.
func Plan() wit_types.Result[holm_policy_key.Keying, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	var parts []holm.Part
	planner, err := holm.Served[holm.Planner]()
	if err == nil {
		parts, err = planner.Plan()
	} else {
		_, err = holm.Served[holm.Key]()
	}
	return result.Of(parts, err, keying)
}

func keying(parts []holm.Part) holm_policy_key.Keying {
	if parts == nil {
		return holm_policy_key.MakeKeyingCall()
	}
	return holm_policy_key.MakeKeyingRecipe(result.Each(parts, func(part holm.Part) holm_policy_key.Part {
		return holm_policy_key.Part{Input: result.Input(part.Input), Transform: part.Transform.String()}
	}))
}

// Reads returns the inputs of Derive.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return result.Reads(func(reads holm.Reads) []input.Input { return reads.Key })
}

// Derive has the policy make the key of a request.
func Derive(values holm_policy_key.Values) wit_types.Result[holm_policy_key.Verdict, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	var given holm.Verdict
	policy, err := holm.Served[holm.Key]()
	if err == nil {
		given, err = policy.Derive(values)
	}
	return result.Of(given, err, verdict)
}

func verdict(from holm.Verdict) holm_policy_key.Verdict {
	if bypass, ok := from.(holm.Bypass); ok {
		return holm_policy_key.MakeVerdictBypass(string(bypass))
	}
	return holm_policy_key.MakeVerdictLookup(from.(holm.Lookup))
}
