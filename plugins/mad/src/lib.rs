//! Does what policies must not do, so that the host's defences can be tested. Its configuration, a table of strings, says
//! what and in which hook:
//!
//! - `do`: the order, see [`orders`]. With `"ask"` each request says it, in its header `x-do`.
//! - `in`: the hook that obeys; `key` if there is none. The other hooks return verdicts as if nothing were wrong.
//! - `salt`: put in front of the parts of every key.
//!
//! Written against the bare contract, without the SDK: what the host survives is what any component may do.

use std::cell::{Cell, RefCell};

use exports::holm::policy::{
    admit::{self, Admission},
    batch::{self, Class},
    features::{self, Shape},
    key::{self, Keying, Part, Verdict},
    plugin::{self, Experiment, Manifest},
    prefetch::{self, Hint},
    route::{self, Candidate, Choice},
};
use holm::policy::facts::{Fault, Input, Inputs, Values};

mod orders;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package holm:mad;
        world mad {
            import holm:policy/diagnostics@0.1.0;
            export holm:policy/plugin@0.1.0;
            export holm:policy/key@0.1.0;
            export holm:policy/features@0.1.0;
            export holm:policy/admit@0.1.0;
            export holm:policy/route@0.1.0;
            export holm:policy/batch@0.1.0;
            export holm:policy/prefetch@0.1.0;
        }
    ",
    world: "holm:mad/mad",
    generate_all,
});

struct Mad;
export!(Mad);

/// The configuration.
struct Config {
    what: String,
    hook: String,
    salt: String,
}

thread_local! {
    static CONFIG: RefCell<Config> = const { RefCell::new(Config { what: String::new(), hook: String::new(), salt: String::new() }) };
    /// Calls of the hook that obeys.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl plugin::Guest for Mad {
    fn configure(config: String) -> Result<Manifest, Fault> {
        let field = |name, default: &str| field(&config, name).unwrap_or(default).to_owned();
        let what = field("do", "call");
        match what.as_str() {
            "refuse-config" => return Err(orders::fault("not in the mood")),
            "trap-in-config" => std::process::abort(),
            "loop-in-config" => orders::forever(),
            _ => {}
        }
        let manifest = Manifest {
            name: if what == "nameless" { "" } else { "mad" }.into(),
            version: "0.1.0".into(),
            experiments: experiments(&what),
        };
        CONFIG.set(Config { hook: field("in", "key"), salt: field("salt", ""), what });
        Ok(manifest)
    }
}

/// The quoted words of a table of strings are its names and values by turns; a parser would be most of this component.
fn field<'c>(config: &'c str, name: &str) -> Option<&'c str> {
    let mut words = config.split('"').skip(1).step_by(2);
    while let (Some(field), Some(value)) = (words.next(), words.next()) {
        if field == name {
            return Some(value);
        }
    }
    None
}

/// The inputs of all hooks; `admit` reads the status as well.
fn plain() -> Inputs {
    vec![input("header", &["X-Do"]), input("path", &[])]
}

fn and(input: Input) -> Inputs {
    [plain(), vec![input]].concat()
}

fn input(kind: &str, arguments: &[&str]) -> Input {
    Input { kind: kind.into(), arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect() }
}

/// The order of the configuration.
fn ordered() -> String {
    CONFIG.with_borrow(|config| config.what.clone())
}

fn experiments(what: &str) -> Vec<Experiment> {
    let arms = match what {
        "arms-bad" => vec![("a".into(), 0), ("b".into(), 0)],
        "arms-many" => (0..17).map(|arm| (arm.to_string(), 1)).collect(),
        "experiment-twice" => vec![("a".into(), 1)],
        _ => return vec![],
    };
    let experiment = Experiment { name: "e".into(), unit: input("header", &["x-user"]), arms };
    let times = if what == "experiment-twice" { 2 } else { 1 };
    vec![experiment; times]
}

impl key::Guest for Mad {
    fn plan() -> Result<Keying, Fault> {
        let tenant = Part { input: input("header", &["X-Tenant"]), transform: "lowercase".into() };
        let path = Part { input: input("path", &[]), transform: "identity".into() };
        match ordered().as_str() {
            "recipe" => Ok(Keying::Recipe(vec![tenant, path])),
            "unknown-transform" => Ok(Keying::Recipe(vec![Part { transform: "rot13".into(), ..path }])),
            "empty-recipe" => Ok(Keying::Recipe(vec![])),
            "long-recipe" => Ok(Keying::Recipe(vec![path; 65])),
            "refuse-plan" => Err(orders::fault("no plan")),
            _ => Ok(Keying::Call),
        }
    }

    fn reads() -> Result<Inputs, Fault> {
        Ok(match ordered().as_str() {
            "read-response" => vec![input("response-status", &[])],
            "read-unknown" => and(input("moon-phase", &["full"])),
            "read-too-few" => vec![input("header", &[])],
            "read-bad-header" => vec![input("header", &["a b"])],
            "read-bad-pointer" => vec![input("body-json", &["model"])],
            "read-much" => vec![input("path", &[]); 65],
            "read-nothing" => vec![],
            "feature-unknown" => and(input("feature", &["nope"])),
            "arm-undeclared" => and(input("arm", &["nope"])),
            _ => plain(),
        })
    }

    fn derive(values: Values) -> Result<Verdict, Fault> {
        let mut verdict = orders::key(&order("key", &values)?, values);
        let salt = CONFIG.with_borrow(|config| config.salt.clone().into_bytes());
        if let (Verdict::Lookup(parts), false) = (&mut verdict, salt.is_empty()) {
            parts.insert(0, salt);
        }
        Ok(verdict)
    }
}

impl features::Guest for Mad {
    fn reads() -> Result<Inputs, Fault> {
        Ok(if ordered() == "features-read-feature" { and(input("feature", &["x"])) } else { plain() })
    }

    fn extract(values: Values) -> Result<Shape, Fault> {
        Ok(orders::features(&order("features", &values)?))
    }
}

impl admit::Guest for Mad {
    fn reads() -> Result<Inputs, Fault> {
        Ok(and(input("response-status", &[])))
    }

    fn decide(values: Values, suggested: Admission) -> Result<Admission, Fault> {
        Ok(orders::admit(&order("admit", &values)?, suggested))
    }
}

impl route::Guest for Mad {
    fn reads() -> Result<Inputs, Fault> {
        match ordered().as_str() {
            "refuse-reads" => Err(orders::fault("no reads")),
            "trap-in-reads" => std::process::abort(),
            "loop-in-reads" => orders::forever(),
            _ => Ok(plain()),
        }
    }

    fn choose(values: Values, candidates: Vec<Candidate>) -> Result<Choice, Fault> {
        Ok(orders::route(&order("route", &values)?, &candidates))
    }
}

impl batch::Guest for Mad {
    fn reads() -> Result<Inputs, Fault> {
        Ok(plain())
    }

    fn classify(values: Values) -> Result<Class, Fault> {
        Ok(orders::batch(&order("batch", &values)?))
    }
}

impl prefetch::Guest for Mad {
    fn reads() -> Result<Inputs, Fault> {
        Ok(plain())
    }

    fn suggest(values: Values, _hit: bool) -> Result<Vec<Hint>, Fault> {
        Ok(orders::prefetch(&order("prefetch", &values)?))
    }
}

/// The order for this call of this hook, after what any hook can do by itself has been done. Empty: behave.
fn order(hook: &str, values: &Values) -> Result<String, Fault> {
    let Some(what) = CONFIG.with_borrow(|config| (config.hook == hook).then(|| config.what.clone())) else {
        return Ok(String::new());
    };
    CALLS.set(CALLS.get() + 1);
    let asked = || String::from_utf8_lossy(values[0].as_deref().unwrap_or_default()).into_owned();
    let what = if what == "ask" { asked() } else { what };
    orders::anywhere(&what)?;
    Ok(what)
}

/// The number of calls of the obeying hook in this instance.
fn calls() -> u32 {
    CALLS.get()
}
