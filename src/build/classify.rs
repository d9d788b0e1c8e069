//! Classification of a failed build: what the failure on a build machine means for the derivation.
//!
//! The daemon's status decides. 100 is a failed build, and 101 an exceeded time limit. 1 is everything else: failures
//! that are not caused by the derivation, but also faults that the daemon finds in the outputs of a builder that ran to
//! its end, which are the derivation's. The daemon's message distinguishes those ([`is_rejected`]); an unknown message
//! does not count as a fault of the derivation.
//!
//! But on a machine whose store is nearly full the disk may have caused the failure. And a build whose inputs were
//! collected during the build did not have what it needed.

use std::collections::BTreeSet;

use crate::store::path::StorePath;

/// With fewer free bytes a failure is attributed to the disk. `guix offload` uses the same limit.
pub const NEARLY_FULL_BYTES: u64 = 10 << 20;

/// The report of a machine's daemon about a failed build.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The status and the message of the operation.
    pub status: u32,
    pub message: &'a str,
    /// Whether a builder was started.
    pub has_started: bool,
    /// The message about the failure in the build trace.
    pub trace: Option<&'a str>,
    /// The outputs that were to be built.
    pub outputs: &'a BTreeSet<StorePath>,
}

/// The meaning of a failed build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The derivation fails.
    Failed,
    /// The build exceeds a time limit.
    TimedOut,
    /// The machine is at fault, for this reason; `None`: for the reason that its daemon gave.
    Machine(Option<String>),
}

/// Classifies a failure. `free_disk` and `inputs_lost` were measured on the machine afterwards.
pub fn classify(answer: &Answer<'_>, free_disk: Option<u64>, inputs_lost: usize) -> FailureClass {
    let has_failed = answer.status == 100 || is_rejected(answer);
    match (answer.status, has_failed) {
        (101, _) => FailureClass::TimedOut,
        (_, false) => FailureClass::Machine(None),
        (_, true) if inputs_lost > 0 => FailureClass::Machine(Some(format!(
            "{inputs_lost} inputs were garbage collected there before the build ended"
        ))),
        (_, true) => match nearly_full(free_disk) {
            Some(full) => FailureClass::Machine(Some(full)),
            None => FailureClass::Failed,
        },
    }
}

/// Returns the text about a store that is nearly full, with `free_disk` bytes left.
pub fn nearly_full(free_disk: Option<u64>) -> Option<String> {
    let free = free_disk.filter(|&free| free < NEARLY_FULL_BYTES)?;
    Some(format!("its store is nearly full ({} KiB free), which may be the cause", free >> 10))
}

/// The messages of the build trace about rejected outputs; `*` stands for a name. `tests/rejected_outputs.rs` makes the
/// daemons of Guix 1.2.0 and 1.5.0 print each of them.
///
/// Not in the table is "builder for `*' failed with exit code *", which comes with status 1 for fixed outputs: a download
/// that failed on one machine may succeed on another. "output `*' of `*' differs from previous round" is not in it either:
/// that comes from the machine's own option `--rounds`, and another machine may accept the output.
const REJECTED_OUTPUTS: &[&str] = &[
    "builder for `*' failed to produce output path `*'",
    "output (`*') is not allowed to refer to path `*'",
    "derivation contains an invalid reference specifier `*'",
    "suspicious ownership or permission on `*'; rejecting this build output",
    "hash mismatch for store item '*'",
    // 1.5.0 and 1.2.0.
    "output path `*' should be a non-executable regular file",
    "output path `* should be a non-executable regular file",
    "cycle detected in the references of `*'",
];

/// The messages that the daemon returns when it aborts the build, so that the trace has none.
const UNUSABLE_OUTPUTS: &[&str] = &[
    // 1.5.0 and 1.2.0.
    "file `*' has an unsupported type",
    "file ‘*’ has an unsupported type",
    // In both versions: the path of a file in the output is longer than the kernel allows.
    "getting attributes of path `*': File name too long",
];

/// Returns whether the daemon rejected an output after the builder ran to its end.
fn is_rejected(answer: &Answer<'_>) -> bool {
    let is_in = |words: &[&str], message| words.iter().any(|words| matches(words, message));
    let is_known = match answer.trace {
        Some(message) => is_in(REJECTED_OUTPUTS, message),
        None => is_in(UNUSABLE_OUTPUTS, answer.message) || requires_itself(answer),
    };
    answer.status == 1 && answer.has_started && is_known
}

/// Returns whether the daemon failed on an output that refers to another output of the same derivation. It looks for
/// the requisites of an output that is not valid yet, if requisites are restricted.
fn requires_itself(answer: &Answer<'_>) -> bool {
    answer.outputs.iter().any(|output| answer.message == format!("path `{output}' is not valid"))
}

/// Returns whether a text matches `pattern`, in which each `*` stands for one or more characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(first) else { return false };
    text.char_indices()
        .skip(1)
        .map(|(index, _)| index)
        .chain([text.len()])
        .any(|end| end > 0 && matches(rest, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    /// Returns a failure without a message in the trace.
    fn status(status: u32) -> Answer<'static> {
        static NONE: BTreeSet<StorePath> = BTreeSet::new();
        let message = "build of `/gnu/store/x.drv' failed";
        Answer { status, message, has_started: true, trace: None, outputs: &NONE }
    }

    #[test]
    fn the_daemons_status_decides() {
        assert_eq!(classify(&status(100), None, 0), FailureClass::Failed);
        assert_eq!(classify(&status(100), Some(NEARLY_FULL_BYTES), 0), FailureClass::Failed);
        assert_eq!(classify(&status(101), Some(0), 3), FailureClass::TimedOut);
        for other in [0, 1, 2, 99, 102, u32::MAX] {
            assert_eq!(classify(&status(other), None, 0), FailureClass::Machine(None), "{other}");
        }
    }

    #[test]
    fn a_full_disk_or_lost_inputs_are_the_machines_fault() {
        let rejected = Answer { trace: Some("hash mismatch for store item '/gnu/store/x'"), ..status(1) };
        for answer in [status(100), rejected] {
            assert_eq!(classify(&answer, None, 0), FailureClass::Failed);
            assert!(
                matches!(classify(&answer, Some(NEARLY_FULL_BYTES - 1), 0), FailureClass::Machine(Some(why)) if why.contains("10239 KiB"))
            );
            for lost in [1, 2] {
                let why = format!("{lost} inputs were garbage collected");
                let class = classify(&answer, Some(NEARLY_FULL_BYTES), lost);
                assert!(matches!(class, FailureClass::Machine(Some(given)) if given.contains(&why)), "{why}");
            }
        }
    }

    #[test]
    fn rejected_outputs_are_failed_builds() {
        for words in REJECTED_OUTPUTS {
            let message = words.replace('*', "/gnu/store/x");
            let answer = Answer { trace: Some(&message), ..status(1) };
            assert_eq!(classify(&answer, None, 0), FailureClass::Failed, "{message}");
            assert_eq!(classify(&Answer { has_started: false, ..answer }, None, 0), FailureClass::Machine(None));
            // As the error of the operation it means something else.
            assert_eq!(classify(&Answer { message: &message, ..status(1) }, None, 0), FailureClass::Machine(None));
        }
        for words in UNUSABLE_OUTPUTS {
            let message = words.replace('*', "/gnu/store/x/pipe");
            assert_eq!(
                classify(&Answer { message: &message, ..status(1) }, None, 0),
                FailureClass::Failed,
                "{message}"
            );
        }
    }

    #[test]
    fn an_output_that_is_not_valid_yet_is_the_derivations_fault() {
        let path = |text: &str| StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap();
        let outputs = BTreeSet::from([path("/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo")]);
        let classified = |message| classify(&Answer { outputs: &outputs, message, ..status(1) }, None, 0);
        assert_eq!(
            classified("path `/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo' is not valid"),
            FailureClass::Failed
        );
        let other = "path `/gnu/store/hxbwv0n6dyadh2d3q6h1286kinrfp6gk-bar' is not valid";
        assert_eq!(classified(other), FailureClass::Machine(None));
    }

    #[test]
    fn unknown_messages_do_not_count_against_the_derivation() {
        for message in [
            "builder for `/gnu/store/x.drv' failed with exit code 1",
            "builder for `/gnu/store/x.drv' failed to produce output path `'",
            "some day an output (`/a') is not allowed to refer to path `/b'",
            "output (`/a') is not allowed to refer to path `/b' yet",
            "output `/a' of `/b' differs from previous round",
            "writing to file: No space left on device",
            "",
        ] {
            let answer = Answer { trace: Some(message), ..status(1) };
            assert_eq!(classify(&answer, None, 0), FailureClass::Machine(None), "{message}");
        }
    }

    #[test]
    fn a_star_stands_for_something() {
        for (pattern, text, expected) in [
            ("a*c", "abc", true),
            ("a*c", "abbcc", true),
            ("a*c", "ac", false),
            ("a*c", "abcd", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abbc", false),
            ("‘*’", "‘ü’", true),
            ("‘*’", "‘’", false),
            ("abc", "abc", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
