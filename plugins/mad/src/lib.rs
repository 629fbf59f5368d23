//! Does what policies must not do, so that the host's defences can be tested. Its configuration says what:
//! `{"do": "trap"}`. With `{"do": "ask"}` each request says it, in its header `x-do`.
//!
//! Written against the bare contract, without the SDK: what the host survives is what any component may do.

use std::{
    cell::{Cell, RefCell},
    hint::black_box,
};

use exports::holm::policy::{
    key::{self, Keying, Part, Transform, Verdict},
    plugin::{self, Hook, Manifest, Reads},
};
use holm::policy::{
    diagnostics::{self, Level},
    facts::{Fault, Input, Values},
};

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package holm:mad;
        world mad {
            import holm:policy/diagnostics@0.1.0;
            export holm:policy/plugin@0.1.0;
            export holm:policy/key@0.1.0;
        }
    ",
    world: "holm:mad/mad",
    generate_all,
});

struct Mad;
export!(Mad);

thread_local! {
    static ORDERS: RefCell<String> = const { RefCell::new(String::new()) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl plugin::Guest for Mad {
    fn configure(config: String) -> Result<Manifest, Fault> {
        // The second quoted word of `{"do": "…"}`; a parser would be most of this component.
        let orders = config.split('"').nth(3).unwrap_or("call").to_owned();
        let inputs = match orders.as_str() {
            "refuse-config" => return Err(fault("not in the mood")),
            "trap-in-config" => std::process::abort(),
            "loop-in-config" => forever(),
            "read-clock" => vec![Input::Clock(60)],
            "read-bad-header" => vec![Input::Header("a b".into())],
            "read-bad-pointer" => vec![Input::BodyJson("model".into())],
            "read-much" => vec![Input::Path; 65],
            "read-nothing" => vec![],
            _ => vec![Input::Header("X-Do".into()), Input::Path],
        };
        let name = if orders == "nameless" { "" } else { "mad" };
        let reads = Reads { hook: Hook::Key, inputs };
        let reads = if orders == "read-twice" { vec![reads.clone(), reads] } else { vec![reads] };
        ORDERS.set(orders);
        Ok(Manifest { name: name.into(), version: "0.1.0".into(), reads, experiments: vec![] })
    }
}

impl key::Guest for Mad {
    fn plan() -> Result<Keying, Fault> {
        let tenant = Part { input: Input::Header("X-Tenant".into()), transform: Transform::Lowercase };
        let path = Part { input: Input::Path, transform: Transform::Identity };
        match ORDERS.with_borrow(String::clone).as_str() {
            "recipe" => Ok(Keying::Recipe(vec![tenant, path])),
            "empty-recipe" => Ok(Keying::Recipe(vec![])),
            "long-recipe" => Ok(Keying::Recipe(vec![path; 65])),
            "refuse-plan" => Err(fault("no plan")),
            _ => Ok(Keying::Call),
        }
    }

    fn derive(values: Values) -> Result<Verdict, Fault> {
        CALLS.set(CALLS.get() + 1);
        let orders = match ORDERS.with_borrow(String::clone) {
            ask if ask == "ask" => values.first().cloned().flatten().unwrap_or_default(),
            orders => orders.into_bytes(),
        };
        obey(&orders, values)
    }
}

fn obey(orders: &[u8], values: Values) -> Result<Verdict, Fault> {
    match orders {
        b"trap" => std::process::abort(),
        b"loop" => forever(),
        b"alloc" => hoard(),
        b"recurse" => Ok(Verdict::Lookup(vec![deep(1).to_le_bytes().to_vec()])),
        b"giant" => Ok(Verdict::Lookup(vec![vec![7; 8 << 20]])),
        b"large" => Ok(Verdict::Lookup(vec![vec![7; 5_000]])),
        b"crowd" => Ok(Verdict::Lookup(vec![vec![]; 65])),
        b"nothing" => Ok(Verdict::Lookup(vec![])),
        b"bypass" => Ok(Verdict::Bypass(format!("because\n\u{fc}{}", "x".repeat(200)))),
        b"fault" => Err(fault("as ordered")),
        b"chatter" => chatter(),
        b"count" => Ok(Verdict::Lookup(vec![CALLS.get().to_string().into_bytes()])),
        _ => Ok(Verdict::Lookup(values.into_iter().map(Option::unwrap_or_default).collect())),
    }
}

fn fault(detail: &str) -> Fault {
    Fault { code: 7, detail: detail.into() }
}

fn forever() -> ! {
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

/// Talks more than anybody wants to read.
fn chatter() -> Result<Verdict, Fault> {
    for _ in 0..1_000 {
        diagnostics::log(Level::Info, "\u{1b}[31mlook at me");
    }
    Ok(Verdict::Lookup(vec![vec![u8::from(diagnostics::enabled(Level::Info))]]))
}
