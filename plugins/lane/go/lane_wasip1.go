package main

// The exports to the host. They link for WebAssembly only, and this file's name keeps it out of `go test`.
import _ "holm/wit_exports"
