// Package export_holm_policy_admit exports the hook of the policy to the host. The bindings call it.
package export_holm_policy_admit

import (
	"holm"
	"holm/holm_policy_admit"
	"holm/holm_policy_facts"
	"holm/input"
	"holm/internal/result"
	"holm/wit/types"
)

// Reads returns the inputs of Decide.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return result.Reads(func(reads holm.Reads) []input.Input { return reads.Admit })
}

// Decide has the policy decide about a response.
func Decide(
	values holm_policy_admit.Values, suggested holm_policy_admit.Admission,
) wit_types.Result[holm_policy_admit.Admission, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	var given holm.Admission
	policy, err := holm.Served[holm.Admit]()
	if err == nil {
		given, err = policy.Decide(values, suggestion(suggested))
	}
	return result.Of(given, err, admission)
}

func suggestion(from holm_policy_admit.Admission) holm.Admission {
	switch from.Tag() {
	case holm_policy_admit.AdmissionStore:
		return holm.Storage(from.Store())
	case holm_policy_admit.AdmissionMarkUncacheable:
		return holm.Uncacheable(from.MarkUncacheable())
	default:
		return holm.Pass(from.Pass())
	}
}

func admission(from holm.Admission) holm_policy_admit.Admission {
	switch admission := from.(type) {
	case holm.Storage:
		return holm_policy_admit.MakeAdmissionStore(holm_policy_admit.Storage(admission))
	case holm.Uncacheable:
		return holm_policy_admit.MakeAdmissionMarkUncacheable(uint64(admission))
	default:
		return holm_policy_admit.MakeAdmissionPass(string(admission.(holm.Pass)))
	}
}
