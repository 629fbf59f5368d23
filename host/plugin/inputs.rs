//! Inputs as components write them: a kind and its arguments, all of them words, so that a kind which this node doesn't
//! know is refused by its name instead of making the component's type another one.

use std::str::FromStr;

use holm_bindings::holm::policy::facts::Input as RawInput;
use http::HeaderName;

use super::{error::Flaw, limits::plain};
use crate::policy::{Input, tokens::Encoding};

/// The kinds that this node knows, each with how many arguments it takes.
const KINDS: [(&str, usize); 24] = [
    ("method", 0),
    ("scheme", 0),
    ("authority", 0),
    ("path", 0),
    ("query", 1),
    ("query-all", 0),
    ("header", 1),
    ("cookie", 1),
    ("client-prefix", 1),
    ("client-region", 0),
    ("node-region", 0),
    ("body-digest", 0),
    ("body-json", 1),
    ("body-prefix", 1),
    ("body-length", 0),
    ("body-tokens", 2),
    ("feature", 1),
    ("arm", 1),
    ("response-status", 0),
    ("response-header", 1),
    ("response-length", 0),
    ("fetch-us", 1),
    ("clock", 1),
    ("pool-stats", 1),
];

const ENCODINGS: [Encoding; 2] = [Encoding::Cl100kBase, Encoding::O200kBase];

/// Bytes of a name or a pointer.
const ARGUMENT_BYTES_MAX: usize = 256;
/// Characters of an input in a message.
const SHOWN_CHARS_MAX: usize = 80;

/// Reads an input.
///
/// # Errors
/// Its kind isn't known here, or its arguments are invalid.
pub(super) fn read(raw: &RawInput) -> Result<Input, Flaw> {
    let arguments: Vec<&str> = raw.arguments.iter().map(String::as_str).collect();
    match (raw.kind.as_str(), &*arguments) {
        ("method", []) => Ok(Input::Method),
        ("scheme", []) => Ok(Input::Scheme),
        ("authority", []) => Ok(Input::Authority),
        ("path", []) => Ok(Input::Path),
        ("query", [parameter]) => name(raw, parameter).map(Input::Query),
        ("query-all", []) => Ok(Input::QueryAll),
        ("header", [field]) => header(raw, field).map(Input::Header),
        ("cookie", [cookie]) => name(raw, cookie).map(Input::Cookie),
        ("client-prefix", [bits]) => number(raw, bits, "not a number of bits up to 255").map(Input::ClientPrefix),
        ("client-region", []) => Ok(Input::ClientRegion),
        ("node-region", []) => Ok(Input::NodeRegion),
        ("body-digest", []) => Ok(Input::BodyDigest),
        ("body-json", [at]) => pointer(raw, at).map(Input::BodyJson),
        ("body-prefix", [bytes]) => number(raw, bytes, "not a number of bytes below 2^32").map(Input::BodyPrefix),
        ("body-length", []) => Ok(Input::BodyLength),
        ("body-tokens", [at, words]) => Ok(Input::BodyTokens(pointer(raw, at)?, encoding(raw, words)?)),
        ("feature", [feature]) => name(raw, feature).map(Input::Feature),
        ("arm", [experiment]) => name(raw, experiment).map(Input::Arm),
        ("response-status", []) => Ok(Input::ResponseStatus),
        ("response-header", [field]) => header(raw, field).map(Input::ResponseHeader),
        ("response-length", []) => Ok(Input::ResponseLength),
        ("fetch-us", [of]) => step(raw, of).map(Input::FetchUs),
        ("clock", [of]) => step(raw, of).map(Input::Clock),
        ("pool-stats", [pool]) => name(raw, pool).map(Input::PoolStats),
        _ => Err(unread(raw)),
    }
}

/// Returns the flaw of an input that no kind accepts.
fn unread(raw: &RawInput) -> Flaw {
    match KINDS.iter().find(|(kind, _)| *kind == raw.kind) {
        Some((_, 0)) => wrong(raw, "it takes no argument"),
        Some((_, 1)) => wrong(raw, "it takes one argument"),
        Some(_) => wrong(raw, "it takes two arguments"),
        None => Flaw::UnknownInput { input: written(raw), known: KINDS.map(|(kind, _)| kind).join(", ") },
    }
}

fn name(raw: &RawInput, name: &str) -> Result<String, Flaw> {
    let fits = (1..=ARGUMENT_BYTES_MAX).contains(&name.len());
    if fits { Ok(name.to_owned()) } else { Err(wrong(raw, "a name has 1 to 256 bytes")) }
}

fn header(raw: &RawInput, name: &str) -> Result<HeaderName, Flaw> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name.len() <= ARGUMENT_BYTES_MAX);
    parsed.ok_or_else(|| wrong(raw, "not the name of a header field"))
}

fn pointer(raw: &RawInput, pointer: &str) -> Result<String, Flaw> {
    let fits = pointer.len() <= ARGUMENT_BYTES_MAX && (pointer.is_empty() || pointer.starts_with('/'));
    if fits { Ok(pointer.to_owned()) } else { Err(wrong(raw, "not a pointer (RFC 6901) of at most 256 bytes")) }
}

fn encoding(raw: &RawInput, name: &str) -> Result<Encoding, Flaw> {
    let found = ENCODINGS.into_iter().find(|encoding| encoding.name() == name);
    found.ok_or_else(|| wrong(raw, "not an encoding that this node knows: cl100k-base or o200k-base"))
}

fn step(raw: &RawInput, digits: &str) -> Result<u32, Flaw> {
    const WRONG: &str = "a step is a number from 1 to 2^32 - 1";
    number::<u32>(raw, digits, WRONG).and_then(|step| if step > 0 { Ok(step) } else { Err(wrong(raw, WRONG)) })
}

/// Returns a number of decimal digits; `words` are the error for anything else.
fn number<N: FromStr>(raw: &RawInput, digits: &str, words: &'static str) -> Result<N, Flaw> {
    // Numbers of Rust may begin with a plus sign.
    let parsed = if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None };
    parsed.ok_or_else(|| wrong(raw, words))
}

fn wrong(raw: &RawInput, wrong: &'static str) -> Flaw {
    Flaw::Input { input: written(raw), wrong }
}

/// Returns an input as the contract's documentation writes it: `header(accept)`.
fn written(raw: &RawInput) -> String {
    if raw.arguments.is_empty() {
        return shown(&raw.kind);
    }
    shown(&format!("{}({})", raw.kind, raw.arguments.join(", ")))
}

/// Returns a component's text, fit for a message.
pub(super) fn shown(words: &str) -> String {
    plain(words, SHOWN_CHARS_MAX)
}

/// Returns an input as a component writes it.
#[cfg(test)]
pub(super) fn raw(kind: &str, arguments: &[&str]) -> RawInput {
    RawInput { kind: kind.to_owned(), arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read_and_shown_as_it_is_written() {
        for (kind, count) in KINDS {
            let arguments: &[&str] = match (kind, count) {
                ("body-tokens", 2) => &["/messages", "o200k-base"],
                ("body-json", 1) => &["/model"],
                ("client-prefix" | "body-prefix" | "fetch-us" | "clock", 1) => &["24"],
                (_, 1) => &["accept"],
                (_, 0) => &[],
                other => panic!("{other:?}"),
            };
            let raw = raw(kind, arguments);
            assert_eq!(read(&raw).map(|input| input.to_string()), Ok(written(&raw)));
            let many = RawInput { arguments: vec!["1".to_owned(); count + 1], ..raw };
            let flaw = read(&many).unwrap_err().to_string();
            assert!(flaw.contains(": it takes "), "{flaw}");
        }
    }

    #[test]
    fn an_unknown_kind_is_named_beside_those_that_are_known() {
        for (kind, arguments, wanted) in [
            ("moon-phase", &["full"][..], "input moon-phase(full) is none that this node knows: method, scheme, "),
            ("Header", &["accept"], "input Header(accept) is none that this node knows"),
            ("", &[], "input  is none that this node knows"),
            ("header(accept)", &[], "input header(accept) is none that this node knows"),
        ] {
            let flaw = read(&raw(kind, arguments)).unwrap_err();
            assert!(matches!(flaw, Flaw::UnknownInput { .. }));
            assert!(flaw.to_string().starts_with(wanted), "{flaw}");
            assert!(flaw.to_string().ends_with("clock, pool-stats"), "{flaw}");
        }
    }

    #[test]
    fn arguments_that_make_no_sense_are_named() {
        let long = "c".repeat(ARGUMENT_BYTES_MAX + 1);
        for (kind, arguments, wanted) in [
            ("header", &[][..], "input header: it takes one argument"),
            ("header", &["a b"], "input header(a b): not the name of a header field"),
            ("path", &["x", "y"], "input path(x, y): it takes no argument"),
            ("body-tokens", &["/messages"], "input body-tokens(/messages): it takes two arguments"),
            ("body-tokens", &["/m", "p50k"], "input body-tokens(/m, p50k): not an encoding that this node knows"),
            ("query", &[""], "input query(): a name has 1 to 256 bytes"),
            ("cookie", &[&*long], "input cookie(ccc"),
            ("response-header", &[&*long], "input response-header(ccc"),
            ("body-json", &["model"], "input body-json(model): not a pointer"),
            ("body-json", &[&*format!("/{long}")], "input body-json(/ccc"),
            ("client-prefix", &["256"], "input client-prefix(256): not a number of bits up to 255"),
            ("client-prefix", &["+24"], "input client-prefix(+24): not a number"),
            ("body-prefix", &[""], "input body-prefix(): not a number of bytes"),
            ("body-prefix", &["4294967296"], "input body-prefix(4294967296): not a number of bytes"),
            ("clock", &["0"], "input clock(0): a step is a number from 1"),
            ("fetch-us", &["-1"], "input fetch-us(-1): a step is a number from 1"),
            ("clock", &["1m\n"], "input clock(1m?): a step is a number from 1"),
        ] {
            let flaw = read(&raw(kind, arguments)).unwrap_err().to_string();
            assert!(flaw.starts_with(wanted) && flaw.len() < 200, "{flaw}");
        }
        assert_eq!(read(&raw("body-json", &[""])), Ok(Input::BodyJson(String::new())), "the whole body");
        assert_eq!(read(&raw("client-prefix", &["0"])), Ok(Input::ClientPrefix(0)));
    }
}
