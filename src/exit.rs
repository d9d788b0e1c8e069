//! Exit statuses, all of them.
//!
//! As the build hook only the first four occur; guix-daemon reads 100 as a failure of the build itself (which it may
//! remember), 101 as a time-out, and anything else as trouble that says nothing about the derivation.

use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0: done; for the hook: built, and every output is in its place.
    Success,
    /// 1: it could not be done, for reasons that may pass: a machine, the network, a full disk, a bad request.
    Failure,
    /// 2: the command line was not understood.
    Usage,
    /// 3: the machine file has errors.
    MachineFile,
    /// 4: some machines failed a check that others passed.
    SomeMachinesFailed,
    /// 5: no machine matches.
    NoMatch,
    /// 100: the build machine's daemon says that the build failed.
    BuildFailed,
    /// 101: the build took longer, or was silent for longer, than the daemon allows.
    TimedOut,
}

impl Status {
    /// The number that the parent process sees.
    pub fn code(self) -> u8 {
        match self {
            Status::Success => 0,
            Status::Failure => 1,
            Status::Usage => 2,
            Status::MachineFile => 3,
            Status::SomeMachinesFailed => 4,
            Status::NoMatch => 5,
            Status::BuildFailed => 100,
            Status::TimedOut => 101,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    /// What the hook may return is part of the contract with guix-daemon.
    #[test]
    fn the_daemons_statuses_are_fixed() {
        let statuses = [Status::Success, Status::Failure, Status::BuildFailed, Status::TimedOut];
        assert_eq!(statuses.map(Status::code), [0, 1, 100, 101]);
    }
}
