module policies/{{name}}

go 1.25

require holm v0.0.0

// The SDK and the bindings, which `holm policy build` writes there.
replace holm => ./gen
