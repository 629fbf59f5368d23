//! A new policy's folder: a small policy that works, tests for it, and what to do next.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    build,
    error::Error,
    project::{self, Language},
};

/// What is to be made.
#[derive(Clone, Debug)]
pub struct New {
    /// The policy's name.
    pub name: String,
    /// What it is written in.
    pub language: Language,
    /// Its folder; named as the policy if there is none.
    pub dir: Option<PathBuf>,
}

/// A file's name and its text. A name without a dot before it where the file has one is not read by git here.
type File = (&'static str, &'static str);

/// Files of `plugins/templates`.
macro_rules! template {
    ($dir:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../plugins/templates/", $dir, "/", $file)))),+]
    };
}

/// What the folders of all languages have.
const COMMON: &[File] = template!("common": "policy.toml", "golden.jsonl", "gitignore");

const fn template(language: Language) -> &'static [File] {
    match language {
        Language::Rust => template!("rust": "README.md", "Cargo.toml", "src/lib.rs", "holm-sdk/Cargo.toml"),
        Language::C => template!("c": "README.md", "policy.c"),
        Language::Go => template!("go": "README.md", "go.mod", "policy.go", "policy_wasip1.go"),
        Language::Js => template!("js": "README.md", "policy.js"),
        Language::Python => template!("python": "README.md", "src/app.py"),
    }
}

/// Makes the folder of a policy, and gives back where it is.
///
/// # Errors
/// The name isn't one, something is there already, or a file can't be written.
pub fn create(new: &New) -> Result<PathBuf, Error> {
    project::check_name(&new.name).map_err(Error::Asked)?;
    let dir = new.dir.clone().unwrap_or_else(|| PathBuf::from(&new.name));
    if fs::read_dir(&dir).map_or_else(|_| dir.exists(), |mut entries| entries.next().is_some()) {
        let what = "is there already, and nothing is overwritten; take another name, or another folder with --dir";
        return Err(Error::File { path: dir, what: what.to_owned() });
    }
    for (name, text) in COMMON.iter().chain(template(new.language)) {
        let name = if *name == "gitignore" { ".gitignore" } else { name };
        let text = text.replace("{{name}}", &new.name).replace("{{language}}", new.language.name());
        write(&dir, name, &text)?;
    }
    if new.language == Language::Rust {
        write_rust_sdk(&dir.join("holm-sdk"))?;
    }
    Ok(dir)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::unwritable(parent))?;
    }
    fs::write(&path, text).map_err(Error::unwritable(path))
}

/// Sources of the SDK.
macro_rules! sdk {
    ($($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../plugins/sdk/src/", $file)))),+]
    };
}

/// The SDK for Rust. It lies in the folder, so that cargo finds it wherever that is.
const RUST_SDK: &[File] = sdk![
    "admit.rs",
    "batch.rs",
    "bindings.rs",
    "config.rs",
    "features.rs",
    "input.rs",
    "json.rs",
    "key.rs",
    "lib.rs",
    "log.rs",
    "prefetch.rs",
    "route.rs",
    "rt.rs",
    "values.rs",
];

/// Where the SDK looks for the contract in this repository, and where in a policy's folder.
const CONTRACT: [&str; 2] = ["path: \"../../wit\"", "path: \"wit\""];

fn write_rust_sdk(dir: &Path) -> Result<(), Error> {
    for (name, text) in RUST_SDK {
        write(&dir.join("src"), name, &text.replace(CONTRACT[0], CONTRACT[1]))?;
    }
    write(dir, "wit/policy.wit", build::CONTRACT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workbench::{Project, parse_records};

    fn new(language: Language, dir: &Path) -> New {
        New { name: "my-key".into(), language, dir: Some(dir.to_owned()) }
    }

    fn read(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn a_new_folder_is_a_project_with_records() {
        for language in Language::ALL {
            let parent = tempfile::tempdir().unwrap();
            let dir = create(&new(language, &parent.path().join("deep/er"))).unwrap();
            let project = Project::read(&dir).unwrap();
            assert_eq!((project.name.as_str(), project.language), ("my-key", language));
            let groups = parse_records(&read(&dir, "golden.jsonl")).unwrap();
            let records: Vec<_> = groups.iter().flat_map(|group| &group.records).collect();
            assert!(records.len() >= 3 && records.iter().all(|record| !record.expect.is_empty()), "{language}");
            let readme = read(&dir, "README.md");
            for words in ["my-key", "holm policy build", "holm policy test", "holm serve"] {
                assert!(readme.contains(words), "{language}: {words}");
            }
            assert!(read(&dir, ".gitignore").contains("gen/"));
            for (name, _) in template(language) {
                assert!(!read(&dir, name).contains("{{"), "{language}: {name}");
            }
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("p");
        fs::create_dir(&dir).unwrap();
        assert!(create(&new(Language::Js, &dir)).is_ok(), "an empty folder will do");
        for taken in [dir.clone(), dir.join("policy.toml")] {
            let refused = create(&new(Language::C, &taken)).unwrap_err().to_string();
            assert!(refused.contains("is there already, and nothing is overwritten"), "{refused}");
        }
        let unnamed = New { name: "My Key".into(), ..new(Language::C, &parent.path().join("q")) };
        assert!(create(&unnamed).unwrap_err().to_string().contains("can't be a policy's name"));
        assert!(!parent.path().join("q").exists());
    }

    #[test]
    fn the_whole_sdk_for_rust_is_carried() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = fs::read_dir(repository.join("plugins/sdk/src")).unwrap();
        let mut there: Vec<_> = sources.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        assert_eq!(RUST_SDK.iter().map(|(name, _)| *name).collect::<Vec<_>>(), there);
        let dependency = |file: &str| {
            let text = fs::read_to_string(repository.join(file)).unwrap();
            text.lines().find(|line| line.starts_with("wit-bindgen =")).unwrap().to_owned()
        };
        assert_eq!(dependency("plugins/templates/rust/holm-sdk/Cargo.toml"), dependency("plugins/Cargo.toml"));
        let bindings = RUST_SDK.iter().find(|(name, _)| *name == "bindings.rs").unwrap().1;
        assert_eq!(bindings.matches("path: ").count(), bindings.matches(CONTRACT[0]).count());
    }
}
