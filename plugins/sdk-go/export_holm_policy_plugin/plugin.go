// Package export_holm_policy_plugin exports the policy's configuration and manifest to the host. The bindings call it.
package export_holm_policy_plugin

import (
	"holm"
	"holm/holm_policy_diagnostics"
	"holm/holm_policy_facts"
	"holm/holm_policy_plugin"
	"holm/internal/result"
	"holm/wit/types"
)

func init() {
	holm.LogTo(holm.Logger{
		Enabled: func(level holm.Level) bool { return holm_policy_diagnostics.Enabled(uint8(level)) },
		Write: func(level holm.Level, message string) {
			holm_policy_diagnostics.Log(uint8(level), message)
		},
	})
}

// Configure hands the operator's table to the policy and returns its manifest.
func Configure(config string) wit_types.Result[holm_policy_plugin.Manifest, holm_policy_facts.Fault] {
	defer holm.ReportPanic()
	policy, err := holm.Served[holm.Policy]()
	if err == nil {
		err = configured(policy, config)
	}
	return result.Of(policy, err, manifest)
}

func configured(policy holm.Policy, config string) error {
	table := holm.NewTable(config)
	if err := policy.Configure(table); err != nil {
		return err
	}
	return table.Err()
}

func manifest(policy holm.Policy) holm_policy_plugin.Manifest {
	from := policy.Manifest()
	experiments := result.Each(from.Experiments, experiment)
	return holm_policy_plugin.Manifest{Name: from.Name, Version: from.Version, Experiments: experiments}
}

func experiment(from holm.Experiment) holm_policy_plugin.Experiment {
	arm := func(arm holm.Arm) wit_types.Tuple2[string, uint32] {
		return wit_types.Tuple2[string, uint32]{F0: arm.Name, F1: arm.Weight}
	}
	arms := result.Each(from.Arms, arm)
	return holm_policy_plugin.Experiment{Name: from.Name, Unit: result.Input(from.Unit), Arms: arms}
}
