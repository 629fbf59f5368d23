// The policy `lane` in Go. What it does is in ../README.md; the same in other languages lies beside this folder.
package main

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"holm"
	"holm/input"
)

type lane struct {
	tenantHeader string
	premium      []string
}

func init() { holm.Serve(&lane{}) }

func main() {}

func (lane *lane) Configure(table *holm.Table) error {
	lane.tenantHeader = table.Text("tenant_header", "x-tenant")
	lane.premium = table.Texts("premium")
	return nil
}

func (lane *lane) Manifest() holm.Manifest {
	tenant, model, urgent := input.Header(lane.tenantHeader), input.BodyJSON("/model"), input.Feature("urgent")
	size := []holm.Arm{{Name: "small", Weight: 9}, {Name: "large", Weight: 1}}
	return holm.Manifest{
		Name:    "lane",
		Version: "0.1.0",
		Reads: holm.Reads{
			Key: []input.Input{
				tenant, input.Authority(), input.Path(), input.QueryAll(), model, input.BodyJSON("/messages"),
			},
			Features: []input.Input{input.BodyJSON("/priority"), input.BodyLength(), tenant},
			Admit:    []input.Input{input.ResponseStatus(), input.ResponseHeader("content-type"), tenant},
			Route:    []input.Input{urgent, input.Feature("premium"), input.Arm("size")},
			Batch:    []input.Input{tenant, urgent, model},
			Prefetch: []input.Input{input.Path(), input.Query("page")},
		},
		Experiments: []holm.Experiment{{Name: "size", Unit: input.Header("x-user"), Arms: size}},
	}
}

// The tenant first, so that no two tenants share a response.
func (lane *lane) Derive(values holm.Values) (holm.Verdict, error) {
	tenant, _ := values.Bytes(0)
	if len(tenant) == 0 {
		return holm.Bypass("no tenant"), nil
	}
	parts := holm.Lookup{holm.Lower(tenant)}
	for i := 1; i < 6; i++ {
		parts = append(parts, values.Slot(i))
	}
	return parts, nil
}

func (lane *lane) Extract(values holm.Values) (holm.Shape, error) {
	urgent := values.Text(0) == `"high"`
	size, _ := strconv.ParseInt(values.Text(1), 10, 64)
	tenant, present := values.Bytes(2)
	premium := present && slices.Contains(lane.premium, string(holm.Lower(tenant)))
	shape := holm.Shape{
		Features: []holm.Feature{
			{Name: "urgent", Value: holm.Flag(urgent)},
			{Name: "premium", Value: holm.Flag(premium)},
			{Name: "size", Value: holm.Integer(size)},
		},
		Edits:   []holm.Edit{{Pointer: "/user"}, {Pointer: "/metadata"}},
		Headers: []holm.HeaderEdit{{Name: "x-lane", Value: holm.Some("slow")}, {Name: "x-debug"}},
	}
	if urgent {
		shape.Edits = append(shape.Edits, holm.Edit{Pointer: "/stream", Value: holm.Some("false")})
	}
	if urgent || premium {
		shape.Headers[0].Value = holm.Some("fast")
	}
	return shape, nil
}

func (lane *lane) Decide(values holm.Values, suggested holm.Admission) (holm.Admission, error) {
	status := values.Text(0)
	storage, stored := suggested.(holm.Storage)
	switch {
	case stored && status == "200":
		if strings.HasPrefix(values.Text(1), "text/event-stream") {
			storage.TtlMs = 0
		}
		storage.GraceMs = storage.TtlMs / 2
		if tenant, _ := values.Bytes(2); len(tenant) > 0 {
			storage.Tags = append(storage.Tags, "tenant:"+holm.String(holm.Lower(tenant)))
		}
		return storage, nil
	case status == "404":
		return holm.Uncacheable(5000), nil
	default:
		return suggested, nil
	}
}

func (lane *lane) Choose(values holm.Values, candidates []holm.Candidate) (holm.Choice, error) {
	urgent, large := values.Text(0) == "true", values.Text(2) == "large"
	var choice holm.Choice
	for i, candidate := range candidates {
		if !candidate.Draining {
			choice.Order = append(choice.Order, uint32(i))
		}
	}
	if choice.Order == nil {
		for i := range candidates {
			choice.Order = append(choice.Order, uint32(i))
		}
	}
	slices.SortStableFunc(choice.Order, func(a, b uint32) int {
		return better(candidates[a], candidates[b], large, urgent)
	})
	if len(choice.Order) > 0 && values.Text(1) == "true" {
		choice.HedgeAfterUs = holm.Some(uint32(min(max(candidates[choice.Order[0]].P99Us, 1000), math.MaxUint32)))
	}
	if urgent {
		choice.DeadlineUs = holm.Some[uint32](30_000_000)
	}
	return choice, nil
}

// Negative if `a` is better than `b`.
func better(a, b holm.Candidate, large, urgent bool) int {
	aLarge, bLarge := strings.Contains(a.Model, "large"), strings.Contains(b.Model, "large")
	switch {
	case large && aLarge && !bLarge:
		return -1
	case large && bLarge && !aLarge:
		return 1
	case urgent:
		return cmp.Compare(a.P50Us, b.P50Us)
	default:
		return cmp.Compare(a.CostMicro, b.CostMicro)
	}
}

func (lane *lane) Classify(values holm.Values) (holm.Class, error) {
	model, _ := values.Bytes(2)
	class := holm.Class{Group: model, Priority: 1}
	if values.Text(1) == "true" {
		class.Priority = 9
		class.MaxWaitUs = holm.Some[uint32](0)
	}
	return class, nil
}

// A client that reads one page of a list reads the next.
func (lane *lane) Suggest(values holm.Values, hit bool) ([]holm.Hint, error) {
	page, _ := values.Bytes(1)
	if !hit || len(page) == 0 || len(page) > 6 || len(bytes.Trim(page, "0123456789")) > 0 {
		return nil, nil
	}
	number, err := strconv.Atoi(string(page))
	path := values.Text(0) + "?page=" + strconv.Itoa(number+1)
	return []holm.Hint{{Path: path, ConfidencePpm: 900_000}}, err
}
