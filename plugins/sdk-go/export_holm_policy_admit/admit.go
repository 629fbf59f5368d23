// Package export_holm_policy_admit answers the host for the policy. The bindings call it.
package export_holm_policy_admit

import (
	"holm"
	"holm/holm_policy_admit"
	"holm/holm_policy_facts"
	"holm/input"
	"holm/internal/answer"
	"holm/wit/types"
)

// Reads says what Decide is given.
func Reads() wit_types.Result[[]holm_policy_facts.Input, holm_policy_facts.Fault] {
	return answer.Reads(func(reads holm.Reads) []input.Input { return reads.Admit })
}

// Decide asks the policy about an answer.
func Decide(
	values holm_policy_admit.Values, suggested holm_policy_admit.Admission,
) wit_types.Result[holm_policy_admit.Admission, holm_policy_facts.Fault] {
	defer holm.TellOfPanic()
	var given holm.Admission
	policy, err := holm.Served[holm.Admit]()
	if err == nil {
		given, err = policy.Decide(values, suggestion(suggested))
	}
	return answer.Of(given, err, admission)
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
