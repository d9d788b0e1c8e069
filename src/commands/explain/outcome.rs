//! The consequence of an explanation, in words: where the build would go, or what it would wait for.

use crate::scheduler::{Explanation, Readiness, Reason};

/// Returns how many builds get a slot before this one, at the machine where they are fewest.
pub fn ahead(machines: &[Explanation]) -> usize {
    let counts = machines.iter().filter_map(|one| match one.verdict {
        Readiness::Not(Reason::NoSlot { ahead }) => Some(ahead),
        _ => None,
    });
    counts.min().unwrap_or(0)
}

/// Returns whether the machine may take the build, now or later.
pub fn matches(explanation: &Explanation) -> bool {
    !matches!(&explanation.verdict, Readiness::Not(reason) if !reason.is_for_now())
}

/// Returns what becomes of the build after this reply, for people. `is_local`: this machine may build it.
pub fn outcome(reply: &str, chosen: Option<&str>, is_local: bool, machines: &[Explanation]) -> String {
    let is_possible = |one: &Explanation| !matches!(one.verdict, Readiness::Not(_));
    let why = match () {
        () if machines.iter().any(is_possible) => "it has the best score",
        () if machines.iter().any(matches) => "no build machine can take it now",
        () => "no build machine matches",
    };
    match (reply, chosen) {
        ("accept", Some(name)) => format!("built on {name}"),
        ("accept", None) => match ahead(machines) {
            0 => "waits for a slot".to_owned(),
            1 => "waits for a slot: 1 build is ahead".to_owned(),
            count => format!("waits for a slot: {count} builds are ahead"),
        },
        ("postpone", _) => "waits: no build machine can take it now".to_owned(),
        _ if is_local => format!("built on this machine: {why}"),
        _ => format!("not built: {why}, and this machine does not build for its system"),
    }
}
