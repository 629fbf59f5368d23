//! The key of a request: by its policy if that makes keys, else natively.

use bytes::Bytes;
use http::Method;

use super::{advice::Advice, forwarding, route::Route, trace};
use crate::{
    cache::{
        key::{Decider, Key, KeyHasher},
        search::Rule,
    },
    config::{Extensions, OnFault, QueryKey},
    message::RequestHead,
    policy::{Facts, Fault, KeyPlan, Material, Policy, consult, key, query},
};

/// The outcome of making a key.
#[derive(Debug)]
pub(super) enum Keyed {
    /// A key to look up. If the policy faulted, the native default made it, and `fault` says why.
    Key {
        /// The key.
        key: Key,
        /// Why the policy didn't make it.
        fault: Option<Fault>,
    },
    /// The request is kept out of the cache: the policy wants it so, or faulted, and the native default may not make
    /// the key.
    Bypass(String),
    /// The policy faulted, and the route refuses the request then.
    Refused(Fault),
}

impl Keyed {
    /// Returns the key, if there is one.
    const fn key(&self) -> Option<&Key> {
        match self {
            Self::Key { key, .. } => Some(key),
            Self::Bypass(_) | Self::Refused(_) => None,
        }
    }

    /// What the policy did out of the ordinary, in a word for `Cache-Status` and the access log.
    pub(super) fn remark(&self) -> Option<String> {
        match self {
            Self::Key { fault: None, .. } => None,
            Self::Key { fault: Some(fault), .. } | Self::Refused(fault) => Some(fault.kind().to_owned()),
            Self::Bypass(reason) => Some(reason.clone()),
        }
    }
}

/// The part of a request's body that the host puts into its key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    /// None: the head is the request.
    None,
    /// The canonical form of an item.
    Item(&'a [u8]),
    /// The digest of what a QUERY asks for.
    Query(&'a [u8; 32]),
}

/// Makes the key of a request, or of one of its items.
pub(super) fn derive(route: &Route, advice: &Advice, facts: &Facts<'_>, content: Content<'_>) -> Keyed {
    let begun = advice.span().timer();
    let keyed = made(route, advice, facts, content);
    if let Some(begun) = begun {
        let by = match keyed {
            Keyed::Bypass(_) | Keyed::Refused(_) => advice.policy(),
            Keyed::Key { .. } => advice.key_maker(),
        };
        let by = by.map(|policy| &**policy.label());
        trace::keyed(advice.span(), keyed.key(), by, keyed.remark().as_deref(), begun);
    }
    keyed
}

fn made(route: &Route, advice: &Advice, facts: &Facts<'_>, content: Content<'_>) -> Keyed {
    let keyed = advice.with_fallback(facts, |policy, facts| {
        let keyed = by_policy(route, advice, &**policy, facts, content).transpose()?;
        Some(keyed.inspect(|_| advice.made_key()))
    });
    advice.witness_key(facts);
    let fault = match keyed {
        None => None,
        Some(Ok(keyed)) => return keyed,
        Some(Err(fault)) => match route.config.on_fault {
            // What the policy tells apart another key might not.
            OnFault::Bypass => return Keyed::Bypass(fault.kind().to_owned()),
            OnFault::Refuse => return Keyed::Refused(fault),
            OnFault::Native => Some(fault),
        },
    };
    Keyed::Key { key: natively(route, advice, facts, content), fault }
}

/// Returns the native key of a request.
fn natively(route: &Route, advice: &Advice, facts: &Facts<'_>, content: Content<'_>) -> Key {
    let mut hasher = begin(route, advice, facts, Decider::Native);
    match content {
        Content::Item(canonical) => {
            let sent = forwarding::sent(route, None, &facts.request().headers);
            key::infer_default(facts, &sent, canonical, &mut hasher);
        }
        Content::None => key::http_default(facts, &mut hasher),
        Content::Query(digest) => {
            // Its method comes first, so that this is no key of a GET.
            key::http_default(facts, &mut hasher);
            hasher.part(Some(digest));
        }
    }
    hasher.finish()
}

/// Returns what the key of a QUERY has of its content.
///
/// # Errors
/// [`query::Unkeyable`]: it has no key.
pub(super) fn content_digest(route: &Route, head: &RequestHead, body: &Bytes) -> Result<[u8; 32], query::Unkeyable> {
    let Extensions { query_key, query_body_bytes_max, .. } = route.config.extensions;
    // RFC 10008, section 2.7: a client may want its content taken as it is.
    let is_exact = query_key == QueryKey::Exact || route.demand(&head.headers).directives.no_transform;
    let form = if is_exact { query::Form::Exact } else { query::Form::Canonical };
    query::digest(&head.headers, body, form, query_body_bytes_max)
}

/// Whether a response to this request may be stored for equivalent URLs as well: where a URL is its key. A policy that
/// makes keys decides itself what of a query counts.
pub(super) fn may_search(route: &Route, advice: &Advice, head: &RequestHead) -> bool {
    route.searches() && *key::shared_method(&head.method) == Method::GET && advice.keys_natively()
}

/// Returns the key of a request's path, by which the rule of its last response is known. Nothing is stored there.
pub(super) fn path(route: &Route, advice: &Advice, facts: &Facts<'_>) -> Key {
    let mut hasher = begin(route, advice, facts, Decider::Native);
    key::http_path(facts, &mut hasher);
    hasher.part(None);
    hasher.part(None);
    hasher.finish()
}

/// Returns the key of a request by what a rule leaves of its query. No key of a URL has as many parts.
pub(super) fn by_rule(route: &Route, advice: &Advice, facts: &Facts<'_>, rule: &Rule) -> Key {
    let mut hasher = begin(route, advice, facts, Decider::Native);
    key::http_path(facts, &mut hasher);
    hasher.part(None);
    hasher.part(Some(b"no-vary-search"));
    rule.write(facts.request().target.query(), &mut hasher);
    hasher.finish()
}

/// Begins a key. What a canary stores has keys of its own, and so has another spelling of a path if that is what is
/// sent. No label, no method and no scheme begins with `/`, so such a part is none of theirs. A native key may have the
/// client's region; a route whose keys do has others than one whose keys don't, in any case.
fn begin(route: &Route, advice: &Advice, facts: &Facts<'_>, decider: Decider<'_>) -> KeyHasher {
    let has_region = route.config.key_client_region && matches!(decider, Decider::Native);
    let mut hasher = route.keys.hasher(decider);
    if let Some(label) = advice.on_trial() {
        hasher.part(Some(label.as_bytes()));
    }
    if let Some(received) = route.received(facts.request()) {
        hasher.part(Some(received.path().as_bytes()));
    }
    if has_region {
        // Neither a label nor a method begins with a space, so that what follows is taken for nothing else.
        hasher.part(Some(b" client-region"));
        hasher.part(facts.request().near.client.as_deref().map(str::as_bytes));
    }
    hasher
}

fn by_policy(
    route: &Route,
    advice: &Advice,
    policy: &dyn Policy,
    facts: &Facts<'_>,
    content: Content<'_>,
) -> Result<Option<Keyed>, Fault> {
    if *policy.key_plan() == KeyPlan::Native {
        return Ok(None);
    }
    let mut hasher = begin(route, advice, facts, Decider::Policy { meaning: policy.meaning() });
    // The method is the host's part: a policy may forget it, and a POST must never be served a GET's response.
    hasher.part(Some(key::shared_method(&facts.request().method).as_str().as_bytes()));
    if let Content::Query(digest) = content {
        // So is what a QUERY asks for, which is no request without it (RFC 10008, section 2.7).
        hasher.part(Some(digest));
    }
    if route.infers() {
        // So is what is sent to the model although the policy doesn't read it: where, and with which fields.
        hasher.part(Some(&forwarding::unread_target(policy, facts.request())));
        let unread = forwarding::unread(route, policy, &facts.request().headers);
        hasher.part(unread.as_ref().map(|digest| &digest[..]));
    }
    Ok(Some(match consult::material(policy, facts, &mut hasher)? {
        Some(reason) => Keyed::Bypass(reason),
        None => Keyed::Key { key: hasher.finish(), fault: None },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        message::Near,
        pipeline::inputs,
        policy::{Notes, facts::tests::request},
    };

    #[test]
    fn a_native_key_has_the_clients_region_if_its_route_says_so() {
        let keyed = |is_part: bool, region: Option<&str>| {
            let config = config::Route { key_client_region: is_part, ..config::Route::new("r", "p") };
            let (route, advice, notes) = (Route::nowhere(config), Advice::default(), Notes::default());
            let near = Near { client: region.map(Into::into), node: None };
            let head = RequestHead { near, ..request(Method::GET, "/a", &[]) };
            let facts = Facts::new(&head, None, &notes);
            let found = inputs::of(&route, &advice, &facts, None).into_iter().find(|one| one.name == "client-region");
            let shown = found.map(|one| one.report().value);
            let key = *derive(&route, &advice, &facts, Content::None).key().unwrap();
            (key, path(&route, &advice, &facts), shown)
        };
        assert_eq!(keyed(false, Some("eu")), keyed(false, None));
        assert_eq!(keyed(false, Some("eu")).2, None);
        let (eu, us, unknown) = (keyed(true, Some("eu")), keyed(true, Some("us")), keyed(true, None));
        assert_eq!((eu.2.clone(), unknown.2.clone()), (Some(Some("eu".to_owned())), Some(None)));
        for (one, other) in [(&eu, &us), (&eu, &unknown), (&us, &unknown)] {
            assert_ne!(one.0, other.0);
            assert_ne!(one.1, other.1, "what is known of its path");
        }
        assert_eq!(eu, keyed(true, Some("eu")));
    }
}
