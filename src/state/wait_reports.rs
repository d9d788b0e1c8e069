//! Which hooks report that they wait: of all builds of one client, one now and then. Forty builds that wait would
//! otherwise print forty lines each time.
//!
//! `waits-reported.json` in the state directory has the time of the last report for each client, by the process of
//! guix-daemon that serves it. Entries of the past are dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use super::health::Time;
use super::json_record::JsonRecord;
use super::{StateDirectory, StateError};

/// The times of the last reports, in milliseconds since 1970. A key is the number of the process; with `!` behind it, the
/// report was that no machine can be reached.
type Reports = BTreeMap<String, Time>;

/// Returns whether this is the first report to the client within `interval`, and records it. The report has the daemon's
/// process, and whether some machine can be reached.
pub fn is_due(
    state: &StateDirectory,
    (client, is_reachable): (u32, bool),
    interval: Duration,
    now: Time,
) -> Result<bool, StateError> {
    let key = format!("{client}{}", if is_reachable { "" } else { "!" });
    let record = JsonRecord::<Reports>::shared(state, "waits-reported")?;
    let is_recent = |last: &Time| u128::from(now.abs_diff(*last)) < interval.as_millis();
    if record.read().is_some_and(|reports| reports.get(&key).is_some_and(is_recent)) {
        return Ok(false);
    }
    let mut is_due = false;
    record.change(|reports| {
        let mut reports = reports.unwrap_or_default();
        // Another hook may have reported meanwhile.
        reports.retain(|_, last| is_recent(last));
        is_due = reports.insert(key, now).is_none();
        reports
    })?;
    Ok(is_due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_of_each_client_is_due_in_each_interval() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let due = |client, now| is_due(&state, (client, true), Duration::from_secs(30), now).unwrap();
        assert!(due(1, 1_000) && !due(1, 1_000) && !due(1, 30_999));
        assert!(due(2, 2_000), "another client");
        assert!(is_due(&state, (2, false), Duration::from_secs(30), 2_000).unwrap(), "another report");
        assert!(due(1, 31_000) && !due(1, 31_001));
        // The clock was set back for a long time.
        assert!(due(1, 0));
        assert_eq!(
            JsonRecord::<Reports>::shared(&state, "waits-reported").unwrap().read(),
            Some(Reports::from([("1", 0), ("2", 2_000), ("2!", 2_000)].map(|(key, time)| (key.to_owned(), time))))
        );
    }
}
