// Package input names what a hook may read of a request. The contract, wit/policy.wit, says what each of them is.
package input

// Input is one thing to read. Kind is its place in the contract.
type Input struct {
	Kind   uint8
	Name   string
	Number uint32
}

// Encoding is a vocabulary that tokens are counted by.
type Encoding uint32

// OpenAI's vocabularies: of GPT-4, and of GPT-4o and later.
const (
	Cl100kBase Encoding = iota
	O200kBase
)

// The kinds of input, in the order of the contract.
const (
	kindMethod uint8 = iota
	kindScheme
	kindAuthority
	kindPath
	kindQuery
	kindQueryAll
	kindHeader
	kindCookie
	kindClientPrefix
	kindBodyDigest
	kindBodyJSON
	kindBodyPrefix
	kindBodyLength
	kindBodyTokens
	kindFeature
	kindArm
	kindResponseStatus
	kindResponseHeader
	kindResponseLength
	kindFetchUs
	kindClock
	kindPoolStats
)

// What every request has.
func Method() Input              { return Input{Kind: kindMethod} }
func Scheme() Input              { return Input{Kind: kindScheme} }
func Authority() Input           { return Input{Kind: kindAuthority} }
func Path() Input                { return Input{Kind: kindPath} }
func Query(name string) Input    { return Input{Kind: kindQuery, Name: name} }
func QueryAll() Input            { return Input{Kind: kindQueryAll} }
func Header(name string) Input   { return Input{Kind: kindHeader, Name: name} }
func Cookie(name string) Input   { return Input{Kind: kindCookie, Name: name} }
func ClientPrefix(b uint8) Input { return Input{Kind: kindClientPrefix, Number: uint32(b)} }

// The body of a request.
func BodyDigest() Input             { return Input{Kind: kindBodyDigest} }
func BodyJSON(pointer string) Input { return Input{Kind: kindBodyJSON, Name: pointer} }
func BodyPrefix(bytes uint32) Input { return Input{Kind: kindBodyPrefix, Number: bytes} }
func BodyLength() Input             { return Input{Kind: kindBodyLength} }
func BodyTokens(pointer string, encoding Encoding) Input {
	return Input{Kind: kindBodyTokens, Name: pointer, Number: uint32(encoding)}
}

// What the policy itself, or the host, made of the request.
func Feature(name string) Input   { return Input{Kind: kindFeature, Name: name} }
func Arm(experiment string) Input { return Input{Kind: kindArm, Name: experiment} }

// The response, for the hook admit alone.
func ResponseStatus() Input            { return Input{Kind: kindResponseStatus} }
func ResponseHeader(name string) Input { return Input{Kind: kindResponseHeader, Name: name} }
func ResponseLength() Input            { return Input{Kind: kindResponseLength} }
func FetchUs(multiple uint32) Input    { return Input{Kind: kindFetchUs, Number: multiple} }

// What changes by itself.
func Clock(multiple uint32) Input { return Input{Kind: kindClock, Number: multiple} }
func PoolStats(pool string) Input { return Input{Kind: kindPoolStats, Name: pool} }
