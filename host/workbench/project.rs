//! A policy's folder: `policy.toml`, and what is beside it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use super::error::Error;
use crate::policy::Hook;

/// What a policy is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// With cargo, for `wasm32-unknown-unknown`.
    Rust,
    /// With clang and wasi-libc.
    C,
    /// With Go's own compiler.
    Go,
    /// JavaScript, in QuickJS.
    Js,
    /// In CPython.
    Python,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Rust, Self::C, Self::Go, Self::Js, Self::Python];

    /// As `policy.toml` writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::Go => "go",
            Self::Js => "js",
            Self::Python => "python",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|language| language.name() == text);
        known.ok_or_else(|| {
            format!("`{text}` is no language here; allowed are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// A policy's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// The folder.
    pub dir: PathBuf,
    /// The policy's name.
    pub name: String,
    /// What it is written in.
    pub language: Language,
    /// The hooks that it exports.
    pub hooks: Vec<Hook>,
}

/// `policy.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    language: String,
    hooks: Vec<String>,
}

impl Project {
    /// Reads `policy.toml` in a folder.
    ///
    /// # Errors
    /// It isn't there, or says something that isn't allowed.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("policy.toml");
        let text = fs::read_to_string(&path).map_err(Error::unreadable(&path))?;
        Self::parse(&text, dir).map_err(|what| Error::File { path, what })
    }

    fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let mut hooks = Vec::new();
        for name in &raw.hooks {
            let known = || Hook::ALL.map(Hook::name).join(", ");
            let hook =
                Hook::named(name).ok_or_else(|| format!("`hooks`: `{name}` is none; allowed are {}", known()))?;
            if hooks.contains(&hook) {
                return Err(format!("`hooks` names `{name}` twice"));
            }
            hooks.push(hook);
        }
        if hooks.is_empty() {
            return Err("`hooks` is empty; a policy exports at least one".to_owned());
        }
        hooks.sort();
        check_name(&raw.name)?;
        let language = raw.language.parse().map_err(|wrong| format!("`language`: {wrong}"))?;
        Ok(Self { dir: dir.to_owned(), name: raw.name, language, hooks })
    }

    /// Where its component is built to.
    #[must_use]
    pub fn component(&self) -> PathBuf {
        self.dir.join(format!("{}.wasm", self.name))
    }

    /// Where what is generated goes.
    pub(super) fn generated(&self) -> PathBuf {
        self.dir.join("gen")
    }
}

/// The longest that a manifest may have.
const NAME_CHARS_MAX: usize = 64;

/// Names of the SDK's own packages.
const TAKEN: [&str; 2] = ["holm", "holm-sdk"];

/// Whether it is a valid name in every language.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let fits = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= NAME_CHARS_MAX
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !fits {
        return Err(format!(
            "`{name}` can't be a policy's name: that is 1 to {NAME_CHARS_MAX} of a to z, 0 to 9 and `-`, a letter first"
        ));
    }
    if TAKEN.contains(&name) { Err(format!("`{name}` is the name of the SDK; take another one")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Project, String> {
        Project::parse(text, Path::new("p"))
    }

    #[test]
    fn a_project_says_name_language_and_hooks() {
        for language in Language::ALL {
            let text = format!("name = \"my-key\"\nlanguage = \"{language}\"\nhooks = [\"batch\", \"key\"]\n");
            let project = parse(&text).unwrap();
            assert_eq!((project.name.as_str(), project.language), ("my-key", language));
            assert_eq!(
                (project.hooks.as_slice(), project.component()),
                (&[Hook::Key, Hook::Batch][..], "p/my-key.wasm".into())
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        let whole = "name = \"a\"\nlanguage = \"c\"\nhooks = [\"key\"]\n";
        for (from, to, words) in [
            ("name = \"a\"\n", "", "missing field `name`"),
            ("name = \"a\"", "nam = \"a\"", "unknown field `nam`, expected one of `name`, `language`, `hooks`"),
            ("\"a\"", "\"A\"", "`A` can't be a policy's name: that is 1 to 64 of a to z, 0 to 9 and `-`"),
            ("\"a\"", "\"\"", "`` can't be"),
            ("\"a\"", "\"1a\"", "`1a` can't be"),
            ("\"a\"", "\"holm-sdk\"", "is the name of the SDK"),
            ("\"c\"", "\"cobol\"", "`language`: `cobol` is no language here; allowed are rust, c, go, js, python"),
            (
                "[\"key\"]",
                "[\"keys\"]",
                "`hooks`: `keys` is none; allowed are key, features, admit, route, batch, prefetch",
            ),
            ("[\"key\"]", "[\"key\", \"key\"]", "`hooks` names `key` twice"),
            ("[\"key\"]", "[]", "`hooks` is empty"),
            ("[\"key\"]", "\"key\"", "line 3"),
        ] {
            let wrong = parse(&whole.replace(from, to)).unwrap_err();
            assert!(wrong.contains(words), "{from} {to}: {wrong}");
        }
        let nowhere = Project::read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(nowhere.starts_with("/nowhere/policy.toml can't be read"), "{nowhere}");
    }
}
