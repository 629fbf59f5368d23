//! Items that are sent to their pool in another protocol than their client's: the client's protocol splits a request
//! and joins the reply, the pool's joins the items and splits the response, and each item and each result is translated
//! between them. Keys and what is stored are the client's. Pure.
//!
//! An item or a result is JSON or tensors on its way ([`content`]). What the other side has no place for is refused,
//! never left out or guessed.

mod client;
mod content;
mod pool;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, uri::PathAndQuery};

use super::{
    contract::Protocol,
    fault::{BadResponse, Malformed},
    item::{
        Arrival, Item, ItemError, ItemResponse, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef, Received,
        ReplyForm, Shape, Split, SplitRules, Upstream, majority,
    },
};
use crate::config;
use client::Client;
use pool::Fault;

/// The protocol of clients whose items are translated; into which one, the items say.
#[derive(Debug)]
pub(super) struct Translated(Client);

pub(super) static JSON_ARRAY: Translated = Translated(Client::JsonArray);
pub(super) static MSGPACK_ARRAY: Translated = Translated(Client::MsgPackArray);
pub(super) static OPENAI: Translated = Translated(Client::OpenAi);
pub(super) static KSERVE: Translated = Translated(Client::KServe);

impl Translated {
    /// Adds to an item what is sent to the pool, and the group of that.
    fn translated(
        &self,
        item: Item,
        target: &PathAndQuery,
        rules: &SplitRules<'_>,
        translation: &Arc<config::Translation>,
    ) -> Result<Item, Malformed> {
        let refused = |why| {
            let member = self.0.member();
            let what = member.map_or_else(|| "an element".to_owned(), |member| format!("`{member}`"));
            Malformed::Untranslatable { what, why, member: member.map(str::to_owned) }
        };
        if item.whole {
            return Err(client::undivided(self.0, &item, rules.indivisible));
        }
        let (content, terms) = client::read(self.0, target, &item, translation)?;
        pool::check(target, &terms, translation)?;
        let goes_to = pool::target(translation, &terms, target.query())?;
        let upstream = pool::upstream(&content, terms, translation, goes_to).map_err(refused)?;
        let target = upstream.target.as_ref().map_or("", PathAndQuery::as_str);
        // No target has a line break in it.
        let group = Bytes::from([target.as_bytes(), &b"\n"[..], &upstream.item.group[..]].concat());
        Ok(Item { group, upstream: Some(Arc::new(upstream)), ..item })
    }

    /// Returns the outcome of an item, as its client's protocol has it.
    fn outcome(&self, content: Result<content::Content, Fault>, upstream: &Upstream) -> Outcome {
        let unreadable = |why: &str| {
            let message = format!("the model's result can't be translated for this client: {why}");
            self.failure(502, &message, None).alone()
        };
        match content {
            // KServe's binary data has a form for numbers that are none; where they are to be JSON they are refused later.
            Ok(content) if self.0 != Client::KServe && !content.is_sound() => {
                Err(unreadable("a number of it is none, or isn't of its type"))
            }
            Ok(content) => client::response(self.0, &content, upstream).map_err(unreadable),
            Err(Fault::Unreadable(why)) => Err(unreadable(why)),
            Err(Fault::Own(error)) => {
                let (retry_alone, differs) = (error.retry_alone, error.differs);
                let worded = self.worded(&upstream.translation, error.status, &error.body);
                Err(ItemError { retry_alone, differs, ..worded })
            }
        }
    }

    /// Returns which of the results of one response are no embeddings of one model, because they aren't like what is
    /// usual, or, if that isn't known, like most.
    fn differing(shapes: &[Option<Shape>], usual: Option<Shape>) -> Vec<bool> {
        let usual = usual.or_else(|| majority(&shapes.iter().copied().flatten().collect::<Vec<_>>()));
        shapes.iter().map(|shape| shape.is_some() && *shape != usual).collect()
    }

    /// Words a failure of the model as the client's protocol does.
    fn worded(&self, translation: &config::Translation, status: u16, body: &Bytes) -> ItemError {
        let said = pool::said(translation.protocol, body).map(|words| self.0.reworded(&words, translation));
        let message = said.unwrap_or_else(|| format!("the model failed with status {status}"));
        // A redirect, say, is none that the client could follow.
        self.failure(if status < 400 { 502 } else { status }, &message, None)
    }
}

/// Returns what is sent of items; none if it isn't there of all.
fn sent<'i>(items: &[&'i Item]) -> Option<Vec<&'i Upstream>> {
    items.iter().map(|item| item.upstream.as_deref()).collect()
}

impl Protocol for Translated {
    /// A field of KServe's would describe the body that a pool is sent, whatever the client speaks.
    fn describes_body(&self, name: &HeaderName) -> bool {
        Client::KServe.protocol().describes_body(name) || self.0.protocol().describes_body(name)
    }

    fn model(&self, _: &PathAndQuery, item: &Item) -> Option<String> {
        let Upstream { terms, translation, .. } = item.upstream.as_deref()?;
        let name = translation.model.as_ref().unwrap_or(&terms.model);
        (!name.is_empty()).then(|| name.clone())
    }

    fn split(&self, request: &Received<'_>, rules: &SplitRules<'_>) -> Result<Split, Malformed> {
        let Split { form, items } = self.0.protocol().split(request, rules)?;
        let Some(translation) = rules.translation else {
            // It is chosen for routes that have one.
            return Err(Malformed::untranslatable("model", "it isn't known which protocol it speaks"));
        };
        let items = items.into_iter().map(|item| self.translated(item, request.target, rules, translation));
        Ok(Split { form, items: items.collect::<Result<_, _>>()? })
    }

    fn join(&self, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest {
        match sent(items).as_deref() {
            Some(upstream @ [first, ..]) => {
                let members: Vec<&Item> = upstream.iter().map(|upstream| &upstream.item).collect();
                pool::join(first.translation.protocol, first.target.as_ref().unwrap_or(target), &members)
            }
            _ => JoinedRequest { target: target.clone(), headers: HeaderMap::new(), body: Bytes::new() },
        }
    }

    fn split_response(&self, response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
        let upstream = sent(items).unwrap_or_default();
        let Some(first) = upstream.first() else { return Err(BadResponse::Count { asked: items.len(), found: 0 }) };
        let members: Vec<&Item> = upstream.iter().map(|upstream| &upstream.item).collect();
        let contents = match pool::contents(first.translation.protocol, response, &members) {
            // A client couldn't read what the model says in another form than its own.
            Err(error @ BadResponse::Unreadable { .. }) if items.len() == 1 => {
                return Ok(vec![Err(self.failure(502, &error.to_string(), None).alone())]);
            }
            contents => contents?,
        };
        let judged = contents.into_iter().zip(upstream).map(|(content, upstream)| {
            let commas = content.as_ref().ok().and_then(content::Content::commas);
            let outcome = self.outcome(content, upstream);
            // What is no embedding has no length that one could have; clients of other protocols get results of any.
            let commas = commas.filter(|_| outcome.is_ok() && self.0 == Client::OpenAi);
            let shape = commas.map(|commas| Shape::Numbers(commas + 1));
            (shape, outcome.map(|response| ItemResponse { shape, ..response }))
        });
        let (shapes, outcomes): (Vec<_>, Vec<_>) = judged.unzip();
        let differing = Self::differing(&shapes, items.first().and_then(|first| first.usual));
        let trusted = outcomes.into_iter().zip(differing).map(|(outcome, differs)| match outcome {
            // Its client gets what the model says, and nobody else.
            Ok(response) if differs && items.len() == 1 => {
                Ok(ItemResponse { storable: false, joinable: false, ..response })
            }
            Ok(_) if differs => {
                let message = "the model's result has another length than most of its others";
                Err(self.failure(502, message, None).alone().differing(true))
            }
            outcome => outcome,
        });
        Ok(trusted.collect())
    }

    fn failed(&self, arrival: &Arrival<'_>, items: &[&Item]) -> Option<ItemError> {
        let is_success = (200..300).contains(&arrival.status);
        let Some(upstream) = items.first().and_then(|first| first.upstream.as_deref()) else {
            let message = format!("the model failed with status {}", arrival.status);
            return (!is_success).then(|| self.failure(502, &message, None));
        };
        let translation = &*upstream.translation;
        if translation.protocol == config::PoolProtocol::KServeGrpc {
            let failure = super::kserve::grpc::failure(arrival)?;
            return Some(self.failure(failure.status, &self.0.reworded(&failure.message, translation), None));
        }
        (!is_success).then(|| self.worded(translation, arrival.status, arrival.body))
    }

    /// Leaves out what describes the model's body, or belongs to its protocol.
    fn for_clients(&self, headers: &HeaderMap) -> Option<HeaderMap> {
        let is_of_pool = |name: &HeaderName| {
            let name = name.as_str();
            let is_named = matches!(name, "digest" | "repr-digest" | "trailer" | "inference-header-content-length");
            is_named || name.starts_with("content-") || name.starts_with("grpc-")
        };
        let kept = headers.iter().filter(|(name, _)| !is_of_pool(name));
        let mut fields = HeaderMap::new();
        for (name, value) in kept {
            fields.append(name.clone(), value.clone());
        }
        Some(fields)
    }

    fn join_outcomes(&self, form: ReplyForm, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
        self.0.protocol().join_outcomes(form, outcomes)
    }

    fn usage(&self, result: Message<'_>) -> Vec<(String, u64)> {
        self.0.protocol().usage(result)
    }

    fn failure(&self, status: u16, message: &str, param: Option<&str>) -> ItemError {
        self.0.protocol().failure(status, message, param)
    }
}
