//! What an operator wants to know of a plugin.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::policy::{
    Input, KeyPlan,
    key::{Part, Transform},
};

/// One generation of a policy as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PluginInfo {
    /// Name in the configuration.
    pub name: String,
    /// Name in the component's manifest.
    pub component: String,
    /// Version in the component's manifest.
    pub version: String,
    /// blake3 over component, configuration and limits, in hex.
    pub digest: String,
    /// What the component exports.
    pub hooks: Vec<HookInfo>,
    /// How keys are made.
    pub plan: String,
    /// Calls of hooks so far.
    pub calls: u64,
    /// Faults so far, by kind; kinds that didn't occur are left out.
    pub faults: BTreeMap<&'static str, u64>,
    /// Live instances.
    pub instances: usize,
    /// Is it not being asked at present, because it faulted too often?
    pub breaker_open: bool,
}

/// A hook that a component exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HookInfo {
    /// Its name.
    pub name: &'static str,
    /// Does this version of the host call it?
    pub called: bool,
}

/// A plan in words.
pub(super) fn plan(plan: &KeyPlan) -> String {
    let list = |words: Vec<String>| words.join(", ");
    match plan {
        KeyPlan::Native => "native".to_owned(),
        KeyPlan::Recipe(parts) => format!("recipe: {}", list(parts.iter().map(part).collect())),
        KeyPlan::Call(inputs) => format!("call: {}", list(inputs.iter().map(input).collect())),
    }
}

fn part(part: &Part) -> String {
    let transform = match part.transform {
        Transform::Identity => return input(&part.input),
        Transform::Lowercase => "lowercase",
        Transform::SortQuery => "sort-query",
        Transform::DropQuery => "drop-query",
        Transform::JsonCanonical => "json-canonical",
    };
    format!("{} {transform}", input(&part.input))
}

fn input(input: &Input) -> String {
    match input {
        Input::Method => "method".to_owned(),
        Input::Scheme => "scheme".to_owned(),
        Input::Authority => "authority".to_owned(),
        Input::Path => "path".to_owned(),
        Input::Query(name) => format!("query({name})"),
        Input::QueryAll => "query-all".to_owned(),
        Input::Header(name) => format!("header({name})"),
        Input::Cookie(name) => format!("cookie({name})"),
        Input::ClientPrefix(bits) => format!("client-prefix({bits})"),
        Input::BodyDigest => "body-digest".to_owned(),
        Input::BodyJson(pointer) => format!("body-json({pointer})"),
        Input::BodyPrefix(length) => format!("body-prefix({length})"),
        Input::BodyLength => "body-length".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    #[test]
    fn plans_read_well() {
        let recipe = KeyPlan::Recipe(vec![
            Part { input: Input::Header(ACCEPT), transform: Transform::Lowercase },
            Part { input: Input::Path, transform: Transform::Identity },
        ]);
        assert_eq!(plan(&recipe), "recipe: header(accept) lowercase, path");
        let call = KeyPlan::Call(vec![Input::BodyJson("/model".into()), Input::ClientPrefix(24)]);
        assert_eq!(plan(&call), "call: body-json(/model), client-prefix(24)");
        assert_eq!(plan(&KeyPlan::Native), "native");
    }
}
