//! The right model for each request: a hard one goes to a model that is large enough, an easy one to a cheap model, an
//! urgent one to a fast model, and nobody waits behind a model that fails or is busy.

use holm_sdk::{
    Candidate, Choice, Encoding, Fault, Input, Policy, Route, Tokens, Values, bytes, config::Table, json::Value,
    parsed, ranked, text,
};

/// The operator's table. Lower scores are better.
#[derive(Debug)]
struct ModelRouter {
    /// The size of a model, by its name: 1 is the smallest, and what isn't named is of that size.
    sizes: Vec<(String, u64)>,
    /// Tokens of a prompt that is as hard as a prompt gets by its length.
    tokens_hard: u64,
    /// Words of the last message that show that a response needs thought; in lower case.
    words_hard: Vec<String>,
    weights: Weights,
    encoding: Encoding,
}

/// The weights in a candidate's score.
#[derive(Debug)]
struct Weights {
    /// Being smaller than the request needs.
    size: u64,
    /// Its price.
    cost: u64,
    /// The time it takes: half of it p50, half p99.
    latency: u64,
    /// The same, where the request is urgent.
    urgent: u64,
    /// Requests that it has or that wait for it.
    load: u64,
    /// Responses that failed.
    errors: u64,
}

/// So many requests are few: up to here one more or less hardly matters.
const LOAD_LOW: u64 = 16;

impl Policy for ModelRouter {
    fn configure(config: &str) -> Result<Self, Fault> {
        let mut table = Table::parse(config)?;
        let mut weights = table.table("weights")?.unwrap_or_default();
        let mut weight =
            |name, default| weights.number(name).map(|weight: Option<u32>| weight.unwrap_or(default).into());
        let policy = Self {
            sizes: sizes(&table.table("sizes")?.unwrap_or_default())?,
            tokens_hard: table.number("tokens_hard")?.unwrap_or(2_000),
            words_hard: table.texts("words_hard")?.unwrap_or_else(|| vec!["```".into(), "step by step".into()]),
            weights: Weights {
                size: weight("size", 16)?,
                cost: weight("cost", 4)?,
                latency: weight("latency", 1)?,
                urgent: weight("urgent", 8)?,
                load: weight("load", 2)?,
                errors: weight("errors", 16)?,
            },
            encoding: table.encoding("encoding")?.unwrap_or(Encoding::O200kBase),
        };
        weights.finish()?;
        table.finish()?;
        Ok(policy)
    }
}

fn sizes(table: &Table) -> Result<Vec<(String, u64)>, Fault> {
    let size = |(model, size): (&str, &Value)| match size.as_number::<u32>() {
        Some(size @ 1..) => Ok((model.to_owned(), size.into())),
        _ => Err(Fault::new(1, format!("the size of \"{model}\" isn't a whole number from 1 on"))),
    };
    table.fields().map(size).collect()
}

impl Route for ModelRouter {
    fn reads(&self) -> Vec<Input> {
        vec![
            Input::BodyTokens(Tokens { pointer: "/messages".into(), encoding: self.encoding }),
            Input::BodyJson("/messages".into()),
            Input::Header("x-priority".into()),
            Input::BodyJson("/priority".into()),
            Input::Header("x-budget-micro".into()),
        ]
    }

    fn choose(&self, values: Values, candidates: &[Candidate]) -> Result<Choice, Fault> {
        let urgent = text(&values, 2).is_some_and(|priority| priority.eq_ignore_ascii_case("high"))
            || bytes(&values, 3) == Some(b"\"high\"");
        let budget: Option<u64> = text(&values, 4).and_then(|budget| budget.trim().parse().ok());
        let over = |candidate: &Candidate| budget.is_some_and(|budget| candidate.cost_micro > budget);
        let score = self.scores(self.hardness(&values), urgent, candidates);
        let mut order = ranked(candidates, |candidate| (over(candidate), candidate.draining, score(candidate)));
        // Those over the budget are last by now. Where all are, too expensive a response is better than none.
        let affordable = candidates.iter().filter(|candidate| !over(candidate)).count();
        order.truncate(if affordable > 0 { affordable } else { candidates.len() });
        let first = order.first().and_then(|index| candidates.get(*index as usize)).filter(|_| urgent);
        let hedge_after_us = first.map(|first| u32::try_from(first.p99_us).unwrap_or(u32::MAX).max(1_000));
        Ok(Choice { order, hedge_after_us, deadline_us: None })
    }
}

impl ModelRouter {
    /// The difficulty of a request, in thousandths: half by its length, a third by what its last message says, the rest
    /// by the number of messages before.
    fn hardness(&self, values: &Values) -> u64 {
        let counts = parsed(values, 0).unwrap_or(Value::Null);
        let counts = counts.as_list().unwrap_or_default();
        let tokens = counts.iter().filter_map(Value::as_number::<u64>).fold(0, u64::saturating_add);
        let last = parsed(values, 1).and_then(|messages| Some(messages.as_list()?.last()?.to_string().to_lowercase()));
        let thought = last.is_some_and(|last| self.words_hard.iter().any(|word| last.contains(word.as_str())));
        let earlier = counts.len().saturating_sub(1) as u64;
        share(tokens, self.tokens_hard, 500) + if thought { 333 } else { 0 } + share(earlier, 10, 167)
    }

    /// The score of each candidate: what counts against it, each against the most there is among them, by its weight.
    fn scores(&self, hardness: u64, urgent: bool, candidates: &[Candidate]) -> impl Fn(&Candidate) -> u64 {
        let most = |of: fn(&Candidate) -> u64| candidates.iter().map(of).max().unwrap_or(0);
        let load = |one: &Candidate| u64::from(one.inflight) + u64::from(one.queued);
        let (dearest, slowest, busiest) = (most(|one| one.cost_micro), most(latency), most(load).max(LOAD_LOW));
        let largest = candidates.iter().map(|candidate| self.size(candidate)).max().unwrap_or(1);
        let wanted = 1_000 + hardness * (largest - 1); // in thousandths of a size
        let Weights { size: of_size, cost: of_cost, load: of_load, errors: of_errors, .. } = self.weights;
        let of_latency = if urgent { self.weights.urgent } else { self.weights.latency };
        move |candidate| {
            of_size * share(wanted.saturating_sub(self.size(candidate) * 1_000), largest * 1_000, 1_000)
                + of_cost * share(candidate.cost_micro, dearest, 1_000)
                + of_latency * share(latency(candidate), slowest, 1_000)
                + of_load * share(load(candidate), busiest, 1_000)
                + of_errors * share(candidate.error_ppm.into(), 1_000_000, 1_000)
        }
    }

    fn size(&self, candidate: &Candidate) -> u64 {
        self.sizes.iter().find(|(model, _)| *model == candidate.model).map_or(1, |(_, size)| *size)
    }
}

fn latency(candidate: &Candidate) -> u64 {
    candidate.p50_us / 2 + candidate.p99_us / 2
}

/// The part that `value` is of `most`, as a part of `whole`; all of it from there on, nothing where there is no most.
fn share(value: u64, most: u64, whole: u64) -> u64 {
    let part = u128::from(value.min(most)) * u128::from(whole);
    part.checked_div(most.into()).map_or(0, |part| part as u64)
}

holm_sdk::policy!(ModelRouter: route);

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: &str = r#"{"sizes": {"m-small": 1, "m-medium": 2, "m-large": 3}}"#;

    fn candidate(model: &str, cost_micro: u64, p50_us: u64) -> Candidate {
        Candidate { model: model.into(), cost_micro, p50_us, p99_us: p50_us * 4, ..Candidate::default() }
    }

    fn three() -> [Candidate; 3] {
        [candidate("m-large", 900, 40_000), candidate("m-small", 100, 8_000), candidate("m-medium", 300, 15_000)]
    }

    /// The choice for these counts, last message, priority and budget.
    fn chosen(values: [Option<&str>; 5], candidates: &[Candidate]) -> Choice {
        let values = values.map(|value| value.map(|text| text.as_bytes().to_vec()));
        ModelRouter::configure(SIZES).unwrap().choose(values.into(), candidates).unwrap()
    }

    const EASY: [Option<&str>; 5] = [Some("[20]"), Some(r#"["Hello"]"#), None, None, None];
    const HARD: [Option<&str>; 5] = [Some("[1800,900]"), Some(r#"["", "Think Step by Step"]"#), None, None, None];

    #[test]
    fn hard_requests_go_to_large_models_and_easy_ones_to_cheap_ones() {
        assert_eq!(chosen(EASY, &three()).order, [1, 2, 0]);
        assert_eq!(chosen(HARD, &three()).order, [0, 2, 1]);
        assert_eq!(chosen([None; 5], &three()).order, [1, 2, 0], "no chat at all");
    }

    #[test]
    fn what_makes_a_request_hard() {
        let router = ModelRouter::configure(r#"{"tokens_hard": 1000}"#).unwrap();
        for (counts, messages, hardness) in [
            ("[100,400]", r#"["a","b"]"#, 250 + 16),
            ("[5000]", r#"["a"]"#, 500),
            ("[0]", r#"[{"content":"```rust"}]"#, 333),
            ("[0,0]", r#"["```","b"]"#, 16),
            ("[0,0,0,0,0,0,0,0,0,0,0,0]", "[]", 167),
            ("3", "{}", 0),
        ] {
            let values = [counts, messages].map(|text| Some(text.as_bytes().to_vec())).into();
            assert_eq!(router.hardness(&values), hardness, "{counts} {messages}");
        }
    }

    #[test]
    fn the_urgent_go_to_the_fast_and_are_hedged() {
        let candidates = [candidate("m-small", 100, 90_000), candidate("m-small", 900, 5_000)];
        assert_eq!(chosen(EASY, &candidates), Choice { order: vec![0, 1], hedge_after_us: None, deadline_us: None });
        for (header, body) in [(Some("HIGH"), None), (None, Some("\"high\""))] {
            let choice = chosen([EASY[0], EASY[1], header, body, None], &candidates);
            assert_eq!((choice.order, choice.hedge_after_us), (vec![1, 0], Some(20_000)));
        }
    }

    #[test]
    fn failures_and_load_count() {
        let usual = candidate("m-small", 100, 8_000);
        let failing = Candidate { error_ppm: 300_000, ..usual.clone() };
        let busy = Candidate { inflight: 30, queued: 10, ..usual.clone() };
        let draining = Candidate { draining: true, ..usual.clone() };
        assert_eq!(chosen(EASY, &[draining, failing, busy, usual.clone(), usual]).order, [3, 4, 2, 1, 0]);
    }

    #[test]
    fn a_budget_leaves_out_what_is_dearer_unless_nothing_is_left() {
        let budget = |budget| [HARD[0], HARD[1], None, None, Some(budget)];
        assert_eq!(chosen(budget("300"), &three()).order, [2, 1]);
        assert_eq!(chosen(budget("99"), &three()).order, [0, 2, 1]);
        assert_eq!(chosen(budget("much"), &three()).order, [0, 2, 1]);
        let mut candidates = three();
        candidates[1].draining = true;
        assert_eq!(chosen(budget("100"), &candidates).order, [1], "what drains is better than what is too dear");
    }

    #[test]
    fn figures_beyond_all_bounds_are_survived() {
        let extreme = Candidate {
            inflight: u32::MAX,
            queued: u32::MAX,
            p99_us: u64::MAX,
            error_ppm: u32::MAX,
            ..candidate("m-large", u64::MAX, 0)
        };
        let choice = chosen([HARD[0], HARD[1], Some("high"), None, None], &[extreme.clone(), extreme]);
        assert_eq!((choice.order, choice.hedge_after_us), (vec![0, 1], Some(u32::MAX)));
        assert_eq!((share(1, 0, 9), share(5, 4, 9), share(u64::MAX, u64::MAX, 1_000)), (0, 9, 1_000));
    }

    #[test]
    fn a_wrong_table_is_refused() {
        for (config, words) in [
            (r#"{"sizes": {"m": 0}}"#, "the size of \"m\" isn't a whole number from 1 on"),
            (r#"{"weights": {"price": 1}}"#, "unknown field \"price\""),
            (r#"{"weights": {"cost": -1}}"#, "\"cost\" isn't a number in range"),
            (r#"{"encoding": "p50k"}"#, "\"encoding\" isn't"),
        ] {
            let fault = ModelRouter::configure(config).unwrap_err();
            assert!(fault.detail.contains(words), "{config}: {fault:?}");
        }
    }
}
