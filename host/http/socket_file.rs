//! Unix sockets that have a file: bound so that a file which a dead process has left is replaced and a living process
//! is left alone, and removed at the end.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicBool, Ordering},
};

/// The file of a Unix socket. It is removed when this value is dropped, unless it is another process's by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number of the file.
    id: (u64, u64),
    is_owned: AtomicBool,
}

impl SocketFile {
    /// Binds a socket of this mode (as in `chmod`) whose file is `path`. Clients find either the former
    /// file or one that is listened at.
    ///
    /// # Errors
    /// A living process listens there, the file is no socket, or what the system says.
    pub fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, Self)> {
        refuse_living(path)?;
        let (listener, made) = Self::bind_beside(path, mode)?;
        Ok((listener, made.rename(path)?))
    }

    /// Binds a socket whose file is beside `path`, to be renamed to it.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind_beside(path: &Path, mode: u32) -> io::Result<(UnixListener, Self)> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", process::id()));
        let beside = PathBuf::from(name);
        // Left by a process that ended between the two steps and had the number that is this one's now.
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        let made = Self::of(&beside)?;
        // Nobody knows the name yet, so nobody can have connected before.
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        Ok((listener, made))
    }

    /// Returns the file at `path`, which is this process's from now on.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id(path)?, is_owned: AtomicBool::new(true) })
    }

    /// Returns the file at `path`, which is another process's until [`SocketFile::own`].
    ///
    /// # Errors
    /// What the system says.
    pub fn lent(path: &Path) -> io::Result<Self> {
        let file = Self::of(path)?;
        file.leave();
        Ok(file)
    }

    /// Takes the file over from the process that had it.
    pub fn own(&self) {
        self.is_owned.store(true, Ordering::Relaxed);
    }

    /// Renames it to `path`, in the place of whatever file is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn rename(mut self, path: &Path) -> io::Result<Self> {
        fs::rename(&self.path, path)?;
        path.clone_into(&mut self.path);
        Ok(self)
    }

    /// Leaves the file to another process.
    pub fn leave(&self) {
        self.is_owned.store(false, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_same = || id(&self.path).is_ok_and(|id| id == self.id);
        if self.is_owned.load(Ordering::Relaxed) && is_same() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Refuses to replace a file that is no socket, or at which a process listens.
fn refuse_living(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holm.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "nobody has removed it");
        let (listener, file) = SocketFile::bind(&path, 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        UnixStream::connect(&path).unwrap();
        let refused = SocketFile::bind(&path, 0o640).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        drop((listener, file));
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(SocketFile::bind(&path, 0o640).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_that_is_another_process_s_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holm.sock");
        let (_former, file) = SocketFile::bind(&path, 0o600).unwrap();
        let (_next, made) = SocketFile::bind_beside(&path, 0o600).unwrap();
        let next = made.rename(&path).unwrap();
        drop(file);
        assert!(path.exists(), "it is the next one's");
        next.leave();
        drop(next);
        assert!(path.exists(), "it was left");
    }
}
