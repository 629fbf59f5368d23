//! The workload of the demo, drawn from a seed: the same seed gives the same requests in the same order.

use std::{
    ops::{Range, RangeInclusive},
    time::Duration,
};

use bytes::Bytes;
use serde_json::json;

use super::model::MODEL;

/// Requests that a demo sends at most.
pub const REQUESTS_MAX: usize = 200_000;

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
/// Requests of a burst: as many clients send the same.
const BURST_REQUESTS: RangeInclusive<usize> = 50..=64;
/// Requests of the two phases of a round. Then all responses are awaited, so that an origin that can't keep up is behind
/// by seconds at most.
const ROUND_REQUESTS: usize = 3_000;
/// Share of a round's requests that come at the steady rate: one in so many.
const STEADY_SHARE: usize = 3;

/// The whole workload.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// All requests, in the order in which they arrive.
    pub(super) asks: Vec<Ask>,
    /// When each of them arrives, since its phase began.
    pub(super) arrivals: Vec<Duration>,
    /// The requests again, cut into phases; each begins when the one before has all its responses.
    pub(super) phases: Vec<Phase>,
    /// Those that are the same and arrive at the same instant.
    bursts: Vec<Range<usize>>,
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
    /// How fast they arrive.
    pub(super) rate: Rate,
}

/// How fast requests arrive, however long the responses take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rate {
    /// About half of what the origin alone can carry.
    Steady,
    /// About twice as much as it can carry.
    Rush,
}

impl Rate {
    /// Requests a second, on average.
    pub(super) const fn per_second(self) -> u32 {
        match self {
            Self::Steady => 250,
            Self::Rush => 1_000,
        }
    }
}

/// Draws `requests` requests; page views go to `paths`, the most popular first.
pub(super) fn plan(seed: u64, requests: usize, paths: &[String]) -> Plan {
    let mut author = Author { random: fastrand::Rng::with_seed(seed), paths, known: Default::default(), written: 0 };
    let mut plan = Plan::default();
    let mut left = requests;
    while left > 0 {
        let round = left.min(ROUND_REQUESTS);
        let steady = round.div_ceil(STEADY_SHARE);
        plan.add(Rate::Steady, steady, &mut author);
        plan.add(Rate::Rush, round - steady, &mut author);
        left -= round;
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
        self.bursts.len()
    }

    /// Adds a phase of so many requests, with bursts at equal distances.
    fn add(&mut self, rate: Rate, requests: usize, author: &mut Author<'_>) {
        let start = self.asks.len();
        let sizes: Vec<usize> =
            (0..requests / REQUESTS_PER_BURST).map(|_| author.random.usize(BURST_REQUESTS)).collect();
        let between = requests - sizes.iter().sum::<usize>();
        let stretches = sizes.len() + 1;
        let mut now = Duration::ZERO;
        for stretch in 0..stretches {
            for _ in between * stretch / stretches..between * (stretch + 1) / stretches {
                now += author.pause(rate);
                self.asks.push(author.ask());
                self.arrivals.push(now);
            }
            let Some(&size) = sizes.get(stretch) else { continue };
            now += author.pause(rate);
            let begin = self.asks.len();
            self.asks.extend(std::iter::repeat_n(author.new_input(), size));
            self.arrivals.extend(std::iter::repeat_n(now, size));
            self.bursts.push(begin..self.asks.len());
            // What came at once doesn't come later, so that the rate holds over the phase.
            now += (1..size).map(|_| author.pause(rate)).sum::<Duration>();
        }
        if requests > 0 {
            self.phases.push(Phase { asks: start..self.asks.len(), rate });
        }
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
    /// Returns the time between two arrivals that don't know of each other: exponentially distributed.
    fn pause(&mut self, rate: Rate) -> Duration {
        // The drawn number is less than one.
        Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / f64::from(rate.per_second()))
    }

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
    use crate::demo::model::cost;

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

        for burst in &plan.bursts {
            let (asked, arrival) = (&plan.asks[burst.start], plan.arrivals[burst.start]);
            assert!(plan.asks[burst.clone()].iter().all(|ask| ask == asked));
            assert!(plan.arrivals[burst.clone()].iter().all(|at| *at == arrival), "a burst comes at once");
            assert!(!plan.asks[..burst.start].contains(asked), "a burst asks something new");
        }
    }

    #[test]
    fn requests_arrive_at_the_rates_of_their_phases() {
        let plan = plan(7, 6_000, &paths());
        let rates: Vec<Rate> = plan.phases.iter().map(|phase| phase.rate).collect();
        assert_eq!(rates, [Rate::Steady, Rate::Rush, Rate::Steady, Rate::Rush]);
        for phase in &plan.phases {
            let last = plan.arrivals[phase.asks.end - 1].as_secs_f64();
            let rate = phase.asks.len() as f64 / last;
            let wanted = f64::from(phase.rate.per_second());
            assert!((wanted * 0.85..wanted * 1.15).contains(&rate), "{rate} and not {wanted}");
        }
    }

    #[test]
    fn the_origin_alone_can_carry_one_rate_and_not_the_other() {
        let plan = plan(7, 3_000, &paths());
        for phase in &plan.phases {
            let calls = plan.asks[phase.asks.clone()].iter().filter(|ask| ask.is_call());
            let work: Duration = calls.map(|call| cost(call.items)).sum();
            let load = work.as_secs_f64() / plan.arrivals[phase.asks.end - 1].as_secs_f64();
            match phase.rate {
                Rate::Steady => assert!((0.3..0.7).contains(&load), "{load}"),
                Rate::Rush => assert!((1.5..2.5).contains(&load), "{load}"),
            }
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
        fn phases_cover_every_request_once_in_order(seed: u64, requests in 0_usize..4_000, pages in 0_usize..5) {
            let plan = plan(seed, requests, &paths()[..pages]);
            prop_assert_eq!((plan.asks.len(), plan.arrivals.len()), (requests, requests));
            let mut next = 0;
            for phase in &plan.phases {
                prop_assert_eq!(phase.asks.start, next);
                next = phase.asks.end;
                prop_assert!(plan.arrivals[phase.asks.clone()].is_sorted());
            }
            prop_assert_eq!(next, requests);
            prop_assert!(plan.bursts.iter().all(|burst| BURST_REQUESTS.contains(&burst.len())));
        }

        #[test]
        fn a_rank_is_always_one_of_the_ranks(seed: u64, ranks in 1_usize..10_000) {
            prop_assert!(zipf(&mut fastrand::Rng::with_seed(seed), ranks) < ranks);
        }
    }
}
