//! Exit statuses, all of them.
//!
//! As the build hook only the first four occur; guix-daemon reads 100 as a failure of the build itself (which it may
//! remember), 101 as a time-out, and anything else as trouble that says nothing about the derivation.

use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
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

impl ExitStatus {
    /// All of them, in the order of their numbers.
    pub const ALL: [ExitStatus; 8] = [
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::MachineFile,
        ExitStatus::SomeMachinesFailed,
        ExitStatus::NoMatch,
        ExitStatus::BuildFailed,
        ExitStatus::TimedOut,
    ];

    /// What it says, for the manual.
    pub fn meaning(self) -> &'static str {
        match self {
            ExitStatus::Success => "done",
            ExitStatus::Failure => "it could not be done",
            ExitStatus::Usage => "the command line was not understood",
            ExitStatus::MachineFile => "the machine file is missing or has errors",
            ExitStatus::SomeMachinesFailed => "some machines failed a check that others passed",
            ExitStatus::NoMatch => "no machine matches",
            ExitStatus::BuildFailed => "as the build hook: the build failed",
            ExitStatus::TimedOut => "as the build hook: the build took too long",
        }
    }

    /// The number that the parent process sees.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Success => 0,
            ExitStatus::Failure => 1,
            ExitStatus::Usage => 2,
            ExitStatus::MachineFile => 3,
            ExitStatus::SomeMachinesFailed => 4,
            ExitStatus::NoMatch => 5,
            ExitStatus::BuildFailed => 100,
            ExitStatus::TimedOut => 101,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(status.code())
    }
}

#[cfg(test)]
mod tests {
    use super::ExitStatus;

    /// What the hook may return is part of the contract with guix-daemon.
    #[test]
    fn the_daemons_statuses_are_fixed() {
        let statuses = [ExitStatus::Success, ExitStatus::Failure, ExitStatus::BuildFailed, ExitStatus::TimedOut];
        assert_eq!(statuses.map(ExitStatus::code), [0, 1, 100, 101]);
    }
}
