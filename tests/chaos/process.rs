//! Programs that a run starts, stops and kills.

use std::process::{Child, Command, ExitStatus};

/// A program; it doesn't outlive the run.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        match command.spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("{:?}: {error}", command.get_program()),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        // It may have ended; then the next use of it shows that.
        let _ = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `kill -9`, which reaches a stopped process as well; it may have ended by itself. Waiting reaps it in any case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
