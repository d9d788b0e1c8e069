//! What a new row teaches: the tables `learned`, `machines` and `samples`, which are kept up to date where rows enter the
//! database. So a decision reads a few rows, and not the whole history.
//!
//! Each figure of a machine is the median of its last samples:
//!
//! | sample | of a successful build |
//! |---|---|
//! | `slowness` | its time over that of the same name, in any version, on other machines, if it is [`MIN_COMPARED`] or more |
//! | `sending`, `receiving` | bytes over the time of the phase, if [`MIN_MOVED`] or more were moved |
//! | `overhead` | the time besides the builder, if less was moved |

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::learned::{LAST_BUILDS, MIN_COMPARISONS, comparison, median};
use super::row::{Outcome, Row};
use super::without_version::without_version;

/// The number of samples of a machine of which the median is taken.
const LAST_SAMPLES: i64 = 15;

/// Builds of fewer seconds compare daemons and not machines.
const MIN_COMPARED: f64 = 0.1;

/// The number of other machines with which a build is compared, the last ones.
const MAX_COMPARED: i64 = 20;

/// The rate of a transfer of fewer bytes says nothing about the link.
const MIN_MOVED: u64 = 1 << 20;

/// The number of builds of an older database from which is learned.
const MAX_REPLAYED: i64 = 5000;

/// Learns from a row, which is in the table `builds` with this id.
pub(super) fn learn(transaction: &Transaction<'_>, row: &Row, id: i64) -> rusqlite::Result<()> {
    let Some(machine) = row.machine.as_deref().filter(|_| row.outcome == Outcome::Built) else { return Ok(()) };
    for (kind, value) in samples(row, overhead(transaction, machine)?) {
        sample(transaction, machine, kind, id, value)?;
    }
    compare(transaction, row, machine, id)?;
    update_name(transaction, &row.name, machine, id)?;
    update_machine(transaction, machine, 1)
}

/// Learns from the last builds of a database that has no such tables yet.
pub(super) fn learn_from_all(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let query = "SELECT * FROM (SELECT * FROM builds WHERE outcome = 'built' AND machine IS NOT NULL
                 ORDER BY id DESC LIMIT ?) ORDER BY id";
    let mut statement = transaction.prepare(query)?;
    let mut rows = statement.query([MAX_REPLAYED])?;
    while let Some(columns) = rows.next()? {
        learn(transaction, &super::columns::row(columns)?, columns.get("id")?)?;
    }
    Ok(())
}

/// Forgets names that were last built before the oldest row.
pub(super) fn forget_names(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM learned WHERE last < (SELECT min(id) FROM builds)")?.execute([])?;
    Ok(())
}

/// Forgets machines without totals.
pub(super) fn forget_machines(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in ["samples", "machines"] {
        let gone = format!("DELETE FROM {table} WHERE machine NOT IN (SELECT machine FROM totals)");
        transaction.prepare_cached(&gone)?.execute([])?;
    }
    Ok(())
}

/// Returns the known overhead of a machine, in seconds.
fn overhead(connection: &Connection, machine: &str) -> rusqlite::Result<f64> {
    let query = "SELECT overhead FROM machines WHERE machine = ?";
    let overhead: Option<Option<f64>> =
        connection.prepare_cached(query)?.query_row([machine], |row| row.get(0)).optional()?;
    Ok(overhead.flatten().unwrap_or(0.0))
}

/// Returns the samples about the link to the machine. `overhead` is the known time for other work, in seconds.
fn samples(row: &Row, overhead: f64) -> Vec<(&'static str, f64)> {
    let sent = row.sent_bytes.saturating_add(row.substituted_bytes);
    let rate = |bytes: u64, phase: u64| {
        let seconds = seconds(phase);
        bytes as f64 / (seconds - overhead).max(seconds / 4.0).max(1e-3)
    };
    let phases = [("sending", sent, row.sending), ("receiving", row.retrieved_bytes, row.retrieving)];
    let large = phases.into_iter().filter(|(_, bytes, _)| *bytes >= MIN_MOVED);
    let mut samples: Vec<_> = large.map(|(kind, bytes, phase)| (kind, rate(bytes, phase))).collect();
    if sent.saturating_add(row.retrieved_bytes) < MIN_MOVED {
        samples.push(("overhead", seconds(row.overhead())));
    }
    samples
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// Compares a build with those of the same name, in any version, on other machines. The first of two machines has nothing to be compared with:
/// so a machine that was hardly compared has a sample from that, too.
fn compare(transaction: &Transaction<'_>, row: &Row, machine: &str, id: i64) -> rusqlite::Result<()> {
    let building = seconds(row.building);
    if building < MIN_COMPARED {
        return Ok(());
    }
    let query = "SELECT learned.machine, building, slowness, coalesce(comparisons, 0)
                 FROM learned LEFT JOIN machines USING (machine)
                 WHERE base = ? AND learned.machine <> ? AND building >= ? ORDER BY last DESC LIMIT ?";
    let others: Vec<(String, f64, Option<f64>, i64)> = transaction
        .prepare_cached(query)?
        .query_map(params![without_version(&row.name), machine, MIN_COMPARED, MAX_COMPARED], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let times = others.iter().map(|(_, building, slowness, _)| building / slowness.unwrap_or(1.0));
    let Some(slowness) = comparison(building, times.collect()) else { return Ok(()) };
    sample(transaction, machine, "slowness", id, slowness)?;
    let known = "SELECT slowness FROM machines WHERE machine = ?";
    let known: Option<Option<f64>> =
        transaction.prepare_cached(known)?.query_row([machine], |row| row.get(0)).optional()?;
    let reference = building / known.flatten().unwrap_or(slowness);
    for (other, building, ..) in others.iter().filter(|(.., comparisons)| *comparisons < i64::from(MIN_COMPARISONS)) {
        if let Some(slowness) = comparison(*building, vec![reference]) {
            sample(transaction, other, "slowness", id, slowness)?;
            update_machine(transaction, other, 0)?;
        }
    }
    Ok(())
}

/// Adds a sample, and removes the oldest beyond [`LAST_SAMPLES`].
fn sample(transaction: &Transaction<'_>, machine: &str, kind: &str, id: i64, value: f64) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?)";
    transaction.prepare_cached(insert)?.execute(params![machine, kind, id, value])?;
    let delete = "DELETE FROM samples WHERE machine = ?1 AND kind = ?2 AND build <=
                  (SELECT build FROM samples WHERE machine = ?1 AND kind = ?2 ORDER BY build DESC LIMIT 1 OFFSET ?3)";
    transaction.prepare_cached(delete)?.execute(params![machine, kind, LAST_SAMPLES])?;
    Ok(())
}

/// Replaces the medians of a name on a machine.
fn update_name(transaction: &Transaction<'_>, name: &str, machine: &str, id: i64) -> rusqlite::Result<()> {
    let query = "SELECT building, retrieved_bytes FROM builds
                 WHERE name = ? AND machine = ? AND outcome = 'built' ORDER BY id DESC LIMIT ?";
    let last: Vec<(i64, i64)> = transaction
        .prepare_cached(query)?
        .query_map(params![name, machine, LAST_BUILDS as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let building = median(last.iter().map(|(building, _)| *building as f64 / 1000.0).collect());
    let bytes = median(last.iter().map(|(_, bytes)| *bytes as f64).collect());
    let replace = "INSERT OR REPLACE INTO learned VALUES (?, ?, ?, ?, ?, ?, ?)";
    let base = without_version(name);
    let values = params![name, machine, base, last.len() as i64, building.unwrap_or(0.0), bytes.unwrap_or(0.0), id];
    transaction.prepare_cached(replace)?.execute(values)?;
    Ok(())
}

/// Replaces the medians of a machine, and counts more builds.
fn update_machine(transaction: &Transaction<'_>, machine: &str, builds: i64) -> rusqlite::Result<()> {
    let query = "SELECT value FROM samples WHERE machine = ? AND kind = ?";
    let mut statement = transaction.prepare_cached(query)?;
    let mut values = |kind: &str| -> rusqlite::Result<Vec<f64>> {
        statement.query_map([machine, kind], |row| row.get(0))?.collect()
    };
    let slowness = values("slowness")?;
    let comparisons = slowness.len() as i64;
    let [sending, receiving, overhead] = [values("sending")?, values("receiving")?, values("overhead")?].map(median);
    let replace = "INSERT INTO machines VALUES (?1, ?7, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET
                   builds = min(builds + ?7, 1 << 53), slowness = ?2, comparisons = ?3, sending = ?4, receiving = ?5, overhead = ?6";
    let values = params![machine, median(slowness), comparisons, sending, receiving, overhead, builds];
    transaction.prepare_cached(replace)?.execute(values)?;
    Ok(())
}
