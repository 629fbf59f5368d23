//! Which versions of the contract (`wit/policy.wit`) a component may be built against: the component model's rule for
//! 0.x, as the engine links by it. Pure.

use super::{error::Refusal, limits::plain};

/// The version of the contract that this node has.
pub(super) const VERSION: &str = "0.1.0";

/// How the names of the contract's interfaces begin.
const PACKAGE: &str = "holm:policy/";

/// Characters of an interface's name in a message.
const NAME_CHARS_MAX: usize = 80;

/// Returns `key` of `holm:policy/key@0.1.0`; `None` if it is the interface of another package.
pub(super) fn interface(name: &str) -> Option<&str> {
    name.strip_prefix(PACKAGE)?.split('@').next()
}

/// Checks the version of an interface that a component `imports` or `exports`.
///
/// # Errors
/// It is one of the contract's package, in a version that isn't compatible with this node's, or without one.
pub(super) fn check(does: &'static str, name: &str) -> Result<(), Refusal> {
    let Some(rest) = name.strip_prefix(PACKAGE) else { return Ok(()) };
    if rest.split_once('@').is_some_and(|(_, version)| is_compatible(version, VERSION)) {
        return Ok(());
    }
    Err(Refusal::Version { does, interface: shown(name), version: VERSION, line: line_of(VERSION) })
}

/// Returns an interface's name as it may appear in a message.
pub(super) fn shown(name: &str) -> String {
    plain(name, NAME_CHARS_MAX)
}

/// Whether a component that was built against one version may run on a node that has the other. While the major version
/// is 0, the minor one says what is compatible, and any patch fits any other: what a later one adds is a new interface,
/// a kind of input or a transform, and those that this node doesn't have are refused by their names. A pre-release fits
/// itself alone.
fn is_compatible(built: &str, node: &str) -> bool {
    built == node || line(built).is_some_and(|line_built| Some(line_built) == line(node))
}

/// Returns what is equal in compatible versions: the major one, or while that is 0, the minor one. `None` if a version
/// is compatible with itself alone, or isn't one.
fn line(version: &str) -> Option<(u64, u64)> {
    let version = version.split_once('+').map_or(version, |(version, _)| version);
    let mut numbers = version.split('.').map(number);
    let (major, minor, _patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() {
        return None;
    }
    match (major, minor) {
        (0, 0) => None,
        (0, minor) => Some((0, minor)),
        (major, _) => Some((major, 0)),
    }
}

/// Returns the number that digits alone make, without zeros before it.
fn number(digits: &str) -> Option<u64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| is_number)
}

/// Returns `0.1.x` of `0.1.0`.
fn line_of(version: &str) -> String {
    version.rsplit_once('.').map_or_else(|| version.to_owned(), |(line, _)| format!("{line}.x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_version_is_the_contracts() {
        let contract = include_str!("../../wit/policy.wit");
        assert!(contract.contains(&format!("\npackage holm:policy@{VERSION};\n")));
    }

    #[test]
    fn any_patch_of_the_same_line_is_compatible_and_nothing_else() {
        for (built, node, wanted) in [
            ("0.1.0", "0.1.0", true),
            ("0.1.9", "0.1.0", true),
            ("0.1.0", "0.1.9", true),
            ("0.1.12+build.7", "0.1.0", true),
            ("0.2.0", "0.1.0", false),
            ("0.10.0", "0.1.0", false),
            ("0.0.1", "0.1.0", false),
            ("1.1.0", "0.1.0", false),
            ("0.1.1-rc.1", "0.1.0", false),
            ("0.1.0-rc.1", "0.1.0", false),
            ("0.1", "0.1.0", false),
            ("0.1.0.0", "0.1.0", false),
            ("0.01.0", "0.1.0", false),
            ("0.1.x", "0.1.0", false),
            ("0.+1.0", "0.1.0", false),
            ("", "0.1.0", false),
            ("1.7.0", "1.2.3", true),
            ("2.2.3", "1.2.3", false),
            ("0.0.1", "0.0.1", true),
            ("0.0.2", "0.0.1", false),
        ] {
            assert_eq!(is_compatible(built, node), wanted, "{built} on {node}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_component_has_what_the_node_has_and_what_to_do() {
        for fine in ["holm:policy/key@0.1.0", "holm:policy/rank@0.1.7", "holm:other/key@9.0.0", "init"] {
            assert!(check("exports", fine).is_ok(), "{fine}");
        }
        for wrong in ["holm:policy/key@0.2.0", "holm:policy/key", "holm:policy/key@", "holm:policy/key@0.1.0-rc.1"] {
            let refused = check("exports", wrong).unwrap_err().to_string();
            let wanted = format!("exports `{wrong}`, but this node has `holm:policy@0.1.0`, ");
            assert!(refused.starts_with(&wanted) && refused.contains("0.1.x"), "{refused}");
            assert!(refused.contains("build it again") && refused.contains("`holm policy build`"), "{refused}");
        }
        assert!(check("imports", "holm:policy/facts@1.0.0").unwrap_err().to_string().starts_with("imports `holm:"));
    }

    #[test]
    fn interfaces_are_told_by_their_name() {
        for (name, wanted) in [
            ("holm:policy/key@0.1.0", Some("key")),
            ("holm:policy/admit", Some("admit")),
            ("holm:other/key@0.1.0", None),
            ("init", None),
        ] {
            assert_eq!(interface(name), wanted, "{name}");
        }
    }
}
