//! What it means that a build machine's daemon did not build.
//!
//! The daemon's own word decides: 100 is a failed build, 101 a time limit that was exceeded, and 1 and all else say
//! nothing about the derivation. But a build that fails on a machine whose store is nearly full may have failed for
//! that, and one whose inputs were collected under it certainly did not get what it needed.

/// Below this many free bytes a failure is put down to the disk; `guix offload` draws the same line.
pub const NEARLY_FULL: u64 = 10 << 20;

/// How the failure of a build is to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The build fails.
    Failed,
    /// It takes too long.
    TimedOut,
    /// The machine is at fault, for this reason; `None`: for the one that its daemon gave.
    Machine(Option<String>),
}

/// Judges a failure with `status`, given what is known of the machine afterwards.
pub fn classify(status: u32, free_disk: Option<u64>, inputs_lost: usize) -> FailureClass {
    match (status, free_disk, inputs_lost) {
        (101, _, _) => FailureClass::TimedOut,
        (100, _, 1..) => FailureClass::Machine(Some(format!(
            "{inputs_lost} inputs were garbage collected there before the build ended"
        ))),
        (100, Some(free), _) if free < NEARLY_FULL => FailureClass::Machine(Some(format!(
            "its store is nearly full ({} KiB free), which may be the cause",
            free >> 10
        ))),
        (100, _, _) => FailureClass::Failed,
        _ => FailureClass::Machine(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_word_decides() {
        assert_eq!(classify(100, None, 0), FailureClass::Failed);
        assert_eq!(classify(100, Some(NEARLY_FULL), 0), FailureClass::Failed);
        assert_eq!(classify(101, Some(0), 3), FailureClass::TimedOut);
        for status in [0, 1, 2, 99, 102, u32::MAX] {
            assert_eq!(classify(status, None, 0), FailureClass::Machine(None), "{status}");
        }
    }

    #[test]
    fn a_full_disk_or_lost_inputs_are_the_machines_fault() {
        assert!(
            matches!(classify(100, Some(NEARLY_FULL - 1), 0), FailureClass::Machine(Some(why)) if why.contains("10239 KiB"))
        );
        assert!(matches!(classify(100, None, 2), FailureClass::Machine(Some(why)) if why.contains("2 inputs")));
    }
}
