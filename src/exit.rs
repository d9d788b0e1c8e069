//! All exit statuses.
//!
//! The build hook uses only four of them: 0, 1, 100 and 101. guix-daemon reads 100 as a failure of the build itself
//! (which it may record), 101 as a time-out, and any other failure as one that does not come from the derivation.

use std::process::ExitCode;

/// The exit status of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: success; for the hook: the build is done and every output is in the store.
    Success,
    /// 1: failure for reasons that may pass: a machine, the network, a full disk, a bad request.
    Failure,
    /// 2: the command line is invalid.
    Usage,
    /// 3: the machine file is missing or has errors.
    MachineFile,
    /// 4: some machines failed a check that others passed.
    SomeMachinesFailed,
    /// 5: no machine matches.
    NoMatch,
    /// 6: builds of the same derivation have different outputs.
    Differs,
    /// 100: a build machine's daemon reports that the build failed.
    BuildFailed,
    /// 101: a build took longer, or was silent for longer, than the daemon allows.
    TimedOut,
}

impl ExitStatus {
    /// All statuses, in the order of their numbers.
    pub const ALL: [ExitStatus; 9] = [
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::MachineFile,
        ExitStatus::SomeMachinesFailed,
        ExitStatus::NoMatch,
        ExitStatus::Differs,
        ExitStatus::BuildFailed,
        ExitStatus::TimedOut,
    ];

    /// Returns its meaning, for the manual.
    pub fn meaning(self) -> &'static str {
        match self {
            ExitStatus::Success => "done",
            ExitStatus::Failure => "the command failed",
            ExitStatus::Usage => "the command line is invalid",
            ExitStatus::MachineFile => "the machine file is missing or has errors",
            ExitStatus::SomeMachinesFailed => "some machines failed a check that others passed",
            ExitStatus::NoMatch => "no machine matches",
            ExitStatus::Differs => "builds of the same derivation differ",
            ExitStatus::BuildFailed => "a build failed",
            ExitStatus::TimedOut => "a build took too long",
        }
    }

    /// Returns the number that the parent process sees.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Success => 0,
            ExitStatus::Failure => 1,
            ExitStatus::Usage => 2,
            ExitStatus::MachineFile => 3,
            ExitStatus::SomeMachinesFailed => 4,
            ExitStatus::NoMatch => 5,
            ExitStatus::Differs => 6,
            ExitStatus::BuildFailed => 100,
            ExitStatus::TimedOut => 101,
        }
    }

    /// Returns the status of a command whose parts end with these: a failure of a derivation itself comes first, then one
    /// for reasons that may pass, and a difference last.
    pub fn of_parts(parts: &[ExitStatus]) -> ExitStatus {
        let order = [ExitStatus::BuildFailed, ExitStatus::TimedOut, ExitStatus::Failure, ExitStatus::Differs];
        order.into_iter().find(|status| parts.contains(status)).unwrap_or(ExitStatus::Success)
    }

    /// Returns the status of a process of this program that ended with `code`. `None`: a signal ended it.
    pub fn from_code(code: Option<i32>) -> ExitStatus {
        let is_its = |status: &ExitStatus| code == Some(status.code().into());
        ExitStatus::ALL.into_iter().find(is_its).unwrap_or(ExitStatus::Failure)
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

    /// The hook's statuses are part of the contract with guix-daemon.
    #[test]
    fn the_daemons_statuses_are_fixed() {
        let statuses = [ExitStatus::Success, ExitStatus::Failure, ExitStatus::BuildFailed, ExitStatus::TimedOut];
        assert_eq!(statuses.map(ExitStatus::code), [0, 1, 100, 101]);
    }

    #[test]
    fn the_worst_part_has_the_status() {
        let order = [ExitStatus::BuildFailed, ExitStatus::TimedOut, ExitStatus::Failure, ExitStatus::Differs];
        for (index, worst) in order.iter().enumerate() {
            let mut parts = [&order[index..], &[ExitStatus::Success]].concat();
            assert_eq!(ExitStatus::of_parts(&parts), *worst);
            parts.reverse();
            assert_eq!(ExitStatus::of_parts(&parts), *worst);
        }
        assert_eq!(ExitStatus::of_parts(&[ExitStatus::Success]), ExitStatus::Success);
        assert_eq!(ExitStatus::of_parts(&[]), ExitStatus::Success);
    }

    #[test]
    fn any_other_end_is_a_failure() {
        for status in ExitStatus::ALL {
            assert_eq!(ExitStatus::from_code(Some(status.code().into())), status);
        }
        for code in [None, Some(7), Some(-1), Some(256)] {
            assert_eq!(ExitStatus::from_code(code), ExitStatus::Failure);
        }
    }
}
