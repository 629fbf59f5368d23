//! The `features` hook.

use bytes::Bytes;
use holm_bindings::exports::holm::policy::features::{Edit as RawEdit, Header, Shape as RawEdits, Value as RawValue};
use http::{HeaderName, HeaderValue};

use super::bounds::{counted, request_field, weighed};
use crate::{
    plugin::{
        exports::present,
        instance::{Instance, own_fault},
        limits::{EDITS_MAX, FEATURES_MAX, HEADERS_MAX, Limit, plain},
    },
    policy::{
        Fault, RequestEdits,
        edit::{Edit, Pointer},
        tenancy,
    },
};

/// Calls `extract`: what matters in one request.
pub(super) fn extract(instance: &mut Instance, limit: &Limit, values: &[Option<&[u8]>]) -> Result<RequestEdits, Fault> {
    let answer =
        instance.call(limit, |exports, store| present(exports.features.as_ref())?.call_extract(store, values))?;
    answer.map_err(|fault| own_fault(&fault)).and_then(|request_edits| checked(request_edits, limit))
}

fn checked(raw: RawEdits, limit: &Limit) -> Result<RequestEdits, Fault> {
    counted("features", &raw.features, FEATURES_MAX, limit)?;
    counted("edits", &raw.edits, EDITS_MAX, limit)?;
    counted("header fields", &raw.headers, HEADERS_MAX, limit)?;
    let features: Vec<_> = raw.features.into_iter().map(|(name, value)| (name, bytes(value))).collect();
    let sizes = features.iter().map(|(name, value)| name.len() + value.len());
    let edits = raw.edits.iter().map(|edit| edit.pointer.len() + edit.value.as_ref().map_or(0, String::len));
    let fields = raw.headers.iter().map(|field| field.name.len() + field.value.as_ref().map_or(0, String::len));
    weighed(sizes.chain(edits).chain(fields), limit)?;
    features.iter().try_for_each(|(name, value)| of_host(name, value))?;
    Ok(RequestEdits {
        features,
        edits: raw.edits.iter().map(edit).collect::<Result<_, _>>()?,
        headers: raw.headers.iter().map(field).collect::<Result<_, _>>()?,
    })
}

/// Returns a value as other hooks read it.
fn bytes(value: RawValue) -> Bytes {
    match value {
        RawValue::Text(text) => text.into(),
        RawValue::Integer(number) => number.to_string().into(),
        RawValue::Number(number) => number.to_string().into(),
        RawValue::Flag(flag) => Bytes::from_static(if flag { b"true" } else { b"false" }),
        RawValue::Bytes(bytes) => bytes.into(),
    }
}

/// Checks a feature by which the policy says something to the host.
fn of_host(name: &str, value: &[u8]) -> Result<(), Fault> {
    match tenancy::problem(name, value) {
        None => Ok(()),
        Some(problem) => Err(Fault::Malformed(format!("the feature `{}` {problem}", plain(name, 80)))),
    }
}

fn edit(raw: &RawEdit) -> Result<Edit, Fault> {
    let wrong = |what: &str| Fault::Malformed(format!("the edit of `{}` {what}", plain(&raw.pointer, 80)));
    let pointer = Pointer::parse(&raw.pointer).map_err(|_| wrong("has no pointer (RFC 6901)"))?;
    let value = raw.value.as_deref().map(serde_json::from_str).transpose();
    Ok(Edit { pointer, value: value.map_err(|_| wrong("has a value that isn't JSON"))? })
}

fn field(raw: &Header) -> Result<(HeaderName, Option<HeaderValue>), Fault> {
    request_field(&raw.name, raw.value.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_edits(
        edits: Vec<(&str, Option<&str>)>,
        headers: Vec<(&str, Option<&str>)>,
    ) -> Result<RequestEdits, Fault> {
        let edits =
            edits.into_iter().map(|(pointer, value)| RawEdit { pointer: pointer.into(), value: value.map(Into::into) });
        let headers =
            headers.into_iter().map(|(name, value)| Header { name: name.into(), value: value.map(Into::into) });
        checked(RawEdits { features: vec![], edits: edits.collect(), headers: headers.collect() }, &Limit::of_bytes(64))
    }

    #[test]
    fn values_are_what_other_hooks_read() {
        for (value, wanted) in [
            (RawValue::Text("ä".into()), "ä"),
            (RawValue::Integer(-7), "-7"),
            (RawValue::Number(0.5), "0.5"),
            (RawValue::Flag(true), "true"),
            (RawValue::Bytes(b"b".to_vec()), "b"),
        ] {
            assert_eq!(bytes(value), wanted);
        }
    }

    #[test]
    fn a_feature_that_is_the_hosts_has_a_value_that_makes_sense() {
        let of = |name: &str, value| {
            let features = vec![("f".to_owned(), RawValue::Integer(1)), (name.to_owned(), value)];
            checked(RawEdits { features, edits: vec![], headers: vec![] }, &Limit::of_bytes(64))
        };
        for value in [RawValue::Integer(4), RawValue::Number(4.0), RawValue::Text("4".into())] {
            assert_eq!(of("holm:tenant-weight", value).unwrap().tenancy().weight, Some(4));
        }
        for (name, value, words) in [
            ("holm:tenant-weight", RawValue::Number(0.5), "the feature `holm:tenant-weight` isn't a whole number"),
            ("holm:tenant", RawValue::Text(String::new()), "the feature `holm:tenant` has 0 bytes"),
            ("holm:x\n", RawValue::Flag(true), "the feature `holm:x?` is none that this node knows"),
        ] {
            let fault = of(name, value).unwrap_err();
            assert!(fault.kind() == "malformed" && fault.to_string().contains(words), "{fault}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (edits, headers, words) in [
            (vec![("a", None)], vec![], "the edit of `a` has no pointer"),
            (vec![("/a", Some("{"))], vec![], "the edit of `/a` has a value that isn't JSON"),
            (vec![], vec![("a b", None)], "the header field `a b` has no valid name"),
            (vec![], vec![("Content-Length", Some("1"))], "`Content-Length` is not a policy's to set"),
            (vec![("/a", None); EDITS_MAX + 1], vec![], "1025 edits; at most 1024"),
        ] {
            let fault = request_edits(edits, headers).unwrap_err().to_string();
            assert!(fault.contains(words), "{fault}");
        }
        assert!(matches!(
            request_edits(vec![("/a", Some(&format!("\"{}\"", "x".repeat(70))))], vec![]),
            Err(Fault::TooLarge { .. })
        ));
        let long = "x".repeat(70);
        assert!(matches!(request_edits(vec![], vec![("x-a", Some(&long))]), Err(Fault::TooLarge { bytes: 73, .. })));
        assert!(request_edits(vec![("", Some("1")), ("/a~1b", None)], vec![("X-A", None)]).is_ok());
    }
}
