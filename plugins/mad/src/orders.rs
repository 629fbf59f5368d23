//! What is done at which order. Every hook knows `trap`, `loop`, `alloc`, `recurse`, `slow`, `fault`, `chatter`, `count`,
//! `giant` and `large` (more bytes than are allowed), `crowd` (more items than are allowed) and, except `batch`,
//! `nonsense`. At any other order it behaves.

use std::hint::black_box;

use crate::{
    calls,
    exports::holm::policy::{
        admit::Admission,
        batch::Class,
        features::{Edit, Header, Shape, Value},
        key::Verdict,
        prefetch::Hint,
        route::{Candidate, Choice},
    },
    holm::policy::{
        diagnostics::{self, Level},
        facts::{Fault, Values},
    },
};

/// The orders that any hook can obey before it returns.
pub(crate) fn anywhere(order: &str) -> Result<(), Fault> {
    match order {
        "trap" => std::process::abort(),
        "loop" => forever(),
        "alloc" => hoard(),
        "recurse" => drop(black_box(deep(1))),
        "slow" => drop(black_box(spin(SLOW))),
        "chatter" => chatter(),
        "fault" => return Err(fault("as ordered")),
        _ => {}
    }
    Ok(())
}

pub(crate) fn key(order: &str, values: Values) -> Verdict {
    match order {
        "giant" | "large" => Verdict::Lookup(vec![vec![7; size(order)]]),
        "crowd" => Verdict::Lookup(vec![vec![]; 65]),
        "nothing" | "nonsense" => Verdict::Lookup(vec![]),
        "bypass" => Verdict::Bypass(format!("because\n\u{fc}{}", "x".repeat(200))),
        "chatter" => Verdict::Lookup(vec![vec![u8::from(diagnostics::enabled(Level::Info))]]),
        "count" => Verdict::Lookup(vec![calls().to_string().into_bytes()]),
        _ => Verdict::Lookup(values.into_iter().map(Option::unwrap_or_default).collect()),
    }
}

pub(crate) fn features(order: &str) -> Shape {
    let feature = |value| vec![("f".to_owned(), value)];
    let edit = |pointer: &str, value: &str| Edit { pointer: pointer.into(), value: Some(value.into()) };
    let header = |name: &str, value: &str| Header { name: name.into(), value: Some(value.into()) };
    let mut shape = Shape { features: feature(Value::Text("1".into())), edits: vec![], headers: vec![] };
    match order {
        "giant" | "large" => shape.features = feature(Value::Bytes(vec![7; size(order)])),
        "crowd" => shape.features = (0..65).map(|n| (format!("f{n}"), Value::Integer(n))).collect(),
        "crowd-edits" => shape.edits = vec![edit("/a", "1"); 1_025],
        "crowd-headers" => shape.headers = (0..17).map(|n| header(&format!("x-{n}"), "1")).collect(),
        "nonsense" => shape.edits = vec![edit("no-pointer", "1")],
        "nonsense-value" => shape.edits = vec![edit("/a", "no json")],
        "nonsense-header" => shape.headers = vec![header("no name", "1")],
        "nonsense-header-value" => shape.headers = vec![header("x-a", "a\r\nx-b: c")],
        "nonsense-twice" => shape.features = vec![("f".into(), Value::Flag(true)); 2],
        "count" => shape.features = feature(Value::Integer(calls().into())),
        _ => {}
    }
    shape
}

/// Without an order, or where the host wouldn't store the response, its suggestion.
pub(crate) fn admit(order: &str, suggested: Admission) -> Admission {
    let Admission::Store(mut storage) = suggested else { return suggested };
    match order {
        "giant" | "large" => storage.tags = vec!["t".repeat(size(order))],
        "crowd" => storage.tags = (0..10_000).map(|n| format!("t{n}")).collect(),
        "crowd-vary" => storage.vary = (0..10_000).map(|n| format!("x-{n}")).collect(),
        "nonsense" => storage.vary = vec!["not a header".into()],
        "nonsense-tag" => storage.tags = vec![String::new(), "a\nb".into()],
        "nonsense-time" => storage.ttl_ms = u64::MAX,
        "count" => storage.tags = vec![format!("n{}", calls())],
        _ => {}
    }
    Admission::Store(storage)
}

pub(crate) fn route(order: &str, candidates: &[Candidate]) -> Choice {
    let all = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
    let order = match order {
        "giant" | "large" => vec![0; size(order) / size_of::<u32>()],
        "crowd" => (0..all + 1_000).collect(),
        "nothing" => vec![],
        "nonsense" => vec![all],
        "nonsense-twice" => vec![0, 0],
        "count" => (0..all).map(|n| (n + calls()) % all).collect(),
        _ => (0..all).collect(),
    };
    Choice { order, hedge_after_us: None, deadline_us: None }
}

pub(crate) fn batch(order: &str) -> Class {
    let group = match order {
        "giant" | "large" | "crowd" => vec![7; size(order)],
        "count" => calls().to_string().into_bytes(),
        _ => vec![],
    };
    Class { group, priority: 0, weight: 0, max_wait_us: None, max_size: None }
}

pub(crate) fn prefetch(order: &str) -> Vec<Hint> {
    let hint = |path: String| Hint { path, headers: vec![], confidence_ppm: 1_000_000 };
    match order {
        "giant" | "large" => vec![hint(format!("/{}", "p".repeat(size(order))))],
        "crowd" => (0..17).map(|n| hint(format!("/{n}"))).collect(),
        "nonsense" => vec![hint("elsewhere".into())],
        "nonsense-header" => vec![Hint { headers: vec![("no name".into(), "1".into())], ..hint("/x".into()) }],
        "count" => vec![hint(format!("/n{}", calls()))],
        _ => vec![],
    }
}

/// The number of bytes of the order.
fn size(order: &str) -> usize {
    match order {
        "giant" => 8 << 20,
        "crowd" => 100_000,
        _ => 5_000,
    }
}

pub(crate) fn fault(detail: &str) -> Fault {
    Fault { code: 7, detail: detail.into() }
}

pub(crate) fn forever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Takes memory until there is none.
fn hoard() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(black_box(vec![1u8; 1 << 20]));
    }
}

/// Never comes back: every call waits for the next.
#[inline(never)]
fn deep(n: u64) -> u64 {
    if black_box(n) == 0 { 0 } else { deep(n + 1).wrapping_mul(3) ^ n }
}

/// Turns that take about two milliseconds: there is no clock to look at.
const SLOW: u32 = 600_000;

/// Each turn needs the one before, so that none is saved.
fn spin(turns: u32) -> u64 {
    (0..turns).fold(1, |state: u64, turn| black_box(state).wrapping_mul(6_364_136_223_846_793_005) ^ u64::from(turn))
}

/// Talks more than anybody wants to read.
fn chatter() {
    for _ in 0..1_000 {
        diagnostics::log(Level::Info, "\u{1b}[31mlook at me");
    }
}
