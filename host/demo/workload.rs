//! The workload of the demo, drawn from a seed: the same seed gives the same requests in the same order.

use std::ops::{Range, RangeInclusive};

use bytes::Bytes;
use serde_json::json;

use super::model::MODEL;

/// Requests that a demo sends at most.
pub const REQUESTS_MAX: usize = 200_000;

/// Clients, each with a connection of its own.
pub(super) const CLIENTS: usize = 64;

/// The path of embedding calls.
pub(super) const EMBEDDINGS: &str = "/v1/embeddings";

/// The tenant; the policy keeps responses of different ones apart.
pub(super) const TENANTS: [&str; 3] = ["acme", "borealis", "cormorant"];

/// Share of embedding calls between the bursts; the rest are page views.
const CALL_SHARE: f64 = 0.35;
/// Share of calls that carry an array.
const ARRAY_SHARE: f64 = 0.10;
/// Share of single inputs that the tenant has not sent before.
const NEW_SHARE: f64 = 0.40;
/// Items of an array.
const ARRAY_ITEMS: RangeInclusive<usize> = 8..=32;
/// Requests for each burst.
const REQUESTS_PER_BURST: usize = 500;
/// Clients that send the same request in a burst.
const BURST_CLIENTS: RangeInclusive<usize> = 50..=CLIENTS;

/// The whole workload.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// All requests, in the order in which they are begun.
    pub(super) asks: Vec<Ask>,
    /// The requests again, cut into phases; each begins when the one before has all its responses.
    pub(super) phases: Vec<Phase>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// Path and query.
    pub(super) target: String,
    /// The tenant, for `x-tenant`.
    pub(super) tenant: Option<&'static str>,
    /// The body of an embedding call; a page view has none.
    pub(super) body: Option<Bytes>,
    /// Inputs of an embedding call.
    pub(super) items: usize,
}

/// A stretch of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    /// Indices into [`Plan::asks`].
    pub(super) asks: Range<usize>,
    /// How the clients share them.
    pub(super) pace: Pace,
}

/// How clients share the requests of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// A client that is free takes the next one.
    Spread,
    /// All at the same instant, one each.
    Burst,
}

/// Draws `requests` requests; page views go to `paths`, the most popular first.
pub(super) fn plan(seed: u64, requests: usize, paths: &[String]) -> Plan {
    let mut author = Author { random: fastrand::Rng::with_seed(seed), paths, known: Default::default(), written: 0 };
    let bursts: Vec<usize> = (0..requests / REQUESTS_PER_BURST).map(|_| author.random.usize(BURST_CLIENTS)).collect();
    let between = requests - bursts.iter().sum::<usize>();
    let stretches = bursts.len() + 1;
    let mut plan = Plan::default();
    for stretch in 0..stretches {
        let length = between * (stretch + 1) / stretches - between * stretch / stretches;
        plan.add(Pace::Spread, (0..length).map(|_| author.ask()));
        if let Some(clients) = bursts.get(stretch) {
            plan.add(Pace::Burst, std::iter::repeat_n(author.new_input(), *clients));
        }
    }
    plan
}

/// Returns the text of an input. Different numbers give different texts.
pub(super) fn input_text(number: usize) -> String {
    const OPENINGS: [&str; 8] =
        ["how far is", "who looks after", "when was", "what became of", "where is", "why is", "how old is", "what is"];
    const SUBJECTS: [&str; 9] = [
        "the lighthouse",
        "the old harbour",
        "the ferry",
        "the bell buoy",
        "the salt marsh",
        "the heron colony",
        "the tide mill",
        "the pilot boat",
        "the chapel",
    ];
    const PLACES: [&str; 8] = [
        "behind the sound",
        "at the north point",
        "beside the causeway",
        "in the outer bay",
        "below the cliffs",
        "on the western holm",
        "across the strait",
        "near the fish market",
    ];
    const TIMES: [&str; 8] = [
        "in winter",
        "at low water",
        "before the storm",
        "these days",
        "after dark",
        "in a south-westerly",
        "during the regatta",
        "on a Sunday",
    ];
    const ALL: usize = OPENINGS.len() * SUBJECTS.len() * PLACES.len() * TIMES.len();
    // A stride without a common factor visits every combination once, and makes neighbours look unlike each other.
    const STRIDE: usize = 1_999;
    let mut mixed = (number % ALL) * STRIDE % ALL;
    let mut pick = |words: &[&'static str]| {
        let word = words[mixed % words.len()];
        mixed /= words.len();
        word
    };
    let (opening, subject, place, time) = (pick(&OPENINGS), pick(&SUBJECTS), pick(&PLACES), pick(&TIMES));
    match number / ALL {
        0 => format!("{opening} {subject} {place} {time}?"),
        round => format!("{opening} {subject} {place} {time}, part {round}?"),
    }
}

impl Plan {
    /// Returns the inputs of all calls.
    pub(super) fn items(&self) -> usize {
        self.asks.iter().map(|ask| ask.items).sum()
    }

    /// How many bursts there are.
    pub(super) fn bursts(&self) -> usize {
        self.phases.iter().filter(|phase| phase.pace == Pace::Burst).count()
    }

    fn add(&mut self, pace: Pace, asks: impl Iterator<Item = Ask>) {
        let start = self.asks.len();
        self.asks.extend(asks);
        self.phases.push(Phase { asks: start..self.asks.len(), pace });
    }
}

impl Ask {
    /// Whether it is an embedding call; otherwise it is a page view.
    pub(super) const fn is_call(&self) -> bool {
        self.body.is_some()
    }
}

/// Draws requests and remembers those that were drawn.
struct Author<'p> {
    random: fastrand::Rng,
    paths: &'p [String],
    /// Numbers of the inputs that each tenant has sent, the oldest first.
    known: [Vec<usize>; TENANTS.len()],
    written: usize,
}

impl Author<'_> {
    fn ask(&mut self) -> Ask {
        let call = self.random.f64() < CALL_SHARE;
        if !call && !self.paths.is_empty() {
            return self.view();
        }
        let tenant = self.tenant();
        if self.random.f64() < ARRAY_SHARE { self.array(tenant) } else { self.single(tenant) }
    }

    fn view(&mut self) -> Ask {
        let page = zipf(&mut self.random, self.paths.len());
        Ask { target: self.paths[page].clone(), tenant: None, body: None, items: 0 }
    }

    fn single(&mut self, tenant: usize) -> Ask {
        let known = self.known[tenant].len();
        let number = if known == 0 || self.random.f64() < NEW_SHARE {
            self.invent(tenant)
        } else {
            self.known[tenant][zipf(&mut self.random, known)]
        };
        call(tenant, &json!(input_text(number)), 1)
    }

    fn new_input(&mut self) -> Ask {
        let tenant = self.tenant();
        let number = self.invent(tenant);
        call(tenant, &json!(input_text(number)), 1)
    }

    /// Half of it a run of what the tenant has sent before, as far as there is so much, the rest new.
    fn array(&mut self, tenant: usize) -> Ask {
        let items = self.random.usize(ARRAY_ITEMS);
        let known = &self.known[tenant];
        let start = zipf(&mut self.random, known.len().max(1));
        let mut numbers: Vec<usize> = known.iter().skip(start).take(items / 2).copied().collect();
        while numbers.len() < items {
            let number = self.invent(tenant);
            numbers.push(number);
        }
        self.random.shuffle(&mut numbers);
        let texts: Vec<String> = numbers.into_iter().map(input_text).collect();
        call(tenant, &json!(texts), items)
    }

    fn invent(&mut self, tenant: usize) -> usize {
        let number = self.written;
        self.written += 1;
        self.known[tenant].push(number);
        number
    }

    fn tenant(&mut self) -> usize {
        self.random.usize(..TENANTS.len())
    }
}

fn call(tenant: usize, input: &serde_json::Value, items: usize) -> Ask {
    let body = json!({ "model": MODEL, "input": input }).to_string();
    Ask { target: EMBEDDINGS.to_owned(), tenant: Some(TENANTS[tenant]), body: Some(body.into()), items }
}

/// A rank below `ranks`, drawn by Zipf's law with exponent one: the second is about half as likely as the first.
fn zipf(random: &mut fastrand::Rng, ranks: usize) -> usize {
    // The inverse of the law's continuous form; ranks are far below 2^53, so nothing is lost in the conversion.
    let drawn = ((ranks + 1) as f64).powf(random.f64()) as usize;
    drawn.saturating_sub(1).min(ranks.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn paths() -> Vec<String> {
        (0..40).map(|number| format!("/{number}")).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_one_another() {
        assert_eq!(plan(1, 1_000, &paths()), plan(1, 1_000, &paths()));
        assert_ne!(plan(1, 1_000, &paths()), plan(2, 1_000, &paths()));
    }

    #[test]
    fn a_plan_has_repeats_arrays_and_bursts_of_something_new() {
        let plan = plan(7, 3_000, &paths());
        assert_eq!(plan.bursts(), 6);
        let calls: Vec<&Ask> = plan.asks.iter().filter(|ask| ask.is_call()).collect();
        let distinct: HashSet<(&Option<&str>, &Option<Bytes>)> =
            calls.iter().map(|ask| (&ask.tenant, &ask.body)).collect();
        assert!(distinct.len() * 3 < calls.len() * 2, "{} of {} differ", distinct.len(), calls.len());
        assert!(calls.iter().any(|ask| ask.items > 1));
        assert!((1_000..2_000).contains(&calls.len()), "{} calls", calls.len());

        for phase in plan.phases.iter().filter(|phase| phase.pace == Pace::Burst) {
            let asked = &plan.asks[phase.asks.start];
            assert!(plan.asks[phase.asks.clone()].iter().all(|ask| ask == asked));
            assert!(!plan.asks[..phase.asks.start].contains(asked), "a burst asks something new");
        }
    }

    #[test]
    fn no_two_inputs_are_alike() {
        let texts: HashSet<String> = (0..10_000).map(input_text).collect();
        assert_eq!(texts.len(), 10_000);
    }

    #[test]
    fn the_first_of_forty_is_drawn_about_twice_as_often_as_the_second() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut drawn = [0_u32; 40];
        for _ in 0..100_000 {
            drawn[zipf(&mut random, 40)] += 1;
        }
        let ratio = f64::from(drawn[0]) / f64::from(drawn[1]);
        assert!((1.5..2.5).contains(&ratio), "{ratio}");
        assert!(drawn.iter().all(|times| *times > 0));
    }

    proptest! {
        #[test]
        fn phases_cover_every_request_once_in_order(seed: u64, requests in 0_usize..2_000, pages in 0_usize..5) {
            let plan = plan(seed, requests, &paths()[..pages]);
            prop_assert_eq!(plan.asks.len(), requests);
            let mut next = 0;
            for phase in &plan.phases {
                prop_assert_eq!(phase.asks.start, next);
                next = phase.asks.end;
                let burst = phase.pace == Pace::Burst;
                prop_assert!(!burst || BURST_CLIENTS.contains(&phase.asks.len()));
            }
            prop_assert_eq!(next, requests);
        }

        #[test]
        fn a_rank_is_always_one_of_the_ranks(seed: u64, ranks in 1_usize..10_000) {
            prop_assert!(zipf(&mut fastrand::Rng::with_seed(seed), ranks) < ranks);
        }
    }
}
