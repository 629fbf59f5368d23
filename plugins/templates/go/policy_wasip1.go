package main

// What the host calls. It links for WebAssembly only, and this file's name keeps it out of `go test`.
import _ "holm/wit_exports"
