//! The check of the database of a pool that several heads share. The pool is usable without it, but its heads do not
//! count their builds together.

use serde::Serialize;

use super::finding::{Finding, Outcome, Remedy, Step};
use crate::engine::Engine;
use crate::machine::SharedPool;
use crate::machine_file::Pool;
use crate::shared::schema::VERSION;
use crate::shared::{self, Error, Overview};
use crate::state::shared_pool::SharedRecord;

/// A clock of the server that differs by more than this causes a warning, in milliseconds.
const CLOCK_TOLERANCE: u64 = 60_000;

/// The findings about the database.
#[derive(Serialize)]
pub struct CheckedDatabase<'a> {
    pub name: &'a str,
    pub usable: bool,
    pub findings: Vec<Finding>,
}

/// Checks the database, if there is one. A check that passes ends an outage.
pub fn check<'a>(pool: &'a Pool, engine: &Engine) -> Option<CheckedDatabase<'a>> {
    let shared = pool.settings.shared.as_ref()?;
    let slots = pool.machines.iter().map(|entry| i64::from(entry.machine.parallel_builds)).sum();
    let findings = match overview(shared, engine) {
        Ok(overview) => findings(&overview, slots),
        Err(error) => vec![failed(&error)],
    };
    let usable = findings.iter().all(|finding| finding.outcome != Outcome::Error);
    if usable {
        let ended = SharedRecord::of(&engine.state, shared).and_then(|record| record.end_outage());
        if let Err(error) = ended {
            log::debug!("cannot record the end of the outage: {error}");
        }
    }
    Some(CheckedDatabase { name: &shared.name, usable, findings })
}

fn overview(shared: &SharedPool, engine: &Engine) -> Result<Overview, Error> {
    let head = SharedRecord::of(&engine.state, shared).and_then(|record| record.head());
    let head = head.map_err(|error| Error::Statement(error.to_string()))?;
    shared::check(shared, &head)
}

/// Returns the findings. `slots` is the number of all slots, each of which may need a connection.
fn findings(overview: &Overview, slots: i64) -> Vec<Finding> {
    if overview.is_pooled {
        return vec![failed(&Error::Pooled)];
    }
    let finding = |outcome, text| Finding { step: Step::Database, outcome, text, remedies: Vec::new() };
    let heads = overview.heads.len();
    let text = format!("PostgreSQL {}, version {VERSION} of the tables, heads: {heads}", overview.server);
    let mut findings = vec![finding(Outcome::Ok, text)];
    let ahead = overview.clock_ahead;
    if ahead.unsigned_abs() > CLOCK_TOLERANCE {
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        let seconds = ahead.unsigned_abs() / 1000;
        findings.push(finding(Outcome::Warning, format!("its clock is {seconds} s {side} this machine's")));
    }
    if overview.free_connections < slots {
        let free = overview.free_connections;
        let text =
            format!("it accepts {free} more connections, and the machines have {slots} slots: raise max_connections");
        findings.push(finding(Outcome::Warning, text));
    }
    findings
}

fn failed(error: &Error) -> Finding {
    let remedies = match error {
        Error::NoSchema => vec![Remedy::on_head("offload shared init")],
        Error::Version { found } if *found < VERSION => vec![Remedy::on_head("offload shared init")],
        _ => error.hint().map(|hint| Remedy::advice(super::finding::RemedyPlace::Head, hint)).into_iter().collect(),
    };
    Finding { step: Step::Database, outcome: Outcome::Error, text: error.to_string(), remedies }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview() -> Overview {
        Overview {
            server: "15.1".into(),
            version: VERSION,
            clock_ahead: 0,
            is_pooled: false,
            free_connections: 10,
            heads: Vec::new(),
            holders: Vec::new(),
            waiting: Vec::new(),
            drains: Vec::new(),
        }
    }

    #[test]
    fn each_problem_has_its_finding() {
        let outcomes = |overview: &Overview, slots| {
            findings(overview, slots).iter().map(|finding| finding.outcome).collect::<Vec<_>>()
        };
        assert_eq!(outcomes(&overview(), 10), [Outcome::Ok]);
        assert_eq!(outcomes(&overview(), 11), [Outcome::Ok, Outcome::Warning]);
        for (clock_ahead, count) in [(60_000, 1), (60_001, 2), (-60_001, 2)] {
            assert_eq!(outcomes(&Overview { clock_ahead, ..overview() }, 10).len(), count, "{clock_ahead}");
        }
        assert!(findings(&Overview { clock_ahead: -61_000, ..overview() }, 0)[1].text.contains("61 s behind"));
        assert_eq!(outcomes(&Overview { is_pooled: true, ..overview() }, 0), [Outcome::Error]);
        assert_eq!(failed(&Error::NoSchema).remedies.len(), 1);
    }
}
