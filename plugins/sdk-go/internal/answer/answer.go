// Package answer makes what the bindings return of what a policy returns.
package answer

import (
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
func Input(from input.Input) holm_policy_facts.Input {
	if makes, ok := plain[from.Kind]; ok {
		return makes()
	}
	if makes, ok := named[from.Kind]; ok {
		return makes(from.Name)
	}
	if makes, ok := numbered[from.Kind]; ok {
		return makes(from.Number)
	}
	tokens := holm_policy_facts.Tokens{Pointer: from.Name, Encoding: uint8(from.Number)}
	return holm_policy_facts.MakeInputBodyTokens(tokens)
}

var plain = map[uint8]func() holm_policy_facts.Input{
	holm_policy_facts.InputMethod:         holm_policy_facts.MakeInputMethod,
	holm_policy_facts.InputScheme:         holm_policy_facts.MakeInputScheme,
	holm_policy_facts.InputAuthority:      holm_policy_facts.MakeInputAuthority,
	holm_policy_facts.InputPath:           holm_policy_facts.MakeInputPath,
	holm_policy_facts.InputQueryAll:       holm_policy_facts.MakeInputQueryAll,
	holm_policy_facts.InputBodyDigest:     holm_policy_facts.MakeInputBodyDigest,
	holm_policy_facts.InputBodyLength:     holm_policy_facts.MakeInputBodyLength,
	holm_policy_facts.InputResponseStatus: holm_policy_facts.MakeInputResponseStatus,
	holm_policy_facts.InputResponseLength: holm_policy_facts.MakeInputResponseLength,
}

var named = map[uint8]func(string) holm_policy_facts.Input{
	holm_policy_facts.InputQuery:          holm_policy_facts.MakeInputQuery,
	holm_policy_facts.InputHeader:         holm_policy_facts.MakeInputHeader,
	holm_policy_facts.InputCookie:         holm_policy_facts.MakeInputCookie,
	holm_policy_facts.InputBodyJson:       holm_policy_facts.MakeInputBodyJson,
	holm_policy_facts.InputFeature:        holm_policy_facts.MakeInputFeature,
	holm_policy_facts.InputArm:            holm_policy_facts.MakeInputArm,
	holm_policy_facts.InputResponseHeader: holm_policy_facts.MakeInputResponseHeader,
	holm_policy_facts.InputPoolStats:      holm_policy_facts.MakeInputPoolStats,
}

var numbered = map[uint8]func(uint32) holm_policy_facts.Input{
	holm_policy_facts.InputClientPrefix: func(bits uint32) holm_policy_facts.Input {
		return holm_policy_facts.MakeInputClientPrefix(uint8(bits))
	},
	holm_policy_facts.InputBodyPrefix: holm_policy_facts.MakeInputBodyPrefix,
	holm_policy_facts.InputFetchUs:    holm_policy_facts.MakeInputFetchUs,
	holm_policy_facts.InputClock:      holm_policy_facts.MakeInputClock,
}
