//! Which process a disk tier's directory belongs to. Two nodes on one directory would overwrite each other's entries and
//! purge table, so the second is refused before it opens any of it.

use std::{
    fmt::Display,
    fs::{self, File, OpenOptions},
    path::Path,
};

use fs4::fs_std::FileExt;

use super::Error;

/// The lock's file in the directory. It stays when the node stops; only the lock on it counts.
const FILE: &str = "lock";

/// Holds a directory for this node until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct DirLock {
    /// The lock belongs to the open file.
    _file: File,
}

impl DirLock {
    /// Takes the lock on `dir`, which is created if it's missing.
    ///
    /// # Errors
    /// [`Error::InUse`] if another node has it, [`Error::Disk`] if the directory or its lock file can't be made or locked.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let lock = dir.join(FILE);
        let failed = |what: &str, reason: &dyn Display| Error::Disk {
            dir: dir.display().to_string(),
            reason: format!("{what}: {reason}"),
        };
        fs::create_dir_all(dir).map_err(|error| failed("can't be made", &error))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(|error| failed("its lock file can't be opened", &error))?;
        match FileExt::try_lock_exclusive(&file) {
            Ok(true) => Ok(Self { _file: file }),
            Ok(false) => Err(Error::InUse { dir: dir.display().to_string() }),
            Err(error) => Err(failed("can't be locked", &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/on/the/way");
        let held = DirLock::take(&dir).unwrap();
        let refused = DirLock::take(&dir).unwrap_err();
        assert!(matches!(refused, Error::InUse { .. }));
        let said = refused.to_string();
        assert!(said.contains(&dir.display().to_string()) && said.contains("another node"), "{said}");
        drop(held);
        DirLock::take(&dir).unwrap();
    }

    #[test]
    fn what_cannot_be_locked_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let said = DirLock::take(&file).unwrap_err().to_string();
        assert!(said.contains(&file.display().to_string()) && said.contains("can't be made"), "{said}");
        fs::create_dir_all(dir.path().join("held").join(FILE)).unwrap();
        let said = DirLock::take(&dir.path().join("held")).unwrap_err().to_string();
        assert!(said.contains("its lock file can't be opened"), "{said}");
    }
}
