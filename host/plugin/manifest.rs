//! What a component says of itself, checked: from the contract's types to the policy room's.

use holm_bindings::{
    exports::holm::policy::{
        key::{Keying, Part as RawPart, Transform as RawTransform},
        plugin::{Experiment as RawExperiment, Manifest as RawManifest},
    },
    holm::policy::facts::{Encoding as RawEncoding, Input as RawInput},
};
use http::HeaderName;

use super::{
    error::Flaw,
    hook,
    limits::{ARMS_MAX, EXPERIMENTS_MAX, INPUTS_MAX, PARTS_MAX},
};
use crate::policy::{
    Experiment, Hook, Input, KeyPlan,
    experiment::Arm,
    key::{Part, Transform},
    tokens::Encoding,
};

/// A manifest that makes sense.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) version: String,
    /// What each hook that the component exports is given; by [`Hook::index`].
    pub(super) reads: [Option<Vec<Input>>; Hook::ALL.len()],
    pub(super) experiments: Vec<Experiment>,
}

/// Checks the manifest of a component that exports these hooks. It names each of them and no other; of `key` it may be
/// silent, because a recipe names its inputs itself.
pub(super) fn check(raw: RawManifest, hooks: &[Hook]) -> Result<Manifest, Flaw> {
    let scope = Scope { hooks, experiments: raw.experiments.iter().map(|it| it.name.clone()).collect() };
    let mut reads = Hook::ALL.map(|hook| hooks.contains(&hook).then(Vec::new));
    let mut seen: Vec<Hook> = Vec::new();
    for raw in raw.reads {
        let hook = hook::of_contract(raw.hook);
        if seen.contains(&hook) {
            return Err(Flaw::Twice { hook: hook.name() });
        }
        if !hooks.contains(&hook) {
            return Err(Flaw::NotExported { hook: hook.name() });
        }
        seen.push(hook);
        if raw.inputs.len() > INPUTS_MAX {
            return Err(Flaw::Inputs { hook: hook.name(), count: raw.inputs.len(), limit: INPUTS_MAX });
        }
        if let Some(inputs) = &mut reads[hook.index()] {
            *inputs = raw.inputs.into_iter().map(|input| scope.input(hook, input)).collect::<Result<_, _>>()?;
        }
    }
    if let Some(hook) = hooks.iter().find(|hook| **hook != Hook::Key && !seen.contains(hook)) {
        return Err(Flaw::NotNamed { hook: hook.name() });
    }
    Ok(Manifest {
        name: name("name", raw.name)?,
        version: name("version", raw.version)?,
        reads,
        experiments: experiments(raw.experiments, &scope)?,
    })
}

/// What an input may refer to.
struct Scope<'a> {
    hooks: &'a [Hook],
    experiments: Vec<String>,
}

impl Scope<'_> {
    /// An input of a hook; it must be there by the time that the hook is asked.
    fn input(&self, hook: Hook, raw: RawInput) -> Result<Input, Flaw> {
        let input = input(raw)?;
        let refused = |why| Err(Flaw::NotProvided { input: shown(&input.to_string()), hook: hook.name(), why });
        match &input {
            answer if answer.needs_answer() && hook != Hook::Admit => refused("only `admit` is asked about an answer"),
            Input::Feature(_) if hook == Hook::Features => refused("`features` makes it"),
            Input::Feature(_) if !self.hooks.contains(&Hook::Features) => {
                refused("the component doesn't export `features`")
            }
            Input::Arm(name) if !self.experiments.contains(name) => refused("the manifest declares no such experiment"),
            _ => Ok(input),
        }
    }
}

fn experiments(raw: Vec<RawExperiment>, scope: &Scope<'_>) -> Result<Vec<Experiment>, Flaw> {
    if raw.len() > EXPERIMENTS_MAX {
        return Err(Flaw::Experiments { count: raw.len(), limit: EXPERIMENTS_MAX });
    }
    let mut names = Vec::new();
    for experiment in &raw {
        let wrong = |wrong| Err(Flaw::Experiment { name: shown(&experiment.name), wrong });
        if name("name", experiment.name.clone()).is_err() {
            return wrong("its name is not 1 to 64 visible ASCII characters");
        }
        if names.contains(&&experiment.name) {
            return wrong("there is another of the same name");
        }
        if !(1..=ARMS_MAX).contains(&experiment.arms.len()) {
            return wrong("it has not 1 to 16 arms");
        }
        if experiment.arms.iter().any(|(arm, _)| name("name", arm.clone()).is_err()) {
            return wrong("an arm's name is not 1 to 64 visible ASCII characters");
        }
        let mut arms: Vec<&str> = experiment.arms.iter().map(|(arm, _)| arm.as_str()).collect();
        arms.sort_unstable();
        if arms.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong("two of its arms have the same name");
        }
        if experiment.arms.iter().all(|(_, weight)| *weight == 0) {
            return wrong("all its arms have the weight 0");
        }
        names.push(&experiment.name);
    }
    raw.into_iter().map(|experiment| self::experiment(experiment, scope)).collect()
}

fn experiment(raw: RawExperiment, scope: &Scope<'_>) -> Result<Experiment, Flaw> {
    // The unit is read before any hook has been asked.
    let unit = match scope.input(Hook::Features, raw.unit)? {
        Input::Arm(_) | Input::Clock(_) | Input::PoolStats(_) => {
            return Err(Flaw::Experiment { name: shown(&raw.name), wrong: "its unit isn't a part of the request" });
        }
        unit => unit,
    };
    let arms = raw.arms.into_iter().map(|(name, weight)| Arm { name, weight }).collect();
    Ok(Experiment { name: raw.name, unit, arms })
}

/// Checks that the pools which hooks read the state of are there.
pub(super) fn check_pools(reads: &[Option<Vec<Input>>; Hook::ALL.len()], known: &[String]) -> Result<(), Flaw> {
    for hook in Hook::ALL {
        for input in reads[hook.index()].iter().flatten() {
            if let Input::PoolStats(pool) = input
                && !known.contains(pool)
            {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Flaw::Pool { pool: shown(pool), hook: hook.name(), known });
            }
        }
    }
    Ok(())
}

/// The plan, from what `plan` answered and the inputs that the manifest declares for `key`.
pub(super) fn key_plan(keying: Keying, manifest: &Manifest, hooks: &[Hook]) -> Result<KeyPlan, Flaw> {
    let inputs = manifest.reads[Hook::Key.index()].clone().unwrap_or_default();
    let scope = Scope { hooks, experiments: manifest.experiments.iter().map(|it| it.name.clone()).collect() };
    match keying {
        Keying::Call if inputs.is_empty() => Err(Flaw::Nothing { what: "call" }),
        Keying::Call => Ok(KeyPlan::Call(inputs)),
        Keying::Recipe(parts) if parts.is_empty() => Err(Flaw::Nothing { what: "recipe" }),
        Keying::Recipe(parts) if parts.len() > PARTS_MAX => Err(Flaw::Parts { count: parts.len(), limit: PARTS_MAX }),
        Keying::Recipe(parts) => {
            parts.into_iter().map(|raw| part(raw, &scope)).collect::<Result<_, _>>().map(KeyPlan::Recipe)
        }
    }
}

const NAME_CHARS_MAX: usize = 64;
const ARGUMENT_BYTES_MAX: usize = 256;

fn name(field: &'static str, name: String) -> Result<String, Flaw> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(name) } else { Err(Flaw::Name { field, limit: NAME_CHARS_MAX }) }
}

fn part(raw: RawPart, scope: &Scope<'_>) -> Result<Part, Flaw> {
    let transform = match raw.transform {
        RawTransform::Identity => Transform::Identity,
        RawTransform::Lowercase => Transform::Lowercase,
        RawTransform::SortQuery => Transform::SortQuery,
        RawTransform::DropQuery => Transform::DropQuery,
        RawTransform::JsonCanonical => Transform::JsonCanonical,
    };
    Ok(Part { input: scope.input(Hook::Key, raw.input)?, transform })
}

fn input(raw: RawInput) -> Result<Input, Flaw> {
    Ok(match raw {
        RawInput::Method => Input::Method,
        RawInput::Scheme => Input::Scheme,
        RawInput::Authority => Input::Authority,
        RawInput::Path => Input::Path,
        RawInput::Query(name) => Input::Query(argument("query", name)?),
        RawInput::QueryAll => Input::QueryAll,
        RawInput::Header(name) => Input::Header(header(&name)?),
        RawInput::Cookie(name) => Input::Cookie(argument("cookie", name)?),
        RawInput::ClientPrefix(bits) => Input::ClientPrefix(bits),
        RawInput::BodyDigest => Input::BodyDigest,
        RawInput::BodyJson(pointer) => Input::BodyJson(json_pointer(pointer)?),
        RawInput::BodyPrefix(length) => Input::BodyPrefix(length),
        RawInput::BodyLength => Input::BodyLength,
        RawInput::BodyTokens(tokens) => Input::BodyTokens(json_pointer(tokens.pointer)?, encoding(tokens.encoding)),
        RawInput::Feature(name) => Input::Feature(argument("feature", name)?),
        RawInput::Arm(name) => Input::Arm(argument("arm", name)?),
        RawInput::ResponseStatus => Input::ResponseStatus,
        RawInput::ResponseHeader(name) => Input::ResponseHeader(header(&name)?),
        RawInput::ResponseLength => Input::ResponseLength,
        RawInput::FetchUs(step) => Input::FetchUs(self::step("fetch-us", step)?),
        RawInput::Clock(step) => Input::Clock(self::step("clock", step)?),
        RawInput::PoolStats(name) => Input::PoolStats(argument("pool-stats", name)?),
    })
}

fn argument(kind: &'static str, name: String) -> Result<String, Flaw> {
    if (1..=ARGUMENT_BYTES_MAX).contains(&name.len()) {
        Ok(name)
    } else {
        Err(wrong(kind, &name, "a name has 1 to 256 bytes"))
    }
}

fn step(kind: &'static str, step: u32) -> Result<u32, Flaw> {
    if step > 0 { Ok(step) } else { Err(wrong(kind, "0", "a step is at least 1")) }
}

const fn encoding(raw: RawEncoding) -> Encoding {
    match raw {
        RawEncoding::Cl100kBase => Encoding::Cl100kBase,
        RawEncoding::O200kBase => Encoding::O200kBase,
    }
}

fn header(name: &str) -> Result<HeaderName, Flaw> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name.len() <= ARGUMENT_BYTES_MAX);
    parsed.ok_or_else(|| wrong("header", name, "not the name of a header field"))
}

fn json_pointer(pointer: String) -> Result<String, Flaw> {
    let fits = pointer.len() <= ARGUMENT_BYTES_MAX && (pointer.is_empty() || pointer.starts_with('/'));
    if fits { Ok(pointer) } else { Err(wrong("body-json", &pointer, "not a pointer (RFC 6901) of at most 256 bytes")) }
}

fn wrong(kind: &'static str, argument: &str, wrong: &'static str) -> Flaw {
    Flaw::Input { input: shown(&format!("{kind}({argument})")), wrong }
}

fn shown(input: &str) -> String {
    super::limits::plain(input, 80)
}

#[cfg(test)]
mod tests {
    use holm_bindings::exports::holm::policy::plugin::{Hook as RawHook, Reads};
    use http::header::ACCEPT;

    use super::*;

    fn manifest(reads: Vec<(RawHook, Vec<RawInput>)>) -> RawManifest {
        let reads = reads.into_iter().map(|(hook, inputs)| Reads { hook, inputs }).collect();
        RawManifest { name: "p".into(), version: "1".into(), reads, experiments: vec![] }
    }

    fn of_key(inputs: Vec<RawInput>) -> Result<Vec<Input>, Flaw> {
        let checked = check(manifest(vec![(RawHook::Key, inputs)]), &[Hook::Key])?;
        Ok(checked.reads.into_iter().flatten().flatten().collect())
    }

    fn experiment(name: &str, arms: &[(&str, u32)]) -> RawExperiment {
        let arms = arms.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        RawExperiment { name: name.into(), unit: RawInput::Cookie("sid".into()), arms }
    }

    #[test]
    fn inputs_keep_their_order_and_header_names_lose_their_case() {
        let inputs = vec![RawInput::Header("Accept".into()), RawInput::Query("q".into()), RawInput::ClientPrefix(24)];
        let wanted = [Input::Header(ACCEPT), Input::Query("q".into()), Input::ClientPrefix(24)];
        assert_eq!(of_key(inputs).unwrap(), wanted);
    }

    #[test]
    fn a_hook_reads_what_is_there_when_it_is_asked() {
        let reads = vec![
            (RawHook::Key, vec![RawInput::Feature("f".into()), RawInput::Arm("e".into())]),
            (RawHook::Features, vec![RawInput::Arm("e".into())]),
            (RawHook::Admit, vec![RawInput::ResponseStatus, RawInput::Clock(60)]),
        ];
        let raw = RawManifest { experiments: vec![experiment("e", &[("a", 1)])], ..manifest(reads) };
        let checked = check(raw, &[Hook::Key, Hook::Features, Hook::Admit]).unwrap();
        let counts = checked.reads.map(|inputs| inputs.map(|inputs| inputs.len()));
        assert_eq!(counts, [Some(2), Some(1), Some(2), None, None, None]);
    }

    #[test]
    fn inputs_that_make_no_sense_are_named() {
        let table = [
            (RawInput::ResponseStatus, "input response-status is not provided to the key hook: only `admit`"),
            (RawInput::FetchUs(1), "input fetch-us(1) is not provided to the key hook: only `admit`"),
            (RawInput::Arm("a".into()), "input arm(a) is not provided to the key hook: the manifest declares no such"),
            (RawInput::Feature("f".into()), "input feature(f) is not provided to the key hook: the component doesn't"),
            (RawInput::Clock(0), "input clock(0): a step is at least 1"),
            (RawInput::Header("a b".into()), "input header(a b): not the name of a header field"),
            (RawInput::Query(String::new()), "input query(): a name has 1 to 256 bytes"),
            (RawInput::Cookie("c".repeat(257)), "input cookie("),
            (RawInput::BodyJson("model".into()), "input body-json(model): not a pointer"),
        ];
        for (raw, wanted) in table {
            let flaw = of_key(vec![raw]).unwrap_err().to_string();
            assert!(flaw.starts_with(wanted), "{flaw}");
        }
        let own = check(manifest(vec![(RawHook::Features, vec![RawInput::Feature("f".into())])]), &[Hook::Features]);
        assert!(own.unwrap_err().to_string().contains("`features` makes it"));
    }

    #[test]
    fn experiments_that_make_no_sense_are_named() {
        let long: Vec<(&str, u32)> = vec![("a", 1); ARMS_MAX + 1];
        for (experiments, words) in [
            (vec![experiment("", &[("a", 1)])], "its name is not"),
            (vec![experiment("e", &[("a", 1)]), experiment("e", &[("a", 1)])], "another of the same name"),
            (vec![experiment("e", &[])], "1 to 16 arms"),
            (vec![experiment("e", &long)], "1 to 16 arms"),
            (vec![experiment("e", &[("a b", 1)])], "an arm's name"),
            (vec![experiment("e", &[("a", 0), ("b", 0)])], "the weight 0"),
            (vec![experiment("e", &[("a", 1), ("b", 1), ("a", 2)])], "two of its arms have the same name"),
            (vec![experiment("e", &[("a", 1)]); EXPERIMENTS_MAX + 1], "9 experiments; at most 8"),
            (vec![RawExperiment { unit: RawInput::Clock(1), ..experiment("e", &[("a", 1)]) }], "its unit isn't"),
        ] {
            let flaw = check(RawManifest { experiments, ..manifest(vec![]) }, &[]).unwrap_err().to_string();
            assert!(flaw.contains(words), "{flaw}");
        }
    }

    #[test]
    fn names_and_counts_have_limits() {
        assert!(of_key(vec![RawInput::Path; INPUTS_MAX]).is_ok());
        assert!(matches!(of_key(vec![RawInput::Path; INPUTS_MAX + 1]), Err(Flaw::Inputs { count: 65, .. })));
        let twice = vec![(RawHook::Route, vec![]), (RawHook::Route, vec![])];
        assert_eq!(check(manifest(twice), &[Hook::Route]).unwrap_err(), Flaw::Twice { hook: "route" });
        for name in ["", "a b", "\u{e9}", &"n".repeat(65)] {
            let raw = RawManifest { name: name.into(), ..manifest(vec![]) };
            assert!(matches!(check(raw, &[]), Err(Flaw::Name { field: "name", .. })), "{name}");
        }
    }

    #[test]
    fn a_manifest_names_the_hooks_that_are_exported_and_no_others() {
        let named = |hooks: &[RawHook]| manifest(hooks.iter().map(|hook| (*hook, vec![])).collect());
        for (names, exports, wanted) in [
            (vec![], vec![], None),
            (vec![RawHook::Batch], vec![Hook::Batch], None),
            // A recipe names its inputs itself.
            (vec![], vec![Hook::Key], None),
            (vec![RawHook::Batch], vec![], Some(Flaw::NotExported { hook: "batch" })),
            (vec![RawHook::Key], vec![Hook::Batch], Some(Flaw::NotExported { hook: "key" })),
            (vec![RawHook::Batch], vec![Hook::Batch, Hook::Prefetch], Some(Flaw::NotNamed { hook: "prefetch" })),
        ] {
            assert_eq!(check(named(&names), &exports).err(), wanted, "{names:?} {exports:?}");
        }
    }

    #[test]
    fn pools_that_are_read_are_there() {
        let mut reads = Hook::ALL.map(|_| None);
        reads[Hook::Route.index()] = Some(vec![Input::Path, Input::PoolStats("models".into())]);
        let known = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(check_pools(&reads, &known(&["web", "models"])), Ok(()));
        let flaw = check_pools(&reads, &known(&["web"])).unwrap_err().to_string();
        assert_eq!(flaw, "the route hook reads pool-stats(models), but there is no such pool; configured are: web");
    }

    #[test]
    fn a_plan_reads_something() {
        let part = || RawPart { input: RawInput::Path, transform: RawTransform::Lowercase };
        let recipe = |count| Keying::Recipe((0..count).map(|_| part()).collect());
        let plan = |keying, inputs| {
            let hooks = [Hook::Key];
            key_plan(keying, &check(manifest(vec![(RawHook::Key, inputs)]), &hooks).unwrap(), &hooks)
        };
        assert_eq!(plan(Keying::Call, vec![]), Err(Flaw::Nothing { what: "call" }));
        assert_eq!(plan(Keying::Call, vec![RawInput::Path]), Ok(KeyPlan::Call(vec![Input::Path])));
        assert_eq!(plan(recipe(0), vec![]), Err(Flaw::Nothing { what: "recipe" }));
        assert_eq!(plan(recipe(65), vec![]), Err(Flaw::Parts { count: 65, limit: 64 }));
        let one = Part { input: Input::Path, transform: Transform::Lowercase };
        assert_eq!(plan(recipe(1), vec![]), Ok(KeyPlan::Recipe(vec![one])));
    }
}
