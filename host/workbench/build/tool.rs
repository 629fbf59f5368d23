//! Running the tools of other languages.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::super::error::Error;

/// A program that isn't part of holm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool {
    pub(super) program: &'static str,
    /// Goes on after "isn't installed, and".
    pub(super) purpose: &'static str,
    /// Commands that install it.
    pub(super) install: &'static [&'static str],
}

impl Tool {
    /// A command to be run in `dir`. The program is looked for in `beside`, then on the PATH.
    ///
    /// # Errors
    /// It is nowhere.
    pub(super) fn command(&self, dir: &Path, beside: &[PathBuf]) -> Result<Command, Error> {
        let path = env::var_os("PATH").unwrap_or_default();
        let program = found(self.program, beside, &path);
        let program =
            program.ok_or(Error::NoTool { program: self.program, purpose: self.purpose, install: self.install })?;
        let mut command = Command::new(program);
        // Some of these tools are written in Rust, and where they failed is of no use to their users.
        command.current_dir(dir).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
        Ok(command)
    }

    /// Runs a command to its end. What it wrote is shown only if it fails; what it wrote to standard output comes back.
    ///
    /// # Errors
    /// It can't be run, or ends with an error.
    pub(super) fn run(&self, mut command: Command) -> Result<String, Error> {
        let failed =
            |outcome: String, output: String| Error::Tool { program: self.program.to_owned(), outcome, output };
        let ended = command.output().map_err(|error| failed("it can't be run".to_owned(), error.to_string()))?;
        let [stdout, stderr] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        if ended.status.success() {
            return Ok(stdout);
        }
        // What is wrong is said on standard error; on standard output is what is made, or how far it got.
        let output = if stderr.trim().is_empty() { stdout } else { stderr };
        Err(failed(ended.status.to_string(), output.trim_end().to_owned()))
    }
}

/// The program's file.
fn found(program: &str, beside: &[PathBuf], path: &OsStr) -> Option<PathBuf> {
    let absolute =
        |dir: PathBuf| if dir.is_absolute() { Some(dir) } else { env::current_dir().ok().map(|at| at.join(dir)) };
    let mut dirs = beside.iter().cloned().chain(env::split_paths(path).filter(|dir| !dir.as_os_str().is_empty()));
    // The command runs in another folder, so a relative one wouldn't be found there.
    dirs.find_map(|dir| absolute(dir).map(|dir| dir.join(program)).filter(|file| file.is_file()))
}

/// Reads what a tool has made.
pub(super) fn made(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::unreadable(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Tool = Tool { program: "sh", purpose: "tests run it", install: &[] };

    fn run(script: &str) -> Result<String, Error> {
        let mut command = SHELL.command(Path::new("."), &[]).unwrap();
        command.args(["-c", script]);
        SHELL.run(command)
    }

    #[test]
    fn output_is_for_failures() {
        assert_eq!(run("echo out; echo err >&2").unwrap(), "out\n");
        let failed = run("echo out; echo err >&2; exit 3").unwrap_err().to_string();
        assert_eq!(failed, "`sh` failed (exit status: 3):\nerr");
        let failed = run("echo out; exit 3").unwrap_err().to_string();
        assert_eq!(failed, "`sh` failed (exit status: 3):\nout");
    }

    #[test]
    fn a_program_is_looked_for_beside_the_policy_first() {
        let dir = tempfile::tempdir().unwrap();
        let [near, far] = ["near", "far"].map(|name| dir.path().join(name));
        for place in [&near, &far] {
            std::fs::create_dir(place).unwrap();
            std::fs::write(place.join("tool"), "").unwrap();
        }
        let path = env::join_paths([Path::new(""), &far]).unwrap();
        assert_eq!(found("tool", &[dir.path().join("none")], &path), Some(far.join("tool")));
        assert_eq!(found("tool", std::slice::from_ref(&near), &path), Some(near.join("tool")));
        assert_eq!(found("other", &[near], &path), None);
        let missing = Tool { program: "no-such-tool-at-all", purpose: "it is needed", install: &["get it"] };
        let error = missing.command(Path::new("."), &[]).unwrap_err().to_string();
        assert_eq!(error, "`no-such-tool-at-all` isn't installed, and it is needed. To install it:\n    get it");
    }
}
