//! What a component says of itself, checked: from the contract's types to the policy room's.

use holm_bindings::{
    exports::holm::policy::{
        key::{Keying, Part as RawPart, Transform as RawTransform},
        plugin::Manifest as RawManifest,
    },
    holm::policy::facts::Input as RawInput,
};
use http::HeaderName;

use super::{
    error::Flaw,
    hook::Hook,
    limits::{INPUTS_MAX, PARTS_MAX},
};
use crate::policy::{
    Input, KeyPlan,
    key::{Part, Transform},
};

/// A manifest that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) version: String,
    /// What a call of `key` is given.
    pub(super) key_inputs: Vec<Input>,
    /// How many experiments it declares.
    pub(super) experiments: usize,
}

/// Checks a manifest. What hooks read that aren't called is not looked at.
pub(super) fn check(raw: RawManifest) -> Result<Manifest, Flaw> {
    let mut seen: Vec<Hook> = Vec::new();
    let mut key_inputs = Vec::new();
    for reads in raw.reads {
        let hook = Hook::from(reads.hook);
        if seen.contains(&hook) {
            return Err(Flaw::Twice { hook: hook.name() });
        }
        seen.push(hook);
        if hook != Hook::Key {
            continue;
        }
        if reads.inputs.len() > INPUTS_MAX {
            return Err(Flaw::Inputs { hook: hook.name(), count: reads.inputs.len(), limit: INPUTS_MAX });
        }
        key_inputs = reads.inputs.into_iter().map(input).collect::<Result<_, _>>()?;
    }
    Ok(Manifest {
        name: name("name", raw.name)?,
        version: name("version", raw.version)?,
        key_inputs,
        experiments: raw.experiments.len(),
    })
}

/// The plan, from what `plan` answered and the inputs that the manifest declares for `key`.
pub(super) fn key_plan(keying: Keying, inputs: Vec<Input>) -> Result<KeyPlan, Flaw> {
    match keying {
        Keying::Call if inputs.is_empty() => Err(Flaw::Nothing { what: "call" }),
        Keying::Call => Ok(KeyPlan::Call(inputs)),
        Keying::Recipe(parts) if parts.is_empty() => Err(Flaw::Nothing { what: "recipe" }),
        Keying::Recipe(parts) if parts.len() > PARTS_MAX => Err(Flaw::Parts { count: parts.len(), limit: PARTS_MAX }),
        Keying::Recipe(parts) => parts.into_iter().map(part).collect::<Result<_, _>>().map(KeyPlan::Recipe),
    }
}

const NAME_CHARS_MAX: usize = 64;
const ARGUMENT_BYTES_MAX: usize = 256;

fn name(field: &'static str, name: String) -> Result<String, Flaw> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(name) } else { Err(Flaw::Name { field, limit: NAME_CHARS_MAX }) }
}

fn part(part: RawPart) -> Result<Part, Flaw> {
    let transform = match part.transform {
        RawTransform::Identity => Transform::Identity,
        RawTransform::Lowercase => Transform::Lowercase,
        RawTransform::SortQuery => Transform::SortQuery,
        RawTransform::DropQuery => Transform::DropQuery,
        RawTransform::JsonCanonical => Transform::JsonCanonical,
    };
    Ok(Part { input: input(part.input)?, transform })
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
        RawInput::Feature(name) => return Err(not_provided(&format!("feature({name})"))),
        RawInput::Arm(name) => return Err(not_provided(&format!("arm({name})"))),
        RawInput::Clock(seconds) => return Err(not_provided(&format!("clock({seconds})"))),
        RawInput::PoolEpoch(pool) => return Err(not_provided(&format!("pool-epoch({pool})"))),
    })
}

fn argument(kind: &'static str, name: String) -> Result<String, Flaw> {
    if (1..=ARGUMENT_BYTES_MAX).contains(&name.len()) {
        Ok(name)
    } else {
        Err(wrong(kind, &name, "a name has 1 to 256 bytes"))
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

fn not_provided(input: &str) -> Flaw {
    Flaw::NotProvided { input: shown(input) }
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

    #[test]
    fn inputs_keep_their_order_and_header_names_lose_their_case() {
        let inputs = vec![RawInput::Header("Accept".into()), RawInput::Query("q".into()), RawInput::ClientPrefix(24)];
        let checked =
            check(manifest(vec![(RawHook::Admit, vec![RawInput::Clock(1)]), (RawHook::Key, inputs)])).unwrap();
        let wanted = [Input::Header(ACCEPT), Input::Query("q".into()), Input::ClientPrefix(24)];
        assert_eq!(checked.key_inputs, wanted);
    }

    #[test]
    fn inputs_that_make_no_sense_are_named() {
        let table = [
            (RawInput::Clock(60), "input clock(60) is not provided to the key hook"),
            (RawInput::Arm("a".into()), "input arm(a) is not provided to the key hook"),
            (RawInput::Feature("f".into()), "input feature(f) is not provided to the key hook"),
            (RawInput::PoolEpoch("p".into()), "input pool-epoch(p) is not provided to the key hook"),
            (RawInput::Header("a b".into()), "input header(a b): not the name of a header field"),
            (RawInput::Query(String::new()), "input query(): a name has 1 to 256 bytes"),
            (RawInput::Cookie("c".repeat(257)), "input cookie("),
            (RawInput::BodyJson("model".into()), "input body-json(model): not a pointer"),
        ];
        for (raw, wanted) in table {
            let flaw = check(manifest(vec![(RawHook::Key, vec![raw])])).unwrap_err().to_string();
            assert!(flaw.starts_with(wanted), "{flaw}");
        }
    }

    #[test]
    fn names_and_counts_have_limits() {
        let many = |count| vec![(RawHook::Key, vec![RawInput::Path; count])];
        assert!(check(manifest(many(INPUTS_MAX))).is_ok());
        assert!(matches!(check(manifest(many(INPUTS_MAX + 1))), Err(Flaw::Inputs { count: 65, .. })));
        let twice = vec![(RawHook::Route, vec![]), (RawHook::Route, vec![])];
        assert_eq!(check(manifest(twice)), Err(Flaw::Twice { hook: "route" }));
        for name in ["", "a b", "\u{e9}", &"n".repeat(65)] {
            let raw = RawManifest { name: name.into(), ..manifest(vec![]) };
            assert!(matches!(check(raw), Err(Flaw::Name { field: "name", .. })), "{name}");
        }
    }

    #[test]
    fn a_plan_reads_something() {
        let part = || RawPart { input: RawInput::Path, transform: RawTransform::Lowercase };
        let recipe = |count| Keying::Recipe((0..count).map(|_| part()).collect());
        assert_eq!(key_plan(Keying::Call, vec![]), Err(Flaw::Nothing { what: "call" }));
        assert_eq!(key_plan(Keying::Call, vec![Input::Path]), Ok(KeyPlan::Call(vec![Input::Path])));
        assert_eq!(key_plan(recipe(0), vec![]), Err(Flaw::Nothing { what: "recipe" }));
        assert_eq!(key_plan(recipe(65), vec![]), Err(Flaw::Parts { count: 65, limit: 64 }));
        let one = Part { input: Input::Path, transform: Transform::Lowercase };
        assert_eq!(key_plan(recipe(1), vec![]), Ok(KeyPlan::Recipe(vec![one])));
    }
}
