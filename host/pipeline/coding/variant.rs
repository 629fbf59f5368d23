//! What variants of a response say of themselves, and what replies say of the variants that other clients may get.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, VARY},
};

use crate::{
    cache::{
        entry::{Head, Layout, Object},
        vary::{self, Vary},
    },
    message::delta::{AVAILABLE_DICTIONARY, USE_AS_DICTIONARY},
};

/// Says that the response depends on what the client accepts, unless that is said.
pub(in crate::pipeline) fn name_in_vary(headers: &mut HeaderMap) {
    add_to_vary(headers, &ACCEPT_ENCODING);
}

/// Says that a response depends on a request header field, unless it says so already.
pub(in crate::pipeline) fn add_to_vary(headers: &mut HeaderMap, name: &HeaderName) {
    if lacks(headers, name) {
        headers.append(VARY, HeaderValue::from(name.clone()));
    }
}

/// Says that it depends on the client's dictionary as well (RFC 9842, section 6.2).
pub(super) fn name_dictionary_in_vary(headers: &mut HeaderMap) {
    let names = match (lacks(headers, &ACCEPT_ENCODING), lacks(headers, &AVAILABLE_DICTIONARY)) {
        (true, true) => "accept-encoding, available-dictionary",
        (true, false) => "accept-encoding",
        (false, true) => "available-dictionary",
        (false, false) => return,
    };
    headers.append(VARY, HeaderValue::from_static(names));
}

fn lacks(headers: &HeaderMap, name: &HeaderName) -> bool {
    match vary::read(headers) {
        Vary::Any => false,
        Vary::By(names) => !names.contains(name),
        Vary::No => true,
    }
}

/// What a reply says of the forms of its response that other clients may get.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Said {
    /// Others may get it in a coding.
    pub(super) by_coding: bool,
    /// Others may get it as a delta.
    pub(super) by_dictionary: bool,
    /// How it is a dictionary for later responses.
    pub(super) use_as: Option<HeaderValue>,
}

impl Said {
    /// Adds that to a reply's header fields.
    pub(in crate::pipeline) fn write(&self, headers: &mut HeaderMap) {
        if self.by_dictionary {
            name_dictionary_in_vary(headers);
        } else if self.by_coding {
            name_in_vary(headers);
        }
        if let Some(field) = &self.use_as {
            headers.insert(USE_AS_DICTIONARY, field.clone());
        }
    }
}

/// Returns the variant of a stored response in a coding, with a strong validator of its own (RFC 9110, section 8.8.3).
pub(super) fn variant(original: &Head, coding: &'static str, body: Bytes) -> Arc<Object> {
    let mut head = variant_head(original, coding, &body);
    name_in_vary(&mut head.headers);
    Object::new(head, body)
}

/// Returns the head of a variant with this body, which has yet to say what it varies by.
pub(super) fn variant_head(original: &Head, coding: &'static str, body: &[u8]) -> Head {
    let mut head = Head { length: body.len() as u64, layout: Layout::Whole, ..original.clone() };
    let digest = blake3::hash(body).to_hex();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{}-{coding}\"", &digest[..32])) {
        head.headers.insert(ETAG, tag);
    }
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(ACCEPT_RANGES);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_said_once() {
        let both = "accept-encoding, available-dictionary";
        for (given, by_coding, by_dictionary, wanted) in [
            (&[][..], false, false, &[][..]),
            (&[], true, false, &["accept-encoding"]),
            (&[], true, true, &[both]),
            (&[], false, true, &[both]),
            (&["Accept-Encoding"], true, true, &["Accept-Encoding", "available-dictionary"]),
            (&["Available-Dictionary"], true, true, &["Available-Dictionary", "accept-encoding"]),
            (&[both], true, true, &[both]),
            (&["*"], true, true, &["*"]),
            (&["origin"], true, false, &["origin", "accept-encoding"]),
        ] {
            let mut headers: HeaderMap = given.iter().map(|line| (VARY, HeaderValue::from_static(line))).collect();
            Said { by_coding, by_dictionary, use_as: None }.write(&mut headers);
            let lines: Vec<&str> = headers.get_all(VARY).iter().map(|line| line.to_str().unwrap()).collect();
            assert_eq!(lines, wanted, "{given:?} {by_coding} {by_dictionary}");
        }
    }
}
