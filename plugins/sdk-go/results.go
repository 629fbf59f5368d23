package holm

import "holm/input"

// Part is a part of a recipe.
type Part struct {
	Input     input.Input
	Transform Transform
}

// Transform is what the host does to a part of a recipe.
type Transform uint8

// The transforms of a part: nothing; ASCII letters to lower case; parameters sorted; everything from `?` on dropped;
// JSON in its canonical form.
const (
	Identity Transform = iota
	Lowercase
	SortQuery
	DropQuery
	JSONCanonical
)

// String is the contract's word for it.
func (transform Transform) String() string {
	return [...]string{"identity", "lowercase", "sort-query", "drop-query", "json-canonical"}[transform]
}

// Verdict is Lookup or Bypass.
type Verdict interface{ verdict() }

// Lookup is the parts of a key, 1 to 64.
type Lookup [][]byte

// Bypass leaves the cache out, for this reason.
type Bypass string

func (Lookup) verdict() {}
func (Bypass) verdict() {}

// Shape is what matters in a request, and the edits to what is sent to the origin.
type Shape struct {
	Features []Feature
	Edits    []Edit
	Headers  []HeaderEdit
}

// Feature is a value that other hooks read by name.
type Feature struct {
	Name  string
	Value FeatureValue
}

// Features of the host's: the name of the tenant that a request's items are served for, 1 to 256 bytes, and what it
// counts for beside others, 1 to 1,000; instead of what the route says.
const (
	Tenant       = "holm:tenant"
	TenantWeight = "holm:tenant-weight"
)

// FeatureValue is Text, Integer, Number, Flag or Bytes.
type FeatureValue interface{ feature() }

// The kinds of a feature's value.
type (
	Text    string
	Integer int64
	Number  float64
	Flag    bool
	Bytes   []byte
)

func (Text) feature()    {}
func (Integer) feature() {}
func (Number) feature()  {}
func (Flag) feature()    {}
func (Bytes) feature()   {}

// Edit sets what is at a pointer of the JSON body to a JSON text, or removes it.
type Edit struct {
	Pointer string
	Value   Option[string]
}

// HeaderEdit sets a header field of the request that is sent to the origin, or removes it.
type HeaderEdit struct {
	Name  string
	Value Option[string]
}

// Admission is Storage, Uncacheable or Pass.
type Admission interface{ admission() }

// Storage is how a response is stored. Lifetimes count from its arrival.
type Storage struct {
	TtlMs, GraceMs, StaleIfErrorMs, KeepMs uint64
	Tags, Vary                             []string
}

// Uncacheable keeps nothing and lets requests for the key go on without queueing, for so many milliseconds.
type Uncacheable uint64

// Pass keeps nothing, for this reason.
type Pass string

func (Storage) admission()     {}
func (Uncacheable) admission() {}
func (Pass) admission()        {}

// Candidate is one that may get the request, as the operator wrote it, and how it does at present.
type Candidate struct {
	Pool, Model      string
	Inflight, Queued uint32
	P50Us, P99Us     uint64
	ErrorPpm         uint32
	CostMicro        uint64
	Draining         bool
}

// Choice is the order in which candidates are tried, best first, by their indices.
type Choice struct {
	Order                    []uint32
	HedgeAfterUs, DeadlineUs Option[uint32]
}

// Class is what an item may share a batch with.
type Class struct {
	Group              []byte
	Priority           uint8
	Weight             uint32
	MaxWaitUs, MaxSize Option[uint32]
}

// Hint is a request that is likely to come.
type Hint struct {
	Path          string
	Headers       [][2]string
	ConfidencePpm uint32
}
