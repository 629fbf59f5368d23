//! What a QUERY asks for beside its URL, as its key has it (RFC 10008, section 2.7): its content and the fields that
//! describe it. Pure.
//!
//! Two requests have the same digest only if every origin has to take their contents for the same. So only differences
//! are left out that mean nothing in the content's own format: content codings, and in JSON white space, the order of
//! members and the spelling of characters. Numbers keep their written form, and what isn't JSON, or names a member
//! twice, is compared byte by byte.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use thiserror::Error;

use super::{
    facts,
    json::Json,
    key::header_fields,
    material::{Material, spell},
};
use crate::message::coding::{self, Undecodable};

/// Whether differences without meaning are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// They are.
    Canonical,
    /// They aren't: the content counts as it was sent.
    Exact,
}

/// Why a QUERY has no key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unkeyable {
    /// Its media type isn't known, without which its content means nothing (RFC 10008, section 2.1).
    #[error("it has no media type, or several")]
    MediaType,
    /// Its content is longer than what is looked up.
    #[error("its content has more than {bytes_max} bytes")]
    TooLarge {
        /// Bytes that are allowed.
        bytes_max: u64,
    },
    /// Its content can't be decoded within the limits.
    #[error(transparent)]
    Coding(#[from] Undecodable),
}

/// Returns the digest of what a QUERY with these header fields and this body asks for.
///
/// # Errors
/// [`Unkeyable`]: it is no request that others could be equal to.
pub fn digest(headers: &HeaderMap, body: &Bytes, form: Form, bytes_max: u64) -> Result<[u8; 32], Unkeyable> {
    if body.len() as u64 > bytes_max {
        return Err(Unkeyable::TooLarge { bytes_max });
    }
    let essence = essence(headers)?;
    let mut material = Digest::default();
    header_fields(headers, &describing(headers, form), &mut material);
    match form {
        Form::Exact => {
            material.part(Some(b"as-sent"));
            material.part(Some(body));
        }
        Form::Canonical => {
            let content = coding::decode(headers, body, bytes_max)?;
            let json = if is_json(&essence) && facts::is_unicode(headers) { Json::read(&content) } else { None };
            match json {
                Some(json) => {
                    material.part(Some(b"json"));
                    material.part(Some(json.to_string().as_bytes()));
                }
                None => {
                    material.part(Some(b"content"));
                    material.part(Some(&content));
                }
            }
        }
    }
    Ok(*material.0.finalize().as_bytes())
}

/// Returns the media type without its parameters, in lower case.
fn essence(headers: &HeaderMap) -> Result<Vec<u8>, Unkeyable> {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(Unkeyable::MediaType) };
    let essence = line.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    // Several in one line are several as well.
    let is_one = essence.iter().filter(|byte| **byte == b'/').count() == 1 && !line.as_bytes().contains(&b',');
    if is_one { Ok(essence.to_ascii_lowercase()) } else { Err(Unkeyable::MediaType) }
}

/// Whether content of this media type is JSON (RFC 8259; RFC 6839, section 3.1).
fn is_json(essence: &[u8]) -> bool {
    matches!(essence, b"application/json" | b"text/json") || essence.ends_with(b"+json")
}

/// Returns the fields that describe the content, sorted by name: what they say may decide how an origin reads it. The
/// coding is none of them where it is taken off, nor is the length.
fn describing(headers: &HeaderMap, form: Form) -> Vec<HeaderName> {
    let describes = |name: &&HeaderName| {
        let is_digest = matches!(name.as_str(), "digest" | "repr-digest");
        let is_left_out = **name == CONTENT_LENGTH || **name == CONTENT_ENCODING && form == Form::Canonical;
        (name.as_str().starts_with("content-") || is_digest) && !is_left_out
    };
    let mut names: Vec<HeaderName> = headers.keys().filter(describes).cloned().collect();
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names
}

#[derive(Default)]
struct Digest(blake3::Hasher);

impl Material for Digest {
    fn part(&mut self, part: Option<&[u8]>) {
        spell(part, |bytes| {
            self.0.update(bytes);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, HashMap},
        io::Write,
    };

    use http::HeaderValue;
    use serde_json::Value;

    use super::*;

    const MAX: u64 = 4_096;
    const JSON: (&str, &str) = ("content-type", "application/json");

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        lines.iter().map(line).collect()
    }

    fn keyed(lines: &[(&'static str, &'static str)], body: &[u8]) -> Result<[u8; 32], Unkeyable> {
        digest(&headers(lines), &Bytes::copy_from_slice(body), Form::Canonical, MAX)
    }

    fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Section 2.7: "caches MAY remove semantically insignificant differences from request content".
    #[test]
    fn what_means_the_same_has_the_same_key() {
        for (content_type, one, other) in [
            ("application/json", r#"{"a":1,"b":[true]}"#, "{ \"b\" : [ true ],\n\"a\":1 }"),
            ("Application/JSON; charset=\"UTF-8\"", r#"{"a":"x"}"#, r#"{"\u0061":"\u0078"}"#),
            ("application/sql+json", "{\"a\":\"\u{e9}\"}", r#"{"a":"\u00e9"}"#),
            ("text/json", "[1]", " [1]\n"),
        ] {
            let of = |body: &str| keyed(&[("content-type", content_type)], body.as_bytes()).unwrap();
            assert_eq!(of(one), of(other), "{content_type}: {one} {other}");
        }
        let coded = |level| keyed(&[JSON, ("content-encoding", "gzip")], &gzip(b"{ \"a\":1 }", level)).unwrap();
        assert_eq!(coded(1), coded(9));
        assert_eq!(coded(1), keyed(&[JSON], br#"{"a":1}"#).unwrap());
        assert_eq!(coded(1), keyed(&[JSON, ("content-length", "7")], br#"{"a":1}"#).unwrap());
    }

    /// Section 2.7: the key "MUST incorporate the request content and related metadata".
    #[test]
    fn what_may_mean_another_thing_has_another_key() {
        const SQL: (&str, &str) = ("content-type", "application/sql");
        let requests: [(&[(&str, &str)], &[u8]); 22] = [
            (&[JSON], b""),
            (&[JSON], b"null"),
            (&[JSON], b"{}"),
            (&[JSON], br#"{"a":1}"#),
            (&[JSON], br#"{"a":1.0}"#),
            (&[JSON], br#"{"a":1e0}"#),
            (&[JSON], br#"{"a":"1"}"#),
            (&[JSON], br#"{"A":1}"#),
            (&[JSON], br#"{"a":[1,2]}"#),
            (&[JSON], br#"{"a":[2,1]}"#),
            (&[JSON], br#"{"a":9007199254740993}"#),
            (&[JSON], br#"{"a":9007199254740992}"#),
            // A member that is named twice: which one counts is the reader's choice.
            (&[JSON], br#"{"a":1,"a":2}"#),
            (&[JSON], br#"{"a":2,"a":1}"#),
            (&[JSON], br#"{"a": 1,"a":2}"#),
            (&[("content-type", "application/json; v=2")], br#"{"a":1}"#),
            (&[("content-type", "application/json; charset=latin1")], br#"{"a":1}"#),
            (&[("content-type", "application/x-ndjson")], br#"{"a":1}"#),
            (&[SQL], b"select 1"),
            (&[SQL], b"select  1"),
            (&[SQL, ("content-language", "en")], b"select 1"),
            (&[SQL, ("repr-digest", "sha-256=:YQ==:")], b"select 1"),
        ];
        let keys: Vec<[u8; 32]> = requests.iter().map(|(lines, body)| keyed(lines, body).unwrap()).collect();
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{:?}", requests[at]);
        }
    }

    /// Section 2.7: clients can ask by `no-transform` for none of it, and so can an operator.
    #[test]
    fn exactly_means_as_it_was_sent() {
        let exact = |lines: &[(&'static str, &'static str)], body: &[u8]| {
            digest(&headers(lines), &Bytes::copy_from_slice(body), Form::Exact, MAX).unwrap()
        };
        let keys = [
            exact(&[JSON], br#"{"a":1}"#),
            exact(&[JSON], br#"{"a": 1}"#),
            exact(&[JSON, ("content-encoding", "br")], br#"{"a":1}"#),
            keyed(&[JSON], br#"{"a":1}"#).unwrap(),
        ];
        assert!((1..keys.len()).all(|at| !keys[..at].contains(&keys[at])));
        assert_eq!(keys[0], exact(&[JSON], br#"{"a":1}"#));
    }

    #[test]
    fn what_has_no_key() {
        let broken = Unkeyable::Coding(Undecodable::Broken);
        let unknown = Unkeyable::Coding(Undecodable::Unknown("snappy".to_owned()));
        let bomb = gzip(&[b' '; 5_000], 9);
        let large = Unkeyable::Coding(Undecodable::TooLarge { bytes_max: MAX });
        for (lines, body, wanted) in [
            (&[][..], &b"{}"[..], Unkeyable::MediaType),
            (&[JSON, JSON], b"{}", Unkeyable::MediaType),
            (&[("content-type", "")], b"{}", Unkeyable::MediaType),
            (&[("content-type", "json")], b"{}", Unkeyable::MediaType),
            (&[("content-type", "application/json, text/plain")], b"{}", Unkeyable::MediaType),
            (&[JSON], &[b' '; 4_097], Unkeyable::TooLarge { bytes_max: MAX }),
            (&[JSON, ("content-encoding", "gzip")], b"{}", broken),
            (&[JSON, ("content-encoding", "snappy")], b"{}", unknown),
            (&[JSON, ("content-encoding", "gzip")], &bomb, large),
        ] {
            assert_eq!(keyed(lines, body), Err(wanted), "{lines:?}");
        }
    }

    /// What a body means, by another reader: its value with sorted members, or itself where that may not be all of it.
    /// `serde_json` keeps the written form of numbers here.
    fn meaning(body: &[u8]) -> Vec<u8> {
        fn sorted(value: &Value) -> String {
            match value {
                Value::Object(members) => {
                    let members: BTreeMap<&String, String> =
                        members.iter().map(|(name, value)| (name, sorted(value))).collect();
                    format!("{members:?}")
                }
                Value::Array(items) => format!("{:?}", items.iter().map(sorted).collect::<Vec<_>>()),
                other => other.to_string(),
            }
        }
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => sorted(&value).into_bytes(),
            Err(_) => body.to_vec(),
        }
    }

    /// Changes a body in one place, mostly so that it is still JSON.
    fn mutate(body: &mut Vec<u8>, random: &mut fastrand::Rng) {
        const PIECES: [&[u8]; 22] = [
            b" ",
            b"\n",
            b",",
            b":",
            b"\"",
            b"{",
            b"}",
            b"[",
            b"]",
            b"0",
            b"1",
            b"-",
            b".",
            b"e",
            b"\\",
            b"a",
            b"A",
            b"true",
            b"null",
            b"\"a\":1,",
            b"1,",
            b"\xc3\xa9",
        ];
        let at = random.usize(..=body.len());
        match random.u8(..6) {
            0 if at < body.len() => {
                let _ = body.remove(at);
            }
            1 if at < body.len() => body[at] = random.choice(PIECES).map_or(b'0', |piece| piece[0]),
            2 if at + 1 < body.len() => body.swap(at, at + 1),
            3 => {
                // A piece of it a second time: members that are named twice.
                let end = random.usize(at..=body.len());
                let piece = body[at..end].to_vec();
                let place = random.usize(..=body.len());
                drop(body.splice(place..place, piece));
            }
            _ => {
                let piece = random.choice(PIECES).unwrap_or(b" ");
                drop(body.splice(at..at, piece.iter().copied()));
            }
        }
        body.truncate(400);
    }

    /// Whatever clients send: two bodies with one key mean the same. A million of them where the build is fast.
    #[test]
    fn no_mutation_of_a_body_hits_another() {
        const BODIES: [&str; 6] = [
            r#"{"select":["name","age"],"where":{"age":{"gt":21},"city":"K\"ln"},"limit":10}"#,
            r#"{"query":{"bool":{"must":[{"match":{"a":"x"}},{"range":{"b":{"gte":1.0,"lt":2e3}}}]}},"from":0}"#,
            r#"[1,10,100,-1,0.1,1e1,true,false,null,"","a","aa",{},[],{"":{}}]"#,
            r#"{"a":{"a":{"a":1}},"b":{"a":{"a":1}},"A":[{"a":1},{"a":1}]}"#,
            r#"{"a":12345678901234567890,"b":0.1000000000000000055}"#,
            "select name from people where age > 21",
        ];
        let count = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
        let (headers, mut random) = (headers(&[JSON]), fastrand::Rng::with_seed(10_008));
        let mut known: HashMap<[u8; 32], [u8; 32]> = HashMap::new();
        let (mut hits, mut body) = (0_u32, Vec::new());
        for number in 0..count {
            // Now one mutation of an original, now one more of what the last one led to.
            if number % 4 == 0 {
                body = BODIES[number / 4 % BODIES.len()].as_bytes().to_vec();
            }
            mutate(&mut body, &mut random);
            let bytes = Bytes::copy_from_slice(&body);
            let key = digest(&headers, &bytes, Form::Canonical, MAX).unwrap();
            let meaning = *blake3::hash(&meaning(&body)).as_bytes();
            let first = *known.entry(key).or_insert(meaning);
            assert_eq!(first, meaning, "a false hit: {}", String::from_utf8_lossy(&body));
            hits += u32::from(known.len() < number + 1);
        }
        assert!(hits > 0, "the test says nothing if no two bodies are the same");
    }
}
