//! A server program that runs in a host.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running server. Dropping it kills it and waits for its end.
pub struct Service {
    child: Child,
}

impl Service {
    /// Starts a server whose standard output and error are appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Service {
        let log: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        // A process group of its own: an interrupt from the terminal must not reach it before the test process ends.
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Service { child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
