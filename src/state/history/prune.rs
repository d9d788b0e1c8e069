//! Removing rows that are too old or too many, and the totals of machines that are gone.

use rusqlite::{OptionalExtension, Transaction};

use super::learning::forget_machines;
use crate::state::health::Time;

/// The most rows that are kept.
const MAX_ROWS: i64 = 100_000;

/// How long rows are kept, in milliseconds: a year.
pub(super) const MAX_AGE: Time = 366 * 24 * 3600 * 1000;

/// Rows are old only if this many later ones agree. So a clock that is wrong for a while removes nothing.
pub(super) const CONFIRMING_ROWS: i64 = 100;

/// Returns a number that SQLite can store.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Removes rows beyond [`MAX_ROWS`], those that are older than [`MAX_AGE`], and the totals of machines without an attempt for
/// so long.
pub(super) fn prune(transaction: &Transaction<'_>, now: Time) -> rusqlite::Result<()> {
    let newest: Option<i64> = transaction.query_row("SELECT max(id) FROM builds", [], |row| row.get(0))?;
    let Some(newest) = newest else { return Ok(()) };
    transaction.execute("DELETE FROM builds WHERE id <= ?", [newest.saturating_sub(MAX_ROWS)])?;
    let recent = "SELECT min(started) FROM (SELECT started FROM builds ORDER BY id DESC LIMIT ?)";
    let recent: Option<i64> = transaction.query_row(recent, [CONFIRMING_ROWS], |row| row.get(0))?;
    let oldest = stored(now).min(recent.unwrap_or(0)).saturating_sub(stored(MAX_AGE));
    // The totals of rows without a machine have few outcomes.
    let gone = "SELECT machine FROM totals GROUP BY machine HAVING max(last) < ?";
    let gone = format!("DELETE FROM totals WHERE machine <> '' AND machine IN ({gone})");
    if transaction.execute(&gone, [oldest])? > 0 {
        forget_machines(transaction)?;
    }
    // Rows are nearly in the order of their times: this ends at the first that stays.
    loop {
        let first: Option<(i64, i64)> = transaction
            .prepare_cached("SELECT id, started FROM builds ORDER BY id LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match first {
            Some((id, started)) if started < oldest => {
                transaction.prepare_cached("DELETE FROM builds WHERE id = ?")?.execute([id])?;
            }
            _ => return Ok(()),
        }
    }
}
