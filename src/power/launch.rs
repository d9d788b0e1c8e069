//! How often a build may have a machine started.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::build::Starter;
use crate::machine::Machine;

/// How long one process waits before it launches the start of the same machine again: a start that cannot even begin
/// leaves no record.
const LAUNCH_INTERVAL: Duration = Duration::from_secs(5);

/// Returns a starter that calls `start` no more often than every [`LAUNCH_INTERVAL`] for one machine.
pub fn limited(start: impl Fn(&Machine) + Send + Sync + 'static) -> Starter {
    let last: Mutex<BTreeMap<String, Instant>> = Mutex::default();
    Arc::new(move |machine: &Machine| {
        let is_due = last.lock().is_ok_and(|mut last| {
            let now = Instant::now();
            let is_due = last.get(&machine.address()).is_none_or(|at| now - *at >= LAUNCH_INTERVAL);
            if is_due {
                last.insert(machine.address(), now);
            }
            is_due
        });
        if is_due {
            start(machine);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn one_machine_is_not_launched_twice_at_once() {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let starter = limited(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let [b1, b2] = ["b1", "b2"].map(|name| Machine::new(name, "u", Vec::new(), Vec::new()));
        [&b1, &b1, &b2].into_iter().for_each(|machine| starter(machine));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
