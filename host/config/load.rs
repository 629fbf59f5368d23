//! Reading a configuration.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    Config, Error,
    check::{Checked, check},
    error::Problem,
    raw::Raw,
    units::ByteSize,
};

/// Bytes of a file: far above any configuration, far below what a mistaken path may lead to.
const FILE_BYTES_MAX: ByteSize = ByteSize::mib(4);

/// Reads and validates a file; the files it names must be there. Relative paths begin at the file's own directory.
///
/// # Errors
/// Everything that is wrong with it, each with its place and what is allowed.
pub fn load(path: &Path) -> Result<Config, Error> {
    read_whole(path, &BTreeSet::new())
}

/// Reads and validates a file for a node that runs by `running`. Files that this names as well may be gone: the node has
/// read them. Whoever has to read one of them again finds out.
///
/// # Errors
/// Those of [`load`].
pub fn load_beside(path: &Path, running: &Config) -> Result<Config, Error> {
    read_whole(path, &running.needed)
}

fn read_whole(path: &Path, known: &BTreeSet<PathBuf>) -> Result<Config, Error> {
    let text = read(path)?;
    let name = path.display().to_string();
    // So that what is shown and compared doesn't depend on the working directory.
    let whole = std::path::absolute(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    let mut checked = understand(&name, &text, whole.parent().unwrap_or(Path::new("")))?;
    checked.look_for_files(known);
    let digest = Some(blake3::hash(text.as_bytes()));
    checked.finish(&name, &text).map(|config| Config { file: Some(whole), digest, ..config })
}

/// Validates a text without looking at any file: whether the files it names are there is left to [`load`]. Relative
/// paths stay as they are.
///
/// # Errors
/// Everything that is wrong with it, each with its place and what is allowed; `name` stands for the file's.
pub fn parse(name: &str, text: &str) -> Result<Config, Error> {
    understand(name, text, Path::new(""))?.finish(name, text)
}

fn understand(name: &str, text: &str, base: &Path) -> Result<Checked, Error> {
    match toml::from_str::<Raw>(text) {
        Ok(raw) => Ok(check(&raw, base)),
        Err(error) => Err(Error::invalid(name, text, vec![Problem::from_toml(&error)])),
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let refused = |cause| Error::Read { path: path.to_owned(), cause };
    let file = File::open(path).map_err(refused)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX.0 + 1).read_to_string(&mut text).map_err(refused)?;
    if text.len() as u64 > FILE_BYTES_MAX.0 {
        return Err(Error::TooLarge { path: path.to_owned(), bytes_max: FILE_BYTES_MAX });
    }
    Ok(text)
}
