//! The policy's side of one request, or of one of its items: which generation decides, what it has decided, and what
//! else was found out on the way. Made when the request comes, and the same until it has its response.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use bytes::Bytes;
use http::HeaderName;
use tracing::debug;

use super::{
    loops::Loops,
    route::{Route, Routes},
    trace,
};
use crate::{
    config::OnFault,
    message::{RequestHead, RequestSpan},
    policy::{
        Arm, Chosen, Decision, Facts, Fault, Hook, HookCall, Input, KeyPlan, Notes, Policy, RequestEdits, consult,
        fields,
    },
};

/// What policies may read beside a request.
#[derive(Debug)]
pub(super) struct PolicyContext {
    /// The node's routes, and with them the state of its pools.
    pub(super) routes: Arc<Routes>,
    /// Bytes of a body as it reads, its codings taken off.
    pub(super) body_bytes_max: u64,
    /// The node's own mark on what it sends on.
    pub(super) loops: Loops,
}

/// The generation that decides for a request, and what it has decided by now. Empty without a policy.
#[derive(Debug, Default)]
pub(super) struct Advice {
    chosen: Option<Chosen>,
    notes: Notes,
    /// The canary has faulted: from then on the fallback decides, which is the active generation, with notes of its
    /// own.
    canary_failed: AtomicBool,
    fallback_notes: Notes,
    /// Which generation made the key: [`CHOSEN`], [`FALLBACK`], or none: it was made natively.
    maker: AtomicU8,
    /// Header fields that the policy set or removed on what is sent upstream.
    changed: OnceLock<Vec<HeaderName>>,
    /// Whether it faulted when it should have edited the request, which is then sent as it came.
    unedited: AtomicBool,
    remark: OnceLock<Arc<str>>,
    /// The span that the request's stages log in.
    span: RequestSpan,
}

/// The chosen generation made the key.
const CHOSEN: u8 = 1;
/// The fallback generation made the key.
const FALLBACK: u8 = 2;

impl Advice {
    /// Returns the advice for a request on a route.
    pub(super) fn of(route: &Route, request: &RequestHead, span: RequestSpan) -> Self {
        Self { chosen: route.policy.as_ref().map(|roster| roster.choose(request)), span, ..Self::default() }
    }

    /// Returns the advice that a request would get, without a shadow and without counting it.
    pub(super) fn preview(route: &Route, request: &RequestHead) -> Self {
        Self { chosen: route.policy.as_ref().map(|roster| roster.preview(request)), ..Self::default() }
    }

    /// Returns the same generation's for a request that follows from this one.
    pub(super) fn afresh(&self) -> Self {
        Self { chosen: self.chosen.clone(), span: self.span.clone(), ..Self::default() }
    }

    /// Returns the same generation's for one of the request's items.
    pub(super) fn for_item(&self, number: usize) -> Self {
        Self { chosen: self.chosen.clone(), span: self.span.item(number), ..Self::default() }
    }

    /// The span of the request, or of the item.
    pub(super) const fn span(&self) -> &RequestSpan {
        &self.span
    }

    /// Returns the generation that decides at present.
    pub(super) fn policy(&self) -> Option<&Arc<dyn Policy>> {
        let chosen = self.chosen.as_ref()?;
        match &chosen.fallback {
            Some(fallback) if self.canary_failed.load(Ordering::Relaxed) => Some(fallback),
            _ => Some(&chosen.policy),
        }
    }

    /// Returns the generation that decided, and the arms that were drawn.
    pub(super) fn into_parts(self) -> (Option<Arc<dyn Policy>>, Vec<Arm>) {
        let Some(Chosen { policy, fallback, .. }) = self.chosen else { return (None, Vec::new()) };
        match fallback.filter(|_| self.canary_failed.into_inner()) {
            Some(fallback) => (Some(fallback), self.fallback_notes.into_arms()),
            None => (Some(policy), self.notes.into_arms()),
        }
    }

    fn notes(&self) -> &Notes {
        if self.canary_failed.load(Ordering::Relaxed) { &self.fallback_notes } else { &self.notes }
    }

    /// Whether the body must be in memory for it. For a request that is only passed on, fewer hooks are called.
    pub(super) fn needs_body(&self, passed: bool) -> bool {
        let reads = |policy: &Arc<dyn Policy>| {
            if !passed {
                return policy.needs_body();
            }
            let hooks = [Hook::Features, Hook::Route].into_iter().filter_map(|hook| policy.reads(hook)).flatten();
            let units = policy.experiments().iter().map(|experiment| &experiment.unit);
            hooks.chain(units).any(Input::needs_body)
        };
        self.chosen.as_ref().is_some_and(|chosen| reads(&chosen.policy) || chosen.fallback.iter().any(reads))
    }

    /// Whether the key depends on the body.
    pub(super) fn keys_by_body(&self) -> bool {
        let reads = |policy: &Arc<dyn Policy>| consult::key_reads(&**policy).any(Input::needs_body);
        self.chosen.as_ref().is_some_and(|chosen| reads(&chosen.policy) && chosen.fallback.iter().all(reads))
    }

    /// The label of its generation, if that is a canary which still decides. What a canary stores is not shared with
    /// others: if it is dropped, its mistakes are dropped with it.
    pub(super) fn on_trial(&self) -> Option<&Arc<str>> {
        let chosen = self.chosen.as_ref().filter(|chosen| chosen.fallback.is_some())?;
        (!self.canary_failed.load(Ordering::Relaxed)).then(|| chosen.policy.label())
    }

    /// Notes that the generation that decides at present made the key.
    pub(super) fn made_key(&self) {
        let maker = if self.canary_failed.load(Ordering::Relaxed) { FALLBACK } else { CHOSEN };
        self.maker.store(maker, Ordering::Relaxed);
    }

    /// The generation that made the key; `None` if it was made natively.
    pub(super) fn key_maker(&self) -> Option<&Arc<dyn Policy>> {
        let chosen = self.chosen.as_ref()?;
        match self.maker.load(Ordering::Relaxed) {
            CHOSEN => Some(&chosen.policy),
            FALLBACK => chosen.fallback.as_ref(),
            _ => None,
        }
    }

    /// Whether the key is the native one, so that one URL is one key.
    pub(super) fn keys_natively(&self) -> bool {
        self.key_maker().is_none() && self.on_trial().is_none()
    }

    /// Whether a look-up by the head has no effect in the policy: nothing is called, drawn or compared, so that it may be
    /// repeated any number of times.
    pub(super) fn is_repeatable(&self) -> bool {
        let Some(Chosen { policy, fallback, shadow }) = &self.chosen else { return true };
        let calls = match policy.key_plan() {
            KeyPlan::Native => false,
            KeyPlan::Recipe(parts) => parts.iter().any(|part| matches!(part.input, Input::Feature(_))),
            KeyPlan::Call(_) => true,
        };
        !calls && fallback.is_none() && shadow.is_none() && policy.experiments().is_empty()
    }

    /// Whether the policy has this hook, or a shadow may have it.
    pub(super) fn has(&self, hook: Hook) -> bool {
        let shadow = self.chosen.as_ref().and_then(|chosen| chosen.shadow.as_ref());
        let shadowed = shadow.is_some_and(|shadow| shadow.compares(hook));
        shadowed || self.policy_has(hook)
    }

    /// Returns what it may read of a request.
    pub(super) fn facts<'a>(
        &'a self,
        policy_context: &'a PolicyContext,
        head: &'a RequestHead,
        body: Option<&'a Bytes>,
    ) -> Facts<'a> {
        Facts::new(head, body, self.notes())
            .decoded_within(policy_context.body_bytes_max)
            .beside(&*policy_context.routes)
    }

    /// Draws the arms of the policy's experiments.
    pub(super) fn draw(&self, facts: &Facts<'_>) {
        if let Some(policy) = self.policy()
            && !policy.experiments().is_empty()
        {
            consult::draw(&**policy, &facts.noted(self.notes()));
        }
    }

    /// The arms that were drawn.
    pub(super) fn arms(&self) -> &[Arm] {
        self.notes().arms()
    }

    /// Calls a hook; `None` if the policy doesn't have it.
    pub(super) fn ask(&self, call: &HookCall<'_>, facts: &Facts<'_>) -> Option<Result<Arc<Decision>, Fault>> {
        let begun = self.span.timer();
        let said = self.with_fallback(facts, |policy, facts| consult::ask(&**policy, call, facts));
        if let (Some(begun), Some(said), Some(policy)) = (begun, &said, self.policy()) {
            trace::decided(&self.span, call.hook().name(), policy.label(), said.as_deref(), begun);
        }
        if let Some(shadow) = self.chosen.as_ref().and_then(|chosen| chosen.shadow.as_ref()) {
            shadow.witness(call, facts, said.as_ref());
        }
        said
    }

    /// Runs `make` with the generation that decides. If that is a canary and faults, the active one decides, for this
    /// and for all that follows.
    pub(super) fn with_fallback<T>(
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
        self.canary_failed.store(true, Ordering::Relaxed);
        // The outcome is counted for the arms of the generation that decides.
        self.draw(facts);
        make(self.policy()?, &facts.noted(self.notes()))
    }

    /// Notifies a shadow of the key that was made.
    pub(super) fn witness_key(&self, facts: &Facts<'_>) {
        if let Some(Chosen { policy, fallback, shadow: Some(shadow) }) = &self.chosen {
            // The keys of a canary and of the active generation are compared off the request path.
            let made = if fallback.is_none() { consult::key(&**policy, facts) } else { None };
            let decided = made.map(|decided| decided.map(Arc::new));
            shadow.witness(&HookCall::Key, facts, decided.as_ref());
        }
    }

    /// Returns what the policy changes before the request is sent upstream, if anything.
    ///
    /// # Errors
    /// The policy faulted, and the route refuses the request then.
    pub(super) fn request_edits(&self, route: &Route, facts: &Facts<'_>) -> Result<Option<RequestEdits>, Fault> {
        if !self.has(Hook::Features) {
            return Ok(None);
        }
        let opinion = self.opinion(route, &HookCall::Features, facts)?;
        match opinion.as_deref() {
            None if route.config.on_fault == OnFault::Bypass && self.policy_has(Hook::Features) => {
                // It is sent as it came, and so its response must not be shared.
                self.unedited.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Some(Decision::Features(request_edits)) => {
                let _ = self.changed.set(request_edits.headers.iter().map(|(name, _)| name.clone()).collect());
                Ok(Some(request_edits.clone()))
            }
            _ => Ok(None),
        }
    }

    /// Whether the policy set or removed this header field on what was sent, so that the client's own value doesn't
    /// count.
    pub(super) fn changed(&self, name: &HeaderName) -> bool {
        self.changed.get().is_some_and(|names| names.contains(name))
    }

    /// Whether the policy set or removed credentials that aren't part of the key.
    pub(super) fn lends_credentials(&self) -> bool {
        let lends = |names: &Vec<HeaderName>| names.iter().any(fields::is_credential);
        self.key_maker().is_none() && self.changed.get().is_some_and(lends)
    }

    /// Returns the policy's decision; `None` where the native default decides.
    ///
    /// # Errors
    /// The policy faulted, and the route refuses the request then.
    pub(super) fn opinion(
        &self,
        route: &Route,
        call: &HookCall<'_>,
        facts: &Facts<'_>,
    ) -> Result<Option<Arc<Decision>>, Fault> {
        match self.ask(call, facts) {
            None => Ok(None),
            Some(Ok(decision)) => Ok(Some(decision)),
            Some(Err(fault)) if route.config.on_fault == OnFault::Refuse => Err(fault),
            Some(Err(_)) => Ok(None),
        }
    }

    /// Whether the policy faulted when it should have edited the request, so that the response is to what a client sent
    /// and not to what its key says.
    pub(super) fn is_unedited(&self) -> bool {
        self.unedited.load(Ordering::Relaxed)
    }

    fn policy_has(&self, hook: Hook) -> bool {
        self.policy().is_some_and(|policy| policy.reads(hook).is_some())
    }

    /// Notes what the policy did out of the ordinary, in a word; the first one stays.
    fn remark(&self, word: &str) {
        if self.remark.get().is_none() {
            let _ = self.remark.set(word.into());
        }
    }

    /// Returns that word, if there is one.
    pub(super) fn remarked(&self) -> Option<&Arc<str>> {
        self.remark.get()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use http::Method;

    use super::*;
    use crate::{
        clock::Timestamp,
        policy::{Experiment, KeyPlan, Outcome, experiment, facts::tests::request},
    };

    /// A generation that has no hook, and an experiment with an arm that is named like itself; the test decides for it.
    #[derive(Debug)]
    struct Generation {
        label: Arc<str>,
        experiments: [Experiment; 1],
    }

    impl Generation {
        fn new(label: &str) -> Self {
            let arms = vec![experiment::Arm { name: label.to_owned(), weight: 1 }];
            let experiments = [Experiment { name: "e".to_owned(), unit: Input::Path, arms }];
            Self { label: label.into(), experiments }
        }
    }

    impl Policy for Generation {
        fn label(&self) -> &Arc<str> {
            &self.label
        }

        fn key_plan(&self) -> &KeyPlan {
            &KeyPlan::Native
        }

        fn meaning(&self) -> &[u8; 32] {
            &[0; 32]
        }

        fn reads(&self, _: Hook) -> Option<&[Input]> {
            None
        }

        fn experiments(&self) -> &[Experiment] {
            &self.experiments
        }

        fn decide(
            &self,
            _: &HookCall<'_>,
            _: &[Option<Cow<'_, [u8]>>],
            _: Option<Timestamp>,
        ) -> Result<Arc<Decision>, Fault> {
            Err(Fault::Open)
        }

        fn observe(&self, _: &[Arm], _: &Outcome) {}

        fn needs_body(&self) -> bool {
            false
        }
    }

    fn advice(fallback: Option<&str>) -> Advice {
        let generation = |label: &str| Arc::new(Generation::new(label)) as Arc<dyn Policy>;
        let chosen = Chosen { policy: generation("chosen"), fallback: fallback.map(generation), shadow: None };
        Advice { chosen: Some(chosen), ..Advice::default() }
    }

    #[test]
    fn a_canary_that_faults_is_replaced_for_this_and_all_that_follows() {
        const CANARY: Option<&str> = Some("active");
        // the fallback, the generations that fault, the one that decides, the one that decides after that, the word,
        // the trial
        for (fallback, faulting, said, after, remark, trial) in [
            (None, &[][..], Some("chosen"), "chosen", None, None),
            (None, &["chosen"], None, "chosen", Some("breaker-open"), None),
            (CANARY, &[], Some("chosen"), "chosen", None, Some("chosen")),
            (CANARY, &["active"], Some("chosen"), "chosen", None, Some("chosen")),
            (CANARY, &["chosen"], Some("active"), "active", Some("breaker-open"), None),
            (CANARY, &["chosen", "active"], None, "active", Some("breaker-open"), None),
        ] {
            let (head, notes) = (request(Method::GET, "/", &[]), Notes::default());
            let (facts, advice) = (Facts::new(&head, None, &notes), advice(fallback));
            advice.draw(&facts);
            let made = advice.with_fallback(&facts, |policy, _| {
                let label = policy.label();
                Some(if faulting.contains(&&**label) { Err(Fault::Open) } else { Ok(label.to_string()) })
            });
            let what = format!("fallback {fallback:?}, faulting {faulting:?}");
            assert_eq!(made, Some(said.map(str::to_owned).ok_or(Fault::Open)), "{what}");
            assert_eq!(advice.policy().map(|policy| &**policy.label()), Some(after), "{what}");
            assert_eq!(advice.remarked().map(|word| &**word), remark, "{what}");
            assert_eq!(advice.on_trial().map(|label| &**label), trial, "{what}");
            let arms: Vec<&str> = advice.arms().iter().map(|arm| &*arm.name).collect();
            assert_eq!(arms, [after], "{what}: the arms of the generation that decides");
            advice.made_key();
            assert_eq!(advice.key_maker().map(|policy| &**policy.label()), Some(after), "{what}");
            assert_eq!(
                advice.into_parts().0.map(|policy| policy.label().to_string()).as_deref(),
                Some(after),
                "{what}"
            );
        }
    }

    #[test]
    fn without_a_policy_nobody_decides() {
        let advice = Advice::default();
        let (head, notes) = (request(Method::GET, "/", &[]), Notes::default());
        let facts = Facts::new(&head, None, &notes);
        assert_eq!(advice.with_fallback::<()>(&facts, |_, _| panic!("nobody is asked")), None);
        assert!(advice.keys_natively() && advice.policy().is_none() && !advice.has(Hook::Key));
    }
}
