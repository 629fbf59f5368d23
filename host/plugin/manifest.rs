//! A component's manifest and inputs, checked: from the contract's types to the policy room's.

use holm_bindings::{
    exports::holm::policy::{
        key::Part as RawPart,
        plugin::{Experiment as RawExperiment, Manifest as RawManifest},
    },
    holm::policy::facts::Input as RawInput,
};

use super::{
    error::Flaw,
    inputs::{self, shown},
    limits::{ARMS_MAX, EXPERIMENTS_MAX, INPUTS_MAX, PARTS_MAX},
};
use crate::policy::{
    Experiment, Hook, Input, KeyPlan,
    experiment::Arm,
    key::{Part, Transform},
};

/// A valid manifest.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) experiments: Vec<Experiment>,
}

/// Checks the manifest of a component that exports these hooks.
pub(super) fn check(raw: RawManifest, hooks: &[Hook]) -> Result<Manifest, Flaw> {
    let scope = Scope { hooks, experiments: raw.experiments.iter().map(|it| it.name.clone()).collect() };
    Ok(Manifest {
        name: name("name", raw.name)?,
        version: name("version", raw.version)?,
        experiments: experiments(raw.experiments, &scope)?,
    })
}

impl Manifest {
    /// Returns what the inputs of these hooks may refer to.
    pub(super) fn scope<'h>(&self, hooks: &'h [Hook]) -> Scope<'h> {
        Scope { hooks, experiments: self.experiments.iter().map(|it| it.name.clone()).collect() }
    }
}

/// What an input may refer to.
pub(super) struct Scope<'h> {
    hooks: &'h [Hook],
    experiments: Vec<String>,
}

impl Scope<'_> {
    /// Returns the inputs of a hook, from what its `reads` returned.
    pub(super) fn inputs(&self, hook: Hook, raw: &[RawInput]) -> Result<Vec<Input>, Flaw> {
        if raw.len() > INPUTS_MAX {
            return Err(Flaw::Inputs { hook: hook.name(), count: raw.len(), limit: INPUTS_MAX });
        }
        raw.iter().map(|input| self.input(hook, input)).collect()
    }

    /// Returns the plan of keys that are made by a call.
    pub(super) fn call(&self, raw: &[RawInput]) -> Result<KeyPlan, Flaw> {
        match self.inputs(Hook::Key, raw)? {
            inputs if inputs.is_empty() => Err(Flaw::Nothing { what: "call" }),
            inputs => Ok(KeyPlan::Call(inputs)),
        }
    }

    /// Returns the plan of keys that are made by a recipe.
    pub(super) fn recipe(&self, raw: &[RawPart]) -> Result<KeyPlan, Flaw> {
        match raw.len() {
            0 => Err(Flaw::Nothing { what: "recipe" }),
            count if count > PARTS_MAX => Err(Flaw::Parts { count, limit: PARTS_MAX }),
            _ => raw.iter().map(|raw| self.part(raw)).collect::<Result<_, _>>().map(KeyPlan::Recipe),
        }
    }

    fn part(&self, raw: &RawPart) -> Result<Part, Flaw> {
        Ok(Part { input: self.input(Hook::Key, &raw.input)?, transform: transform(&raw.transform)? })
    }

    /// Returns an input of a hook; it must be there by the time that the hook is called.
    fn input(&self, hook: Hook, raw: &RawInput) -> Result<Input, Flaw> {
        let input = inputs::read(raw)?;
        let refused = |why| Err(Flaw::NotProvided { input: shown(&input.to_string()), hook: hook.name(), why });
        match &input {
            answer if answer.needs_response() && hook != Hook::Admit => {
                refused("only `admit` is called about a response")
            }
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
    // The unit is read before any hook has been called.
    let unit = match scope.input(Hook::Features, &raw.unit)? {
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

const NAME_CHARS_MAX: usize = 64;

fn name(field: &'static str, name: String) -> Result<String, Flaw> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(name) } else { Err(Flaw::Name { field, limit: NAME_CHARS_MAX }) }
}

/// The transforms that this node knows.
const TRANSFORMS: [Transform; 5] =
    [Transform::Identity, Transform::Lowercase, Transform::SortQuery, Transform::DropQuery, Transform::JsonCanonical];

fn transform(word: &str) -> Result<Transform, Flaw> {
    let found = TRANSFORMS.into_iter().find(|transform| transform.name() == word);
    found.ok_or_else(|| Flaw::UnknownTransform {
        transform: shown(word),
        known: TRANSFORMS.map(Transform::name).join(", "),
    })
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::{super::inputs::raw, *};

    fn manifest(experiments: Vec<RawExperiment>) -> RawManifest {
        RawManifest { name: "p".into(), version: "1".into(), experiments }
    }

    fn experiment(name: &str, arms: &[(&str, u32)]) -> RawExperiment {
        let arms = arms.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        RawExperiment { name: name.into(), unit: raw("cookie", &["sid"]), arms }
    }

    /// Returns the inputs of the hook `of`, in a component with these hooks and the experiment `e`.
    fn inputs_of(of: Hook, hooks: &[Hook], raw: &[RawInput]) -> Result<Vec<Input>, Flaw> {
        check(manifest(vec![experiment("e", &[("a", 1)])]), hooks)?.scope(hooks).inputs(of, raw)
    }

    fn of_key(raw: &[RawInput]) -> Result<Vec<Input>, Flaw> {
        inputs_of(Hook::Key, &[Hook::Key], raw)
    }

    #[test]
    fn inputs_keep_their_order_and_header_names_lose_their_case() {
        let inputs = [raw("header", &["Accept"]), raw("query", &["q"]), raw("client-prefix", &["24"])];
        let wanted = [Input::Header(ACCEPT), Input::Query("q".into()), Input::ClientPrefix(24)];
        assert_eq!(of_key(&inputs).unwrap(), wanted);
    }

    #[test]
    fn a_hook_reads_what_is_there_when_it_is_asked() {
        let hooks = [Hook::Key, Hook::Features, Hook::Admit];
        for (hook, inputs) in [
            (Hook::Key, vec![raw("feature", &["f"]), raw("arm", &["e"])]),
            (Hook::Features, vec![raw("arm", &["e"])]),
            (Hook::Admit, vec![raw("response-status", &[]), raw("clock", &["60"])]),
            (Hook::Key, vec![]),
        ] {
            assert_eq!(inputs_of(hook, &hooks, &inputs).map(|read| read.len()), Ok(inputs.len()), "{hook:?}");
        }
    }

    #[test]
    fn inputs_that_make_no_sense_are_named() {
        for (kind, arguments, wanted) in [
            ("response-status", &[][..], "input response-status is not provided to the key hook: only `admit`"),
            ("fetch-us", &["1"], "input fetch-us(1) is not provided to the key hook: only `admit`"),
            ("arm", &["a"], "input arm(a) is not provided to the key hook: the manifest declares no such"),
            ("feature", &["f"], "input feature(f) is not provided to the key hook: the component doesn't"),
            ("moon-phase", &[], "input moon-phase is none that this node knows: "),
        ] {
            let flaw = of_key(&[raw(kind, arguments)]).unwrap_err().to_string();
            assert!(flaw.starts_with(wanted), "{flaw}");
        }
        let own = inputs_of(Hook::Features, &[Hook::Features], &[raw("feature", &["f"])]);
        assert!(own.unwrap_err().to_string().contains("`features` makes it"));
    }

    #[test]
    fn experiments_that_make_no_sense_are_named() {
        let long: Vec<(&str, u32)> = vec![("a", 1); ARMS_MAX + 1];
        let by = |unit| RawExperiment { unit, ..experiment("e", &[("a", 1)]) };
        for (experiments, words) in [
            (vec![experiment("", &[("a", 1)])], "its name is not"),
            (vec![experiment("e", &[("a", 1)]), experiment("e", &[("a", 1)])], "another of the same name"),
            (vec![experiment("e", &[])], "1 to 16 arms"),
            (vec![experiment("e", &long)], "1 to 16 arms"),
            (vec![experiment("e", &[("a b", 1)])], "an arm's name"),
            (vec![experiment("e", &[("a", 0), ("b", 0)])], "the weight 0"),
            (vec![experiment("e", &[("a", 1), ("b", 1), ("a", 2)])], "two of its arms have the same name"),
            (vec![experiment("e", &[("a", 1)]); EXPERIMENTS_MAX + 1], "9 experiments; at most 8"),
            (vec![by(raw("clock", &["1"]))], "its unit isn't"),
            (vec![by(raw("moon-phase", &["full"]))], "input moon-phase(full) is none that this node knows"),
        ] {
            let flaw = check(manifest(experiments), &[]).unwrap_err().to_string();
            assert!(flaw.contains(words), "{flaw}");
        }
    }

    #[test]
    fn names_and_counts_have_limits() {
        assert!(of_key(&vec![raw("path", &[]); INPUTS_MAX]).is_ok());
        assert!(matches!(of_key(&vec![raw("path", &[]); INPUTS_MAX + 1]), Err(Flaw::Inputs { count: 65, .. })));
        for name in ["", "a b", "\u{e9}", &"n".repeat(65)] {
            let raw = RawManifest { name: name.into(), ..manifest(vec![]) };
            assert!(matches!(check(raw, &[]), Err(Flaw::Name { field: "name", .. })), "{name}");
            let raw = RawManifest { version: name.into(), ..manifest(vec![]) };
            assert!(matches!(check(raw, &[]), Err(Flaw::Name { field: "version", .. })), "{name}");
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
        let scope = Scope { hooks: &[Hook::Key], experiments: Vec::new() };
        let recipe = |count| {
            let part = RawPart { input: raw("path", &[]), transform: "lowercase".into() };
            scope.recipe(&vec![part; count])
        };
        assert_eq!(scope.call(&[]), Err(Flaw::Nothing { what: "call" }));
        assert_eq!(scope.call(&[raw("path", &[])]), Ok(KeyPlan::Call(vec![Input::Path])));
        assert_eq!(recipe(0), Err(Flaw::Nothing { what: "recipe" }));
        assert_eq!(recipe(65), Err(Flaw::Parts { count: 65, limit: 64 }));
        let one = Part { input: Input::Path, transform: Transform::Lowercase };
        assert_eq!(recipe(1), Ok(KeyPlan::Recipe(vec![one])));
    }

    #[test]
    fn an_unknown_transform_is_named_beside_those_that_are_known() {
        for wanted in TRANSFORMS {
            assert_eq!(transform(wanted.name()), Ok(wanted));
        }
        let flaw = transform("rot13\n").unwrap_err().to_string();
        let known = "identity, lowercase, sort-query, drop-query, json-canonical";
        assert_eq!(flaw, format!("transform rot13? is none that this node knows: {known}"));
    }
}
