//! The policy's side of one request, or of one of its questions: which generation decides, what it has said, and what
//! else was found out on the way. Made when the request comes, and the same until it is answered.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tracing::debug;

use super::{Pipeline, Route};
use crate::{
    config::OnFault,
    message::RequestHead,
    policy::{Arm, Chosen, Decision, Facts, Fault, Hook, Input, KeyPlan, Notes, Policy, Question, Shape, consult},
};

/// Who decides for a request, and what is known by now. Without a policy, nobody and nothing.
#[derive(Debug, Default)]
pub struct Advice {
    chosen: Option<Chosen>,
    notes: Notes,
    remark: OnceLock<Arc<str>>,
}

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

    /// The generation that decides.
    #[must_use]
    pub fn policy(&self) -> Option<&Arc<dyn Policy>> {
        self.chosen.as_ref().map(|chosen| &chosen.policy)
    }

    /// Must the body be at hand for it?
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| {
            chosen.policy.needs_body()
                || chosen.instead.as_ref().is_some_and(|policy| policy.needs_body())
                || chosen.shadow.as_ref().is_some_and(|shadow| shadow.needs_body())
        })
    }

    /// Does the key depend on the body?
    #[must_use]
    pub fn keys_by_body(&self) -> bool {
        let reads = |policy: &Arc<dyn Policy>| {
            let mut hooks = [Hook::Key, Hook::Features].into_iter().filter_map(|hook| policy.reads(hook));
            *policy.key_plan() != KeyPlan::Native && hooks.any(|inputs| inputs.iter().any(Input::needs_body))
        };
        self.chosen.as_ref().is_some_and(|chosen| reads(&chosen.policy) && chosen.instead.iter().all(reads))
    }

    /// Is the key the native one, so that one URL is one key?
    #[must_use]
    pub fn keys_natively(&self) -> bool {
        let native = |policy: &Arc<dyn Policy>| *policy.key_plan() == KeyPlan::Native;
        self.chosen.as_ref().is_none_or(|chosen| native(&chosen.policy) && chosen.instead.iter().all(native))
    }

    /// Does the policy have this hook, or is one tried that does?
    #[must_use]
    pub fn has(&self, hook: Hook) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| chosen.shadow.is_some() || chosen.policy.reads(hook).is_some())
    }

    /// What is read for it from a request.
    #[must_use]
    pub fn facts<'a>(&'a self, node: &'a Pipeline, head: &'a RequestHead, body: Option<&'a Bytes>) -> Facts<'a> {
        Facts::new(head, body, &self.notes).beside(node)
    }

    /// Draws the arms of the policy's experiments.
    pub fn draw(&self, facts: &Facts<'_>) {
        if let Some(policy) = self.policy()
            && !policy.experiments().is_empty()
        {
            consult::draw(&**policy, facts);
        }
    }

    /// The arms that were drawn.
    #[must_use]
    pub fn arms(&self) -> &[Arm] {
        self.notes.arms()
    }

    /// Asks a hook; `None` if the policy doesn't have it.
    pub fn ask(&self, question: &Question<'_>, facts: &Facts<'_>) -> Option<Result<Arc<Decision>, Fault>> {
        let said = self.by_each(facts, |policy, facts| consult::ask(policy, question, facts));
        if let Some(shadow) = self.chosen.as_ref().and_then(|chosen| chosen.shadow.as_ref()) {
            shadow.witness(question, facts, said.as_ref());
        }
        said
    }

    /// Makes something by the policy, or if it faults by the one that stands in for it.
    pub(super) fn by_each<T>(
        &self,
        facts: &Facts<'_>,
        make: impl Fn(&dyn Policy, &Facts<'_>) -> Option<Result<T, Fault>>,
    ) -> Option<Result<T, Fault>> {
        let chosen = self.chosen.as_ref()?;
        let made = make(&*chosen.policy, facts);
        let Some(Err(fault)) = &made else { return made };
        self.remark(fault.kind());
        match &chosen.instead {
            Some(instead) => {
                debug!(target: "policy", policy = %chosen.policy.label(), %fault, "the active generation is asked instead");
                make(&**instead, &facts.noted(&Notes::default()))
            }
            None => made,
        }
    }

    /// Tells a shadow which key was made.
    pub(super) fn witness_key(&self, facts: &Facts<'_>) {
        if let Some(Chosen { policy, shadow: Some(shadow), .. }) = &self.chosen {
            let decided = consult::key(&**policy, facts).map(|decided| decided.map(Arc::new));
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
        match self.opinion(route, &Question::Features, facts)?.as_deref() {
            Some(Decision::Features(shape)) => Ok(Some(shape.clone())),
            _ => Ok(None),
        }
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

    /// Notes a word on what the policy did out of the ordinary; the first one stays.
    pub(super) fn remark(&self, word: &str) {
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
