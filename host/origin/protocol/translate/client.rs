//! The client's side: what an item holds, and a result as the client wants it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_TYPE, HeaderValue},
    uri::PathAndQuery,
};
use serde_json::value::RawValue;

use super::content::{Content, parsed};
use crate::{
    config,
    message::target,
    origin::protocol::{
        contract::Protocol,
        fault::Malformed,
        item::{Item, ItemResponse, Terms, Upstream},
        json::{self, Node},
        json_array::JsonArray,
        kserve::{KServe, rows},
        msgpack::{self, MsgPackArray},
        openai::OpenAi,
    },
};

/// A protocol of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    JsonArray,
    MsgPackArray,
    OpenAi,
    KServe,
}

impl Client {
    /// Returns the protocol itself.
    pub(super) fn protocol(self) -> &'static dyn Protocol {
        match self {
            Self::JsonArray => &JsonArray,
            Self::MsgPackArray => &MsgPackArray,
            Self::OpenAi => &OpenAi,
            Self::KServe => &KServe,
        }
    }

    /// Returns the member of a request that has its items, if there is one.
    pub(super) const fn member(self) -> Option<&'static str> {
        match self {
            Self::JsonArray | Self::MsgPackArray => None,
            Self::OpenAi => Some("input"),
            Self::KServe => Some("inputs"),
        }
    }

    /// Returns a model's words with the pool's names of tensors as clients of this protocol know what they stand for.
    /// Those of KServe name their tensors themselves.
    pub(super) fn reworded(self, words: &str, translation: &config::Translation) -> String {
        if self == Self::KServe {
            return words.to_owned();
        }
        let words = renamed(words, &translation.input, self.member().unwrap_or("element"));
        match &translation.output {
            Some(output) => renamed(&words, output, "result"),
            None => words,
        }
    }
}

/// Returns a text with another name wherever this one stands as a word of its own.
fn renamed(text: &str, name: &str, by: &str) -> String {
    let is_of_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(name).filter(|_| !name.is_empty()) {
        // A dot that ends a sentence isn't the next letter of a name.
        let mut next = after.chars();
        let goes_on = match next.next() {
            Some('.') => next.next().is_some_and(char::is_alphanumeric),
            other => other.is_some_and(is_of_name),
        };
        let is_part = before.ends_with(is_of_name) || before.is_empty() && out.ends_with(is_of_name) || goes_on;
        out.push_str(before);
        out.push_str(if is_part { name } else { by });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Returns why a request that couldn't be split can't be translated, by the member that keeps it whole, if there is
/// one.
pub(super) fn undivided(client: Client, item: &Item, indivisible: &[String]) -> Malformed {
    let why = "only requests that can be split into items are translated";
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(&item.body).unwrap_or_default();
    let is_on = |name: &&String| members.get(*name).is_some_and(|value| !matches!(value.get(), "false" | "null"));
    let own = client.member().filter(|name| members.contains_key(*name));
    match indivisible.iter().find(is_on).map(String::as_str).or(own) {
        Some(member) => Malformed::untranslatable(member, why),
        None => Malformed::Untranslatable { what: "the request".to_owned(), why, member: None },
    }
}

/// Returns what an item holds, and how its client wants the response.
///
/// # Errors
/// What of it has no place elsewhere.
pub(super) fn read(
    client: Client,
    target: &PathAndQuery,
    item: &Item,
    translation: &config::Translation,
) -> Result<(Content, Terms), Malformed> {
    match client {
        Client::JsonArray => Ok((Content::Json(item.body.clone()), Terms::default())),
        Client::MsgPackArray => {
            let unreadable = || Malformed::Untranslatable {
                what: "an element".to_owned(),
                why: "it has bytes, an extension, a number that is none, or a key that is no text",
                member: None,
            };
            let json = msgpack::to_json(&item.body).ok_or_else(unreadable)?;
            Ok((Content::Json(json.into()), Terms { media_type: item.group.clone(), ..Terms::default() }))
        }
        Client::OpenAi => Ok((Content::Json(item.body.slice(item.span.clone())), embedding_terms(item, translation)?)),
        Client::KServe => {
            let (request, packing) = rows::read(item)?;
            let (model, version) = match named(target.path()) {
                Some(named) => named,
                None if translation.model.is_some() => (String::new(), String::new()),
                None => return Err(Malformed::untranslatable("model", "the path doesn't have its name")),
            };
            let terms = Terms { model, version, packing, ..Terms::default() };
            Ok((Content::Row(request), terms))
        }
    }
}

/// Returns the name and the version of the model in a path of KServe's, decoded; `None` if there is none, or it has a
/// `/`.
fn named(path: &str) -> Option<(String, String)> {
    let (_, rest) = path.strip_suffix("/infer")?.rsplit_once("/models/")?;
    let (model, version) = rest.split_once("/versions/").unwrap_or((rest, ""));
    let decoded = |name: &str| {
        let bytes = target::decoded(name.as_bytes()).map(|(byte, _)| byte).collect();
        String::from_utf8(bytes).ok().filter(|name| !name.contains('/'))
    };
    Some((decoded(model).filter(|model| !model.is_empty())?, decoded(version)?))
}

/// Reads the members of a request for embeddings beside the input. `user` says nothing to a model.
fn embedding_terms(item: &Item, translation: &config::Translation) -> Result<Terms, Malformed> {
    // The group has the same members, and the kind of the input in its place.
    let text = json::text(&item.group)?;
    let members = match json::parse(text, 0)?.node {
        Node::Object(members) => members,
        other => return Err(Malformed::NotAnObject { found: other.kind() }),
    };
    let mut terms = Terms::default();
    for (name, value) in &members {
        match (&**name, value) {
            ("input" | "user", _) | (_, Node::Word("null")) => {}
            ("model", Node::Text(escaped)) => {
                let name: Option<String> = serde_json::from_str(&format!("\"{escaped}\"")).ok();
                terms.model = name.ok_or_else(|| Malformed::untranslatable("model", "it is no text"))?;
            }
            ("encoding_format", Node::Text(word)) if matches!(&**word, "float" | "base64") => {
                terms.is_base64 = word == "base64";
            }
            ("encoding_format", _) => {
                return Err(Malformed::untranslatable("encoding_format", "embeddings come as `float` or `base64`"));
            }
            ("model", _) => return Err(Malformed::untranslatable("model", "it is no text")),
            _ => return Err(Malformed::untranslatable(name, "it has no place there")),
        }
    }
    if terms.model.is_empty() && translation.model.is_none() {
        return Err(Malformed::untranslatable("model", "the request has to name one"));
    }
    Ok(terms)
}

/// Returns the response to an item.
///
/// # Errors
/// Why there is none.
pub(super) fn response(client: Client, content: &Content, upstream: &Upstream) -> Result<ItemResponse, &'static str> {
    let Upstream { terms, translation, .. } = upstream;
    let output = translation.output.as_deref();
    match client {
        Client::JsonArray => Ok(ItemResponse { headers: json::headers(), ..content.value(output)?.into() }),
        Client::MsgPackArray => {
            let packed = match content {
                Content::Json(json) => parsed(json, msgpack::of_json)?,
                Content::Row(_) => msgpack::of_tensor(content.tensor(output, "", None, &[])?.as_ref()),
            };
            let media_type = HeaderValue::from_bytes(&terms.media_type);
            let media_type = media_type.unwrap_or(HeaderValue::from_static(msgpack::MEDIA_TYPE));
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type)]);
            Ok(ItemResponse { headers, ..Bytes::from(packed.ok_or("it has a number that is out of range")?).into() })
        }
        Client::OpenAi => {
            let tensor = content.tensor(output, "", None, &[])?;
            let embedding =
                if terms.is_base64 { tensor.singles().map(|bytes| quoted(&bytes)) } else { tensor.vector() };
            let model = if terms.model.is_empty() {
                translation.model.as_deref().unwrap_or_default()
            } else {
                terms.model.as_str()
            };
            let body = list_of(&embedding.ok_or("it is no list of numbers")?, model);
            Ok(ItemResponse { headers: json::headers(), ..body.into() })
        }
        Client::KServe => {
            let reply = match content {
                Content::Row(row) => rows::reply(&terms.model, row, &terms.packing),
                Content::Json(_) => {
                    let tensor = content.tensor(None, output.unwrap_or("output"), None, &[])?.into_owned();
                    let row = rows::Request { tensors: vec![tensor], ..rows::Request::default() };
                    rows::reply(&terms.model, &row, &terms.packing)
                }
            };
            reply.ok_or("its elements have no such form")
        }
    }
}

/// Returns a list of one embedding. How many tokens were read, the model hasn't said, so none are counted.
fn list_of(embedding: &[u8], model: &str) -> Bytes {
    let model = serde_json::Value::from(model).to_string();
    let parts = [
        &b"{\"object\":\"list\",\"model\":"[..],
        model.as_bytes(),
        b",\"data\":[{\"object\":\"embedding\",\"embedding\":",
        embedding,
        b",\"index\":0}],\"usage\":{\"prompt_tokens\":0,\"total_tokens\":0}}",
    ];
    parts.concat().into()
}

/// Returns bytes in base64 with padding (RFC 4648, section 4) as JSON.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4 + 2);
    out.push(b'"');
    for group in bytes.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or_default());
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        for place in 0..4 {
            let is_padding = place > group.len();
            out.push(if is_padding { b'=' } else { ALPHABET[((bits >> (18 - 6 * place)) & 0x3f) as usize] });
        }
    }
    out.push(b'"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        for (bytes, wanted) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("\u{7ff}\u{7ff}", "37/fvw=="),
        ] {
            let wanted = format!("\"{wanted}\"");
            assert_eq!(quoted(bytes.as_bytes()), wanted.as_bytes(), "{bytes}");
        }
    }

    #[test]
    fn names_of_tensors_are_the_clients() {
        let translation = config::Translation {
            input: "tokens".to_owned(),
            output: Some("e".to_owned()),
            ..config::Translation::new(config::PoolProtocol::KServeGrpc)
        };
        for (words, wanted) in [
            ("unexpected shape for input 'tokens' for model", "unexpected shape for input 'input' for model"),
            ("Invalid rank for input: tokens.", "Invalid rank for input: input."),
            ("tokens", "input"),
            ("`e` is no output", "`result` is no output"),
            ("tokens_2, my-tokens, tokens.x and tokens", "tokens_2, my-tokens, tokens.x and input"),
            ("tokenstokens", "tokenstokens"),
            ("too long", "too long"),
        ] {
            assert_eq!(Client::OpenAi.reworded(words, &translation), wanted);
            assert_eq!(Client::KServe.reworded(words, &translation), words);
        }
        assert_eq!(Client::JsonArray.reworded("'tokens'", &translation), "'element'");
    }

    #[test]
    fn a_models_name_is_in_the_path() {
        for (path, wanted) in [
            ("/v2/models/m/infer", Some(("m", ""))),
            ("/v2/models/m/versions/3/infer", Some(("m", "3"))),
            ("/x/v2/models/models/infer", Some(("models", ""))),
            ("/v2/models//infer", None),
            ("/v2/models/a/b/infer", None),
            ("/v2/models/a%2Fb/infer", None),
            ("/v2/models/a%20b/versions/%31/infer", Some(("a b", "1"))),
            ("/v2/models/%ff/infer", None),
            ("/v2/models/m", None),
            ("/v2/models/m/versions/1/2/infer", None),
        ] {
            let wanted = wanted.map(|(model, version): (&str, &str)| (model.to_owned(), version.to_owned()));
            assert_eq!(named(path), wanted, "{path}");
        }
    }
}
