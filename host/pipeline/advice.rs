//! The policy's side of one request, or of one of its questions: which generation decides, what it has said, and what
//! else was found out on the way. Made when the request comes, and the same until it is answered.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use bytes::Bytes;
use http::HeaderName;
use tracing::debug;

use super::{Pipeline, Route};
use crate::{
    config::OnFault,
    message::RequestHead,
    policy::{Arm, Chosen, Decision, Facts, Fault, Hook, Input, Notes, Policy, Question, Shape, consult, fields},
};

/// Who decides for a request, and what is known by now. Without a policy, nobody and nothing.
#[derive(Debug, Default)]
pub struct Advice {
    chosen: Option<Chosen>,
    notes: Notes,
    /// The canary has faulted: from then on the active generation decides, with notes of its own.
    fallen: AtomicBool,
    notes_instead: Notes,
    /// Who made the key: [`CHOSEN`], [`INSTEAD`], or else it was made natively.
    maker: AtomicU8,
    /// Header fields that the policy set or removed on what travels.
    changed: OnceLock<Vec<HeaderName>>,
    /// It faulted instead.
    unshaped: AtomicBool,
    remark: OnceLock<Arc<str>>,
}

/// The generation that decided at first made the key.
const CHOSEN: u8 = 1;
/// The one that decides since that has faulted made it.
const INSTEAD: u8 = 2;

impl Advice {
    /// The advice for a request on a route.
    #[must_use]
    pub fn of(route: &Route, request: &RequestHead) -> Self {
        Self { chosen: route.policy.as_ref().map(|roster| roster.choose(request)), ..Self::default() }
    }

    /// The same generation's for another request: one of several questions, or one that follows from this.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self { chosen: self.chosen.clone(), ..Self::default() }
    }

    /// The generation that decides at present.
    #[must_use]
    pub fn policy(&self) -> Option<&Arc<dyn Policy>> {
        let chosen = self.chosen.as_ref()?;
        match &chosen.instead {
            Some(instead) if self.fallen.load(Ordering::Relaxed) => Some(instead),
            _ => Some(&chosen.policy),
        }
    }

    /// The generation that decided, and the arms that were drawn.
    pub(super) fn into_parts(self) -> (Option<Arc<dyn Policy>>, Vec<Arm>) {
        let Some(Chosen { policy, instead, .. }) = self.chosen else { return (None, Vec::new()) };
        match instead.filter(|_| self.fallen.into_inner()) {
            Some(instead) => (Some(instead), self.notes_instead.into_arms()),
            None => (Some(policy), self.notes.into_arms()),
        }
    }

    fn notes(&self) -> &Notes {
        if self.fallen.load(Ordering::Relaxed) { &self.notes_instead } else { &self.notes }
    }

    /// Must the body be at hand for it? Of a request that is only passed on, fewer hooks are asked.
    #[must_use]
    pub fn needs_body(&self, passed: bool) -> bool {
        let reads = |policy: &Arc<dyn Policy>| {
            if !passed {
                return policy.needs_body();
            }
            let hooks = [Hook::Features, Hook::Route].into_iter().filter_map(|hook| policy.reads(hook)).flatten();
            let units = policy.experiments().iter().map(|experiment| &experiment.unit);
            hooks.chain(units).any(Input::needs_body)
        };
        self.chosen.as_ref().is_some_and(|chosen| reads(&chosen.policy) || chosen.instead.iter().any(reads))
    }

    /// Does the key depend on the body?
    #[must_use]
    pub fn keys_by_body(&self) -> bool {
        let reads = |policy: &Arc<dyn Policy>| consult::key_reads(&**policy).any(Input::needs_body);
        self.chosen.as_ref().is_some_and(|chosen| reads(&chosen.policy) && chosen.instead.iter().all(reads))
    }

    /// Is its generation on trial with a say? What it keeps is not for others: should it go, its mistakes go with it.
    #[must_use]
    pub fn on_trial(&self) -> Option<&Arc<str>> {
        let chosen = self.chosen.as_ref().filter(|chosen| chosen.instead.is_some())?;
        (!self.fallen.load(Ordering::Relaxed)).then(|| chosen.policy.label())
    }

    /// Notes that the generation that decides at present made the key.
    pub(super) fn made_key(&self) {
        let maker = if self.fallen.load(Ordering::Relaxed) { INSTEAD } else { CHOSEN };
        self.maker.store(maker, Ordering::Relaxed);
    }

    /// Who made the key; `None` if it was made natively.
    #[must_use]
    pub fn key_maker(&self) -> Option<&Arc<dyn Policy>> {
        let chosen = self.chosen.as_ref()?;
        match self.maker.load(Ordering::Relaxed) {
            CHOSEN => Some(&chosen.policy),
            INSTEAD => chosen.instead.as_ref(),
            _ => None,
        }
    }

    /// Is the key the native one, so that one URL is one key?
    #[must_use]
    pub fn keys_natively(&self) -> bool {
        self.key_maker().is_none() && self.on_trial().is_none()
    }

    /// Does the policy have this hook, or is one tried that may?
    #[must_use]
    pub fn has(&self, hook: Hook) -> bool {
        let shadow = self.chosen.as_ref().and_then(|chosen| chosen.shadow.as_ref());
        let shadowed = shadow.is_some_and(|shadow| shadow.compares(hook));
        shadowed || self.policy().is_some_and(|policy| policy.reads(hook).is_some())
    }

    /// What is read for it from a request.
    #[must_use]
    pub fn facts<'a>(&'a self, node: &'a Pipeline, head: &'a RequestHead, body: Option<&'a Bytes>) -> Facts<'a> {
        Facts::new(head, body, self.notes()).decoded_within(node.limits.body_bytes_max).beside(node)
    }

    /// Draws the arms of the policy's experiments.
    pub fn draw(&self, facts: &Facts<'_>) {
        if let Some(policy) = self.policy()
            && !policy.experiments().is_empty()
        {
            consult::draw(&**policy, &facts.noted(self.notes()));
        }
    }

    /// The arms that were drawn.
    #[must_use]
    pub fn arms(&self) -> &[Arm] {
        self.notes().arms()
    }

    /// Asks a hook; `None` if the policy doesn't have it.
    pub fn ask(&self, question: &Question<'_>, facts: &Facts<'_>) -> Option<Result<Arc<Decision>, Fault>> {
        let said = self.by_each(facts, |policy, facts| consult::ask(&**policy, question, facts));
        if let Some(shadow) = self.chosen.as_ref().and_then(|chosen| chosen.shadow.as_ref()) {
            shadow.witness(question, facts, said.as_ref());
        }
        said
    }

    /// Makes something by the generation that decides. If that is a canary and faults, the active one decides, for this
    /// and for all that follows.
    pub(super) fn by_each<T>(
        &self,
        facts: &Facts<'_>,
        make: impl Fn(&Arc<dyn Policy>, &Facts<'_>) -> Option<Result<T, Fault>>,
    ) -> Option<Result<T, Fault>> {
        let policy = self.policy()?;
        let made = make(policy, &facts.noted(self.notes()));
        let Some(Err(fault)) = &made else { return made };
        self.remark(fault.kind());
        if self.on_trial().is_none() {
            return made;
        }
        debug!(target: "policy", policy = %policy.label(), %fault, "from here on the active generation decides");
        self.fallen.store(true, Ordering::Relaxed);
        make(self.policy()?, &facts.noted(self.notes()))
    }

    /// Tells a shadow which key was made.
    pub(super) fn witness_key(&self, facts: &Facts<'_>) {
        if let Some(Chosen { policy, instead, shadow: Some(shadow) }) = &self.chosen {
            // The keys of a canary and of the active generation are compared off the request path.
            let made = if instead.is_none() { consult::key(&**policy, facts) } else { None };
            let decided = made.map(|decided| decided.map(Arc::new));
            shadow.witness(&Question::Key, facts, decided.as_ref());
        }
    }

    /// What changes before the request travels, if anything does.
    ///
    /// # Errors
    /// The policy faulted, and the route wants no answer then.
    pub(super) fn shape(&self, route: &Route, facts: &Facts<'_>) -> Result<Option<Shape>, Fault> {
        if !self.has(Hook::Features) {
            return Ok(None);
        }
        let opinion = self.opinion(route, &Question::Features, facts)?;
        match opinion.as_deref() {
            None if route.config.on_fault == OnFault::Bypass && self.policy_has(Hook::Features) => {
                // It goes as it came, and so what it is answered is for nobody else.
                self.unshaped.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Some(Decision::Features(shape)) => {
                let _ = self.changed.set(shape.headers.iter().map(|(name, _)| name.clone()).collect());
                Ok(Some(shape.clone()))
            }
            _ => Ok(None),
        }
    }

    /// Did the policy set or remove this header field on what travelled? Then the client's own says nothing about it.
    #[must_use]
    pub fn changed(&self, name: &HeaderName) -> bool {
        self.changed.get().is_some_and(|names| names.contains(name))
    }

    /// Did the policy present credentials that the key knows nothing of?
    #[must_use]
    pub fn lends_credentials(&self) -> bool {
        let lends = |names: &Vec<HeaderName>| names.iter().any(fields::is_credential);
        self.key_maker().is_none() && self.changed.get().is_some_and(lends)
    }

    /// What the policy says; `None` where the native default decides.
    ///
    /// # Errors
    /// The policy faulted, and the route wants no answer then.
    pub(super) fn opinion(
        &self,
        route: &Route,
        question: &Question<'_>,
        facts: &Facts<'_>,
    ) -> Result<Option<Arc<Decision>>, Fault> {
        match self.ask(question, facts) {
            None => Ok(None),
            Some(Ok(decision)) => Ok(Some(decision)),
            Some(Err(fault)) if route.config.on_fault == OnFault::Refuse => Err(fault),
            Some(Err(_)) => Ok(None),
        }
    }

    /// Whether the policy faulted when it should have edited the request, so that the response is to what a client sent
    /// and not to what its key says.
    #[must_use]
    pub fn is_unshaped(&self) -> bool {
        self.unshaped.load(Ordering::Relaxed)
    }

    fn policy_has(&self, hook: Hook) -> bool {
        self.policy().is_some_and(|policy| policy.reads(hook).is_some())
    }

    /// Notes a word on what the policy did out of the ordinary; the first one stays.
    fn remark(&self, word: &str) {
        if self.remark.get().is_none() {
            let _ = self.remark.set(word.into());
        }
    }

    /// The word, if there is one.
    #[must_use]
    pub fn remarked(&self) -> Option<&Arc<str>> {
        self.remark.get()
    }
}
