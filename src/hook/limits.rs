//! The limit of open files (`RLIMIT_NOFILE`) that the daemon leaves its hook.
//!
//! A hook needs about thirty descriptors for a build, and some more where many machines are slow to answer. One that
//! runs out of them cannot connect, and would take that for the fault of each machine in turn.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What a hook asks for where the limit may be raised: the usual limit of a process.
const WANTED: u64 = 1024;

/// With fewer a hook takes no build.
const LEAST: u64 = 64;

/// The limit of open files is too low to build anything.
#[derive(Debug, thiserror::Error)]
#[error(
    "no builds are offloaded: this process may open {limit} files, and needs {LEAST}\n  hint: give guix-daemon a higher \
     limit: `LimitNOFILE=1024` in its systemd unit, or `ulimit -n 1024` in the shell that starts it"
)]
pub struct TooFewFiles {
    limit: u64,
}

/// Raises the limit of open files as far as it is needed and allowed. An error where that leaves too few.
pub fn raise_open_files() -> Result<(), TooFewFiles> {
    let mut limit = getrlimit(Resource::Nofile);
    // `None` is no limit.
    let Some(current) = limit.current.filter(|&current| current < WANTED) else { return Ok(()) };
    let raised = limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    limit.current = Some(raised);
    let limit = if setrlimit(Resource::Nofile, limit).is_ok() { raised } else { current };
    if limit < LEAST { Err(TooFewFiles { limit }) } else { Ok(()) }
}
