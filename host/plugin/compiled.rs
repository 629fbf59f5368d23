//! Compiled components on disk, so that a restart doesn't compile them again. What is read back is run as it is, and
//! damaged machine code ends the process or worse; so each file has a checksum, and one that doesn't fit is compiled
//! anew.

use std::{
    cmp::Reverse,
    fs::{self, File},
    hash::{Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use tracing::warn;
use wasmtime::{Engine, component::Component};

use super::error::one_line;

/// The first bytes of a file. Another format has others.
const MAGIC: [u8; 8] = *b"holmcwa1";
const HEADER_BYTES: usize = MAGIC.len() + blake3::OUT_LEN;
/// The end of a file's name.
const WHOLE: &str = "compiled";
/// The same while it is being written. It stays if the node ends meanwhile, and is deleted like the others.
const HALF: &str = "half";

/// A directory of compiled components. Several processes may share it.
pub(super) struct Compiled {
    dir: PathBuf,
    bytes_max: u64,
}

/// A file of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Compiled {
    /// Makes the directory if it's missing. Past `bytes_max` what was used longest ago is deleted.
    pub(super) fn open(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), bytes_max })
    }

    /// Returns the component of this name; `None` if it isn't there, not whole, or not of this engine.
    pub(super) fn load(&self, engine: &Engine, name: &blake3::Hash) -> Option<Component> {
        let path = self.path(name);
        let file = path.display();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(%file, %error, "a compiled policy can't be read; it is compiled anew");
                return None;
            }
        };
        let Some(code) = verified(name, &bytes) else {
            warn!(%file, "a compiled policy is damaged; it is compiled anew");
            return None;
        };
        // SAFETY: by the checksum these are the bytes that `store` wrote, which `Component::serialize` made of a
        // component that an engine of the same version and settings compiled. They are not defended against somebody
        // who may write to the directory and computes a checksum of his own: that has to be the node's user alone.
        match unsafe { Component::deserialize(engine, code) } {
            Ok(component) => {
                touch(&path);
                Some(component)
            }
            Err(error) => {
                let error = one_line(&error);
                warn!(%file, error, "a compiled policy doesn't fit this node; it is compiled anew");
                None
            }
        }
    }

    /// Stores a component under its name. If that fails it is compiled again at the next start.
    pub(super) fn store(&self, name: &blake3::Hash, component: &Component) {
        let code = component.serialize().map_err(|error| one_line(&error));
        let kept = code.and_then(|code| self.write(name, &code).map_err(|error| error.to_string()));
        match kept {
            Ok(()) => self.make_room(&self.path(name)),
            Err(error) => warn!(dir = %self.dir.display(), error, "a compiled policy can't be stored"),
        }
    }

    /// Writes a file, so that other processes see all of it or nothing.
    fn write(&self, name: &blake3::Hash, code: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let half = path.with_extension(format!("{:016x}.{HALF}", fastrand::u64(..)));
        let written = put(&half, name, code).and_then(|()| fs::rename(&half, &path));
        if written.is_err() {
            // It may not even exist; the first error says what is wrong.
            let _ = fs::remove_file(&half);
        }
        written
    }

    fn make_room(&self, newest: &Path) {
        for path in surplus(self.files(), newest, self.bytes_max) {
            if let Err(error) = fs::remove_file(&path) {
                warn!(file = %path.display(), %error, "a compiled policy that is no longer used can't be deleted");
            }
        }
    }

    /// Returns the files that this module wrote; others aren't touched.
    fn files(&self) -> Vec<Kept> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let path = entry.path();
                path.extension().filter(|extension| *extension == WHOLE || *extension == HALF)?;
                let metadata = entry.metadata().ok()?;
                Some(Kept { bytes: metadata.len(), used: metadata.modified().ok()?, path })
            })
            .collect()
    }

    fn path(&self, name: &blake3::Hash) -> PathBuf {
        self.dir.join(format!("{}.{WHOLE}", name.to_hex()))
    }
}

/// Returns the name of what an engine compiles from a component: another version of the compiler, other settings and
/// another processor make something else of it.
pub(super) fn name(engine: &Engine, component: &blake3::Hash) -> blake3::Hash {
    let mut all = Digest(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut all);
    all.0.update(component.as_bytes());
    all.0.finalize()
}

/// A hasher whose digest is long enough to be a name.
struct Digest(blake3::Hasher);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0.finalize().as_bytes()[..8]);
        u64::from_le_bytes(first)
    }
}

fn put(path: &Path, name: &blake3::Hash, code: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(&MAGIC)?;
    file.write_all(checksum(name, code).as_bytes())?;
    file.write_all(code)
}

/// Returns a file's checksum. It covers the name as well, so that no file passes for another.
fn checksum(name: &blake3::Hash, code: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(&MAGIC).update(name.as_bytes()).update(code).finalize()
}

/// Returns the code of a file of this name, if it is what was written.
fn verified<'f>(name: &blake3::Hash, file: &'f [u8]) -> Option<&'f [u8]> {
    let (header, code) = file.split_at_checked(HEADER_BYTES)?;
    let stated = header.strip_prefix(&MAGIC)?;
    (checksum(name, code).as_bytes() == stated).then_some(code)
}

/// Returns the files to delete so that the rest is within `bytes_max`: those used longest ago, and never `newest`.
fn surplus(mut files: Vec<Kept>, newest: &Path, bytes_max: u64) -> Vec<PathBuf> {
    files.sort_by_key(|file| (file.path != newest, Reverse(file.used)));
    let mut total = 0_u64;
    files
        .into_iter()
        .filter_map(|file| {
            total = total.saturating_add(file.bytes);
            (total > bytes_max && file.path != newest).then_some(file.path)
        })
        .collect()
}

/// Notes that a file was used. Where that isn't allowed, it is deleted earlier than others at worst.
fn touch(path: &Path) {
    let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn digest(text: &str) -> blake3::Hash {
        blake3::hash(text.as_bytes())
    }

    #[test]
    fn whatever_is_damaged_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let name = digest("a");
        let path = dir.path().join("file");
        put(&path, &name, b"machine code").unwrap();
        let file = fs::read(&path).unwrap();
        assert_eq!(verified(&name, &file), Some(&b"machine code"[..]));
        assert_eq!(verified(&digest("b"), &file), None, "another name");
        for length in 0..file.len() {
            assert_eq!(verified(&name, &file[..length]), None, "cut to {length} bytes");
        }
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verified(&name, &flipped), None, "bit {bit}");
        }
        assert_eq!(verified(&name, &[&file[..], b"!"].concat()), None, "longer");
        assert_eq!(verified(&name, &vec![0; file.len()]), None, "zeros");
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let file = |name: &str, bytes, age: u64| Kept {
            path: PathBuf::from(name),
            bytes,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 - age),
        };
        let files = || vec![file("old", 40, 30), file("new", 40, 0), file("middle", 40, 20), file("recent", 10, 10)];
        for (bytes_max, newest, wanted) in [
            (130, "new", &[][..]),
            (129, "new", &["old"]),
            (89, "new", &["middle", "old"]),
            (0, "new", &["recent", "middle", "old"]),
            // A clock that was set back makes what was written last the oldest: it stays all the same.
            (95, "old", &["middle"]),
            (0, "old", &["new", "recent", "middle"]),
        ] {
            let gone = surplus(files(), Path::new(newest), bytes_max);
            let wanted: Vec<PathBuf> = wanted.iter().map(PathBuf::from).collect();
            assert_eq!(gone, wanted, "{bytes_max} bytes, {newest} was written last");
        }
    }

    #[test]
    fn a_directory_keeps_within_its_bytes_and_leaves_other_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("README");
        fs::write(&other, vec![0; 1_000]).unwrap();
        fs::write(dir.path().join("cut-off.0123.half"), vec![0; 1_000]).unwrap();
        let compiled = Compiled::open(dir.path(), 200).unwrap();
        for name in ["a", "b", "c", "d"] {
            compiled.write(&digest(name), &[7; 50]).unwrap();
            compiled.make_room(&compiled.path(&digest(name)));
            assert!(compiled.path(&digest(name)).exists(), "{name}");
        }
        let files = compiled.files();
        assert!(!files.is_empty() && files.iter().map(|file| file.bytes).sum::<u64>() <= 200, "{files:?}");
        assert!(other.exists());
    }
}
