//! The pool's side: an item as the pool takes it, and what its results hold.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde_json::Value;

use super::content::{Content, parsed};
use crate::{
    config::{PoolProtocol, Translation},
    message::target::segment,
    origin::protocol::{
        contract::Protocol,
        fault::{BadResponse, Malformed},
        item::{Item, ItemError, JoinedRequest, Message, Outcome, Terms, Upstream},
        json_array::JsonArray,
        kserve::{
            KServe, grpc,
            rows::{self, Parameters, Request},
        },
        msgpack::{self, MsgPackArray},
        tensor::Datatype,
    },
};

/// The path of KServe's REST protocol.
const KSERVE_PATH: &str = "/v2/models/{model}/infer";

/// Characters of a model's own words on a failure that are told.
const WORDS_MAX: usize = 4_096;

/// Why an item has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The model's own failure of this item.
    Own(ItemError),
    /// Its result can't be read.
    Unreadable(&'static str),
}

/// Returns the protocol itself; `None` for gRPC, in which no items come: the calls of clients are requests of KServe's
/// REST protocol by then.
fn protocol(name: PoolProtocol) -> Option<&'static dyn Protocol> {
    match name {
        PoolProtocol::JsonArray => Some(&JsonArray),
        PoolProtocol::MsgPackArray => Some(&MsgPackArray),
        PoolProtocol::KServe => Some(&KServe),
        PoolProtocol::KServeGrpc => None,
    }
}

/// Checks that a client's target says nothing that would be left out.
///
/// # Errors
/// What of it has no place elsewhere.
pub(super) fn check(target: &PathAndQuery, terms: &Terms, translation: &Translation) -> Result<(), Malformed> {
    let is_call = translation.protocol == PoolProtocol::KServeGrpc;
    if is_call && target.query().is_some_and(|query| !query.is_empty()) {
        return Err(Malformed::untranslatable("query", "a call of gRPC has none"));
    }
    // A call has the version beside the client's model, and an array may go to the client's own path.
    let goes_elsewhere = if is_call { translation.model.is_some() } else { has_own_path(translation) };
    if goes_elsewhere && !terms.version.is_empty() {
        return Err(Malformed::untranslatable("version", "the pool says which model is asked"));
    }
    Ok(())
}

/// Whether requests go to another path than their clients'.
const fn has_own_path(translation: &Translation) -> bool {
    translation.path.is_some() || matches!(translation.protocol, PoolProtocol::KServe)
}

/// Returns what is sent for an item to this target; see [`target`].
///
/// # Errors
/// Why it can't be sent.
pub(super) fn upstream(
    content: &Content,
    terms: Terms,
    translation: &Arc<Translation>,
    target: Option<PathAndQuery>,
) -> Result<Upstream, &'static str> {
    let (model, version) = match &translation.model {
        Some(model) => (model.as_str(), ""),
        None => (terms.model.as_str(), terms.version.as_str()),
    };
    let item = match translation.protocol {
        PoolProtocol::JsonArray => {
            let body = element(content)?;
            Item::new(body.clone(), body, Bytes::new())
        }
        PoolProtocol::MsgPackArray => {
            let packed = match content {
                Content::Json(json) => parsed(json, msgpack::of_json)?,
                Content::Row(_) => msgpack::of_tensor(alone(content)?.tensor(None, "", None, &[])?.as_ref()),
            };
            let body = Bytes::from(packed.ok_or("a number of it is out of range")?);
            Item::new(body.clone(), body, Bytes::from_static(msgpack::MEDIA_TYPE.as_bytes()))
        }
        PoolProtocol::KServe => {
            let Request { tensors, .. } = request(alone(content)?, translation)?;
            let [tensor] = &tensors[..] else { return Err("it has several tensors") };
            let item = rows::request_item(tensor, translation.output.as_deref(), translation.binary);
            item.ok_or("its elements have no such form")?
        }
        PoolProtocol::KServeGrpc => {
            let request = request(content, translation)?;
            grpc::item(&request, model, version).ok_or("its elements have no such form")?
        }
    };
    Ok(Upstream { item, target, terms, translation: Arc::clone(translation) })
}

/// Returns where an item is sent, with the client's query if that is another path; `None` for where the client sent it,
/// or where the protocol says.
///
/// # Errors
/// The model has no name that a path can have.
pub(super) fn target(
    translation: &Translation,
    terms: &Terms,
    query: Option<&str>,
) -> Result<Option<PathAndQuery>, Malformed> {
    let path = match (translation.protocol, &translation.path) {
        (PoolProtocol::KServeGrpc, _) => return Ok(None),
        (_, Some(path)) => path.as_str(),
        (PoolProtocol::KServe, None) => KSERVE_PATH,
        (PoolProtocol::JsonArray | PoolProtocol::MsgPackArray, None) => return Ok(None),
    };
    let unnamed = || Malformed::untranslatable("model", "it has no name that a path can have");
    let model = translation.model.as_ref().unwrap_or(&terms.model);
    // As a segment these lead elsewhere.
    if path.contains("{model}") && matches!(model.as_str(), "" | "." | "..") {
        return Err(unnamed());
    }
    let mut target = path.replace("{model}", &segment(model));
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        target.push('?');
        target.push_str(query);
    }
    PathAndQuery::try_from(target).map(Some).map_err(|_| unnamed())
}

/// Returns a content of which nothing beside its tensors would be lost.
fn alone(content: &Content) -> Result<&Content, &'static str> {
    match content {
        Content::Row(Request { parameters, outputs, .. }) if !parameters.is_empty() || !outputs.is_empty() => {
            Err("its `parameters` and `outputs` have no place there")
        }
        Content::Row(_) | Content::Json(_) => Ok(content),
    }
}

/// Returns the element of an array.
fn element(content: &Content) -> Result<Bytes, &'static str> {
    alone(content)?.value(None)
}

/// Returns the tensors that are sent.
fn request(content: &Content, translation: &Translation) -> Result<Request, &'static str> {
    match content {
        Content::Row(request) => Ok(request.clone()),
        Content::Json(_) => {
            let numbers = translation.datatype.and_then(Datatype::of);
            let single: &[usize] = if translation.flat { &[] } else { &[1] };
            let tensor = content.tensor(None, &translation.input, numbers, single)?.into_owned();
            let outputs = translation.output.iter().map(|name| (name.clone(), Parameters::new())).collect();
            Ok(Request { tensors: vec![tensor], outputs, ..Request::default() })
        }
    }
}

/// Makes one request for all these items.
pub(super) fn join(name: PoolProtocol, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest {
    protocol(name).map_or_else(|| grpc::join(items), |protocol| protocol.join(target, items))
}

/// Returns what the result of each item holds.
///
/// # Errors
/// [`BadResponse`] if it can't be told which result is whose.
pub(super) fn contents(
    name: PoolProtocol,
    response: Message<'_>,
    items: &[&Item],
) -> Result<Vec<Result<Content, Fault>>, BadResponse> {
    let Some(protocol) = protocol(name) else {
        let results = grpc::results(response.body, items.len())?;
        return Ok(results.into_iter().map(|row| Ok(Content::Row(row))).collect());
    };
    let outcomes = protocol.split_response(response, items)?;
    let content = |outcome: Outcome| {
        let result = outcome.map_err(Fault::Own)?;
        match name {
            PoolProtocol::JsonArray => Ok(Content::Json(result.body)),
            PoolProtocol::MsgPackArray => {
                let json = msgpack::to_json(&result.body).map(|json| Content::Json(json.into()));
                json.ok_or(Fault::Unreadable("it has something that JSON has no form for"))
            }
            PoolProtocol::KServe | PoolProtocol::KServeGrpc => {
                // That of a single item has the fields of the whole response.
                let headers = if result.headers.is_empty() { response.headers } else { &result.headers };
                let tensors = rows::results(Message { headers, body: &result.body });
                tensors.map(Content::of_tensors).map_err(Fault::Unreadable)
            }
        }
    };
    Ok(outcomes.into_iter().map(content).collect())
}

/// Returns a model's own words on a failure; `None` if it has none that can be found.
pub(super) fn said(name: PoolProtocol, body: &Bytes) -> Option<String> {
    let json = match name {
        PoolProtocol::MsgPackArray => Bytes::from(msgpack::to_json(body)?),
        PoolProtocol::JsonArray | PoolProtocol::KServe | PoolProtocol::KServeGrpc => body.clone(),
    };
    let value: Value = serde_json::from_slice(&json).ok()?;
    let error = ["error", "detail", "message"].into_iter().find_map(|name| value.get(name))?;
    let words = error.as_str().or_else(|| error.get("message")?.as_str())?;
    Some(words.chars().take(WORDS_MAX).collect())
}
