//! Reading a configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, Error,
    central::Generation,
    check::{Checked, check},
    error::Problem,
    merge::merged,
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
    read_whole(path, &BTreeSet::new(), None)
}

/// Reads and validates a file for a node that runs by `running`, together with the generation of the central
/// configuration that this has. Files that this names as well may be gone: the node has read them. Whoever has to read
/// one of them again finds out.
///
/// # Errors
/// Those of [`load`].
pub fn load_beside(path: &Path, running: &Config) -> Result<Config, Error> {
    read_whole(path, &running.needed, running.generation.as_ref())
}

/// The same with another generation, or with none.
///
/// # Errors
/// Those of [`load`]. What is wrong with the generation is named with its place in there.
pub fn load_with(path: &Path, generation: Option<&Arc<Generation>>, running: &Config) -> Result<Config, Error> {
    read_whole(path, &running.needed, generation)
}

/// Reads and validates a central configuration, as a node with nothing but an address of its own would have it. Returns its
/// text as well. Relative paths begin at the file's directory. Whether the files that it names are there isn't looked at:
/// components are read by what sends them, and others are on the nodes.
///
/// # Errors
/// Everything that is wrong with it, each with its place and what is allowed.
pub fn load_central(path: &Path) -> Result<(Config, String), Error> {
    let text = read(path)?;
    if text.len() as u64 > CENTRAL_BYTES_MAX.0 {
        return Err(Error::TooLarge { path: path.to_owned(), bytes_max: CENTRAL_BYTES_MAX });
    }
    let whole = std::path::absolute(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    let base = whole.parent().unwrap_or(Path::new(""));
    let config = as_node(&path.display().to_string(), &text, BTreeMap::new(), base)?;
    Ok((config, text))
}

/// Validates the text of a central configuration, in which these files are the components of policies.
///
/// # Errors
/// Everything that is wrong with it, each with its place and what is allowed; `name` stands for the file's.
pub fn parse_central(name: &str, text: &str, components: BTreeMap<String, PathBuf>) -> Result<Config, Error> {
    as_node(name, text, components, Path::new(""))
}

fn as_node(name: &str, text: &str, components: BTreeMap<String, PathBuf>, base: &Path) -> Result<Config, Error> {
    let own = Own { name, text: STAND_IN, base };
    let (text, record) = (text.to_owned(), Arc::default());
    let generation = Generation { number: 0, digest: String::new(), text, components, record };
    let checked = own.with(&generation, name, false)?;
    own.finish(checked, &generation, name)
}

/// Bytes of a central configuration: a generation of it has to fit into one request to etcd, which takes 1.5 MiB, also
/// with each of its characters escaped.
pub const CENTRAL_BYTES_MAX: ByteSize = ByteSize(512 << 10);

/// Stands for a node's own file where there is none.
const STAND_IN: &str = "listen = [{ address = \"127.0.0.1:0\" }]\n";

/// A node's own file.
struct Own<'a> {
    name: &'a str,
    text: &'a str,
    /// Where relative paths begin, those of the central part as well.
    base: &'a Path,
}

impl Own<'_> {
    /// Checks what it says together with a generation, which messages call `name`.
    fn with(&self, generation: &Generation, name: &str, is_complete: bool) -> Result<Checked, Error> {
        let refuse = |problem: Problem| Error::invalid(self.name, self.text, vec![problem]);
        let own: Raw = toml::from_str(self.text).map_err(|error| refuse(Problem::from_toml(&error)))?;
        let from = self.text.len();
        let joint = merged(own, self.text, generation, from, is_complete)
            .map_err(|problem| Error::invalid(name, &generation.text, vec![problem.counted_from(from)]))?;
        let mut checked = check(&joint.raw, self.base);
        checked.add(joint.problems);
        Ok(checked)
    }

    /// Returns the configuration, if nothing is wrong with it. What is wrong with the generation comes first.
    fn finish(&self, mut checked: Checked, generation: &Generation, name: &str) -> Result<Config, Error> {
        let central = checked.take_from(self.text.len());
        if !central.is_empty() {
            return Err(Error::invalid(name, &generation.text, central));
        }
        checked.finish(self.name, self.text)
    }
}

fn read_whole(path: &Path, known: &BTreeSet<PathBuf>, generation: Option<&Arc<Generation>>) -> Result<Config, Error> {
    let text = read(path)?;
    let name = path.display().to_string();
    // So that what is shown and compared doesn't depend on the working directory.
    let whole = std::path::absolute(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    let base = whole.parent().unwrap_or(Path::new("")).to_owned();
    let digest = Some(blake3::hash(text.as_bytes()));
    let config = match generation {
        None => {
            let mut checked = understand(&name, &text, &base)?;
            checked.look_for_files(known);
            checked.finish(&name, &text)?
        }
        Some(generation) => {
            let own = Own { name: &name, text: &text, base: &base };
            let mut checked = own.with(generation, &generation.name(), true)?;
            checked.look_for_files(known);
            own.finish(checked, generation, &generation.name())?
        }
    };
    Ok(Config { file: Some(whole), digest, generation: generation.cloned(), ..config })
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
