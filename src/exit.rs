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
    /// 3: the machine file is missing or has errors.
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
    /// All of them, in the order of their numbers.
    pub const ALL: [Status; 8] = [
        Status::Success,
        Status::Failure,
        Status::Usage,
        Status::MachineFile,
        Status::SomeMachinesFailed,
        Status::NoMatch,
        Status::BuildFailed,
        Status::TimedOut,
    ];

    /// What it says, for the manual.
    pub fn meaning(self) -> &'static str {
        match self {
            Status::Success => "done",
            Status::Failure => "it could not be done",
            Status::Usage => "the command line was not understood",
            Status::MachineFile => "the machine file is missing or has errors",
            Status::SomeMachinesFailed => "some machines failed a check that others passed",
            Status::NoMatch => "no machine matches",
            Status::BuildFailed => "as the build hook: the build failed",
            Status::TimedOut => "as the build hook: the build took too long",
        }
    }

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
