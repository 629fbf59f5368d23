//! Reading small files that an operator names: certificates, keys, OCSP responses, tokens. What stands under a path may
//! be exchanged at any time, for anything.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

use super::units::ByteSize;

/// Bytes of a file that is read as a whole: far above a bundle of certificates, far below what a mistaken path may lead
/// to.
const FILE_BYTES_MAX: ByteSize = ByteSize::mib(1);

/// Opens a regular file for reading, without waiting: opening a pipe would wait for its writer.
///
/// # Errors
/// That of the system, or that it isn't a regular file.
pub fn open_file(path: &Path) -> io::Result<File> {
    // On a regular file `NONBLOCK` means nothing.
    let file = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it isn't a regular file"))
}

/// Reads a regular file of 1 MiB at most, without waiting for anybody.
///
/// # Errors
/// That of the system, or that it isn't a regular file, or is longer.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(FILE_BYTES_MAX.0 + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX.0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {FILE_BYTES_MAX}")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, mkfifoat};

    use super::*;

    #[test]
    fn only_a_regular_file_of_moderate_length_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("good"), "pem").unwrap();
        fs::write(path("longest"), vec![0; 1 << 20]).unwrap();
        fs::write(path("longer"), vec![0; (1 << 20) + 1]).unwrap();
        mkfifoat(CWD, path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(path("good"), path("link")).unwrap();
        assert_eq!(read_file(&path("good")).unwrap(), b"pem");
        assert_eq!(read_file(&path("link")).unwrap(), b"pem");
        assert_eq!(read_file(&path("longest")).unwrap().len(), 1 << 20);
        for (name, words) in [
            ("longer", "longer than 1MiB"),
            // Nobody writes to it: to wait for that would be for ever.
            ("pipe", "isn't a regular file"),
            (".", "isn't a regular file"),
            ("gone", "No such file"),
        ] {
            let error = read_file(&path(name)).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
    }
}
