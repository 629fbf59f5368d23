// Package export_holm_policy_features exports the hook of the policy to the host. The bindings call it.
package export_holm_policy_features

import (
	"holm"
	"holm/holm_policy_facts"
	"holm/holm_policy_features"
	"holm/input"
	"holm/internal/result"
	"holm/wit/types"
)

// Reads returns the inputs of Extract.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return result.Reads(func(reads holm.Reads) []input.Input { return reads.Features })
}

// Extract has the policy extract what matters in a request.
func Extract(values holm_policy_features.Values) wit_types.Result[holm_policy_features.Shape, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	var given holm.Shape
	policy, err := holm.Served[holm.Features]()
	if err == nil {
		given, err = policy.Extract(values)
	}
	return result.Of(given, err, shape)
}

func shape(from holm.Shape) holm_policy_features.Shape {
	return holm_policy_features.Shape{
		Features: result.Each(from.Features, feature),
		Edits: result.Each(from.Edits, func(edit holm.Edit) holm_policy_features.Edit {
			return holm_policy_features.Edit(edit)
		}),
		Headers: result.Each(from.Headers, func(header holm.HeaderEdit) holm_policy_features.Header {
			return holm_policy_features.Header(header)
		}),
	}
}

func feature(from holm.Feature) wit_types.Tuple2[string, holm_policy_features.Value] {
	return wit_types.Tuple2[string, holm_policy_features.Value]{F0: from.Name, F1: value(from.Value)}
}

func value(from holm.FeatureValue) holm_policy_features.Value {
	switch value := from.(type) {
	case holm.Text:
		return holm_policy_features.MakeValueText(string(value))
	case holm.Integer:
		return holm_policy_features.MakeValueInteger(int64(value))
	case holm.Number:
		return holm_policy_features.MakeValueNumber(float64(value))
	case holm.Flag:
		return holm_policy_features.MakeValueFlag(bool(value))
	default:
		return holm_policy_features.MakeValueBytes(value.(holm.Bytes))
	}
}
