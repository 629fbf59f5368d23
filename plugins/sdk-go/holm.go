// Package holm is what a policy in Go is written with. A policy is a type with Configure and Manifest, and one method
// for each hook that it exports; its package main hands it to Serve.
//
// Arguments belong to the policy: it may keep them, change them, and return parts of them.
package holm

import (
	"errors"

	"holm/input"
	"holm/wit/types"
)

// Policy is what every policy has.
type Policy interface {
	// Configure reads the operator's table. It is called in every instance, before anything else. Fields that it
	// doesn't ask for are refused.
	Configure(table *Table) error
	// Manifest says what the policy is called and what its hooks read. It is called after Configure, for each hook
	// again, and says the same each time.
	Manifest() Manifest
}

// Manifest is what the host learns of a policy: Name and Version are shown to the operator.
type Manifest struct {
	Name, Version string
	Reads         Reads
	Experiments   []Experiment
}

// Reads has what each hook is given, in this order. A hook that is exported and reads nothing has an empty list that
// isn't nil: a policy that is silent about one of its hooks isn't loaded. A Key that is a recipe is left out.
type Reads struct {
	Key, Features, Admit, Route, Batch, Prefetch []input.Input
}

// Experiment is one whose arm the host draws, from a stable hash of Unit and by the weights.
type Experiment struct {
	Name string
	Unit input.Input
	Arms []Arm
}

// Arm is one of an experiment's, with its weight.
type Arm struct {
	Name   string
	Weight uint32
}

// Fault is an error with a code of the policy's own. Other errors get the code 1.
type Fault struct {
	Code   uint16
	Detail string
}

func (fault Fault) Error() string { return fault.Detail }

// FaultOf makes a fault of any error, for the host to show.
func FaultOf(err error) Fault {
	var fault Fault
	if !errors.As(err, &fault) {
		fault = Fault{1, err.Error()}
	}
	fault.Detail = String([]byte(fault.Detail))
	return fault
}

// Option is a value or none, which it begins as.
type Option[T any] = wit_types.Option[T]

// Some is an option with a value.
func Some[T any](value T) Option[T] { return wit_types.Some(value) }

var served Policy

// Serve names the policy of this component. Call it from init: main isn't called in a component.
func Serve(policy Policy) { served = policy }

// Served is the policy as something that has a hook. Not for use by hand.
func Served[Hook any]() (Hook, error) {
	hook, ok := served.(Hook)
	if !ok {
		return hook, errors.New("the policy has no method for this hook")
	}
	return hook, nil
}

// Key decides what the response to a request depends on.
type Key interface {
	Derive(values Values) (Verdict, error)
}

// Planner is a policy whose key the host makes by itself, of these parts. Such a policy needs no Derive, unless Plan
// returns none.
type Planner interface {
	Plan() ([]Part, error)
}

// Features extracts what matters in a request.
type Features interface {
	Extract(values Values) (Shape, error)
}

// Admit decides whether a response is stored. To agree it returns what is suggested.
type Admit interface {
	Decide(values Values, suggested Admission) (Admission, error)
}

// Route chooses which of the candidates gets a request.
type Route interface {
	Choose(values Values, candidates []Candidate) (Choice, error)
}

// Batch decides which items share a batch.
type Batch interface {
	Classify(values Values) (Class, error)
}

// Prefetch suggests which requests will follow.
type Prefetch interface {
	Suggest(values Values, hit bool) ([]Hint, error)
}
