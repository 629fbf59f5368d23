// Package input names what a hook may read of a request. The contract, wit/policy.wit, says what each of them is.
package input

import "strconv"

// Input is one thing to read: its kind and its arguments, as the contract calls them.
type Input struct {
	Kind      string
	Arguments []string
}

// Encoding is a vocabulary that tokens are counted by.
type Encoding string

// OpenAI's vocabularies: of GPT-4, and of GPT-4o and later.
const (
	Cl100kBase Encoding = "cl100k-base"
	O200kBase  Encoding = "o200k-base"
)

func of(kind string, arguments ...string) Input { return Input{Kind: kind, Arguments: arguments} }

func decimal(number uint32) string { return strconv.FormatUint(uint64(number), 10) }

// Inputs that every request has.
func Method() Input                 { return of("method") }
func Scheme() Input                 { return of("scheme") }
func Authority() Input              { return of("authority") }
func Path() Input                   { return of("path") }
func Query(name string) Input       { return of("query", name) }
func QueryAll() Input               { return of("query-all") }
func Header(name string) Input      { return of("header", name) }
func Cookie(name string) Input      { return of("cookie", name) }
func ClientPrefix(bits uint8) Input { return of("client-prefix", decimal(uint32(bits))) }
func ClientRegion() Input           { return of("client-region") }
func NodeRegion() Input             { return of("node-region") }

// The body of a request.
func BodyDigest() Input             { return of("body-digest") }
func BodyJSON(pointer string) Input { return of("body-json", pointer) }
func BodyPrefix(bytes uint32) Input { return of("body-prefix", decimal(bytes)) }
func BodyLength() Input             { return of("body-length") }
func BodyTokens(pointer string, encoding Encoding) Input {
	return of("body-tokens", pointer, string(encoding))
}

// Inputs that the policy itself, or the host, made of the request.
func Feature(name string) Input   { return of("feature", name) }
func Arm(experiment string) Input { return of("arm", experiment) }

// The response, for the hook admit alone.
func ResponseStatus() Input            { return of("response-status") }
func ResponseHeader(name string) Input { return of("response-header", name) }
func ResponseLength() Input            { return of("response-length") }
func FetchUs(multiple uint32) Input    { return of("fetch-us", decimal(multiple)) }

// Inputs that change by themselves.
func Clock(multiple uint32) Input { return of("clock", decimal(multiple)) }
func PoolStats(pool string) Input { return of("pool-stats", pool) }
