//! Inserting a batch of rows, with what they add to the totals and teach.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::database::Database;
use super::error::HistoryError;
use super::learning::{forget_names, learn};
use super::prune::{prune, stored};
use super::row::Row;
use crate::failpoints::{Failpoint, failpoint};
use crate::state::health::Time;

/// The longest time between two replies to a request that are recorded as one row, in milliseconds: an hour.
const REPEATED_WITHIN: Time = 3600 * 1000;

impl Database {
    /// Inserts the rows of a batch with this digest, unless it was the last one, and removes rows that are too old at
    /// `now` or too many.
    pub fn insert(&mut self, rows: &[Row], digest: &[u8], now: Time) -> Result<(), HistoryError> {
        let mut insert = || {
            let transaction = self.connection_mut().transaction_with_behavior(TransactionBehavior::Immediate)?;
            let last: Option<Vec<u8>> =
                transaction.query_row("SELECT digest FROM batch", [], |row| row.get(0)).optional()?;
            if last.as_deref() == Some(digest) {
                return Ok(());
            }
            for row in rows {
                if !repeat(&transaction, row)? {
                    insert_row(&transaction, row)?;
                    learn(&transaction, row, transaction.last_insert_rowid())?;
                }
                add_to_totals(&transaction, row)?;
            }
            prune(&transaction, now)?;
            forget_names(&transaction)?;
            transaction.execute("DELETE FROM batch", [])?;
            transaction.execute("INSERT INTO batch VALUES (?)", [digest])?;
            failpoint(Failpoint::HistoryInserted);
            transaction.commit()
        };
        insert().map_err(|cause| self.error(cause))
    }
}

/// Counts a further reply of the same kind to the same request in the row of the last one. Returns whether there is such
/// a row.
fn repeat(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<bool> {
    if !row.outcome.is_request() {
        return Ok(false);
    }
    let last = "SELECT id, outcome, ended FROM builds WHERE derivation = ? ORDER BY id DESC LIMIT 1";
    let last: Option<(i64, String, i64)> = transaction
        .prepare_cached(last)?
        .query_row([&row.derivation], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let since = stored(row.started.saturating_sub(REPEATED_WITHIN));
    let Some((id, ..)) = last.filter(|(_, outcome, ended)| outcome == row.outcome.word() && *ended >= since) else {
        return Ok(false);
    };
    let update =
        "UPDATE builds SET requests = min(requests, 1 << 53) + ?, ended = max(ended, ?), reason = ? WHERE id = ?";
    transaction.prepare_cached(update)?.execute(params![1, stored(row.ended), row.reason, id])?;
    Ok(true)
}

fn insert_row(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    let insert =
        "INSERT INTO builds VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    transaction.prepare_cached(insert)?.execute(params![
        row.derivation,
        row.name,
        row.system,
        row.user,
        row.head,
        row.machine,
        row.attempt,
        row.outcome.word(),
        row.reason,
        stored(row.requests),
        stored(row.started),
        stored(row.ended),
        stored(row.waiting),
        stored(row.sending),
        stored(row.building),
        stored(row.retrieving),
        stored(row.placing),
        row.reused_connection,
        stored(row.sent_items),
        stored(row.sent_bytes),
        stored(row.substituted_items),
        stored(row.substituted_bytes),
        stored(row.retrieved_items),
        stored(row.retrieved_bytes),
        row.slot,
    ])?;
    Ok(())
}

/// The values that are added, each limited so that no sum leaves the range of SQLite's numbers.
fn add_to_totals(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    let columns = [
        "rows",
        "requests",
        "waiting",
        "sending",
        "building",
        "retrieving",
        "placing",
        "sent_bytes",
        "substituted_items",
        "substituted_bytes",
        "retrieved_bytes",
    ];
    let sums = columns.map(|column| format!("{column} = min({column} + excluded.{column}, 1 << 62)")).join(", ");
    let add = format!(
        "INSERT INTO totals (machine, outcome, last, {}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET last = max(last, excluded.last), {sums}",
        columns.join(", ")
    );
    let limited = |number: u64| stored(number).min(1 << 61);
    transaction.prepare_cached(&add)?.execute(params![
        row.machine.as_deref().unwrap_or(""),
        row.outcome.word(),
        stored(row.ended),
        1,
        limited(row.requests),
        limited(row.waiting),
        limited(row.sending),
        limited(row.building),
        limited(row.retrieving),
        limited(row.placing),
        limited(row.sent_bytes),
        limited(row.substituted_items),
        limited(row.substituted_bytes),
        limited(row.retrieved_bytes),
    ])?;
    Ok(())
}
