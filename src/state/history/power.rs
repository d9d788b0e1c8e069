//! The tables of machines on demand: `power` with a row for each start and stop, and `power_totals` with their sums.

use rusqlite::types::Value;
use rusqlite::{OptionalExtension as _, Row as Columns, Transaction, params, params_from_iter};

use super::columns::number;
use super::database::Database;
use super::error::HistoryError;
use super::power_row::{PowerRow, PowerSummary};
use super::prune::{CONFIRMING_ROWS, MAX_AGE, stored};
use super::query::Filter;
use crate::events::pool::PoolEventKind;
use crate::state::health::Time;

/// The most rows that are kept.
const MAX_POWER_ROWS: i64 = 10_000;

/// Inserts rows, and removes those that are too old at `now` or too many.
pub(super) fn insert_power(transaction: &Transaction<'_>, rows: &[PowerRow], now: Time) -> rusqlite::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let insert = "INSERT INTO power VALUES (NULL, ?, ?, ?, ?, ?, ?)";
    let add = "INSERT INTO power_totals VALUES (?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET rows = rows + 1,
               duration = min(duration + excluded.duration, 1 << 62), last = max(last, excluded.last)";
    for row in rows {
        let (event, duration) = (row.event.word(), row.duration.map(stored));
        let values = params![event, row.machine, row.head, stored(row.time), duration, row.reason];
        transaction.prepare_cached(insert)?.execute(values)?;
        let added = duration.unwrap_or(0).min(1 << 61);
        transaction.prepare_cached(add)?.execute(params![row.machine, event, added, stored(row.time)])?;
    }
    let newest: i64 = transaction.query_row("SELECT max(id) FROM power", [], |row| row.get(0))?;
    transaction.execute("DELETE FROM power WHERE id <= ?", [newest.saturating_sub(MAX_POWER_ROWS)])?;
    // A clock that is wrong for a while removes nothing: as many later rows must agree, and there must be as many.
    let recent = "SELECT min(time) FROM (SELECT time FROM power ORDER BY id DESC LIMIT ?) HAVING count(*) = ?";
    let recent: Option<i64> =
        transaction.query_row(recent, [CONFIRMING_ROWS; 2], |row| row.get(0)).optional()?.flatten();
    let oldest = stored(now).min(recent.unwrap_or(0)).saturating_sub(stored(MAX_AGE));
    transaction.execute("DELETE FROM power WHERE time < ?", [oldest])?;
    let gone = "SELECT machine FROM power_totals GROUP BY machine HAVING max(last) < ?";
    transaction.execute(&format!("DELETE FROM power_totals WHERE machine IN ({gone})"), [oldest])?;
    Ok(())
}

impl Database {
    /// Returns the rows of machines on demand that match, the oldest first. Of the filter, the machine and the times count.
    pub fn power_rows(&self, filter: &Filter) -> Result<Vec<PowerRow>, HistoryError> {
        let time = |time: Time| Value::from(stored(time));
        let conditions = [
            ("machine GLOB ?", filter.machine.clone().map(Value::from)),
            ("time >= ?", filter.since.map(time)),
            ("time < ?", filter.until.map(time)),
        ];
        let given: Vec<(&str, Value)> =
            conditions.into_iter().filter_map(|(text, value)| Some((text, value?))).collect();
        let condition = given.iter().fold("1".to_owned(), |all, (condition, _)| format!("{all} AND {condition}"));
        let query = format!("SELECT * FROM power WHERE {condition} ORDER BY id");
        let rows = || -> rusqlite::Result<Vec<PowerRow>> {
            let values = params_from_iter(given.iter().map(|(_, value)| value));
            self.connection().prepare(&query)?.query_map(values, row)?.collect()
        };
        rows().map_err(|cause| self.error(cause))
    }

    /// Returns the sums since the database was created, in the order of machines. They have no median.
    pub fn power_totals(&self) -> Result<Vec<PowerSummary>, HistoryError> {
        let totals = || -> rusqlite::Result<Vec<PowerSummary>> {
            let mut totals: Vec<PowerSummary> = Vec::new();
            let connection = self.connection();
            let mut statement = connection.prepare("SELECT * FROM power_totals ORDER BY machine, event")?;
            let mut rows = statement.query([])?;
            while let Some(columns) = rows.next()? {
                let machine: String = columns.get("machine")?;
                if totals.last().is_none_or(|total| total.machine != machine) {
                    totals.push(PowerSummary { machine, ..PowerSummary::default() });
                }
                if let Some(total) = totals.last_mut() {
                    total.add(event(columns)?, number(columns, "rows")?, number(columns, "duration")?);
                }
            }
            Ok(totals)
        };
        totals().map_err(|cause| self.error(cause))
    }
}

fn row(columns: &Columns<'_>) -> rusqlite::Result<PowerRow> {
    Ok(PowerRow {
        event: event(columns)?,
        machine: columns.get("machine")?,
        head: columns.get("head")?,
        time: number(columns, "time")?,
        duration: columns.get::<_, Option<i64>>("duration")?.map(|time| u64::try_from(time).unwrap_or(0)),
        reason: columns.get("reason")?,
    })
}

fn event(columns: &Columns<'_>) -> rusqlite::Result<PoolEventKind> {
    let word: String = columns.get("event")?;
    PoolEventKind::ALL.iter().copied().find(|kind| kind.word() == word).ok_or_else(|| {
        let cause = format!("unknown event '{}'", word.escape_debug().take(40).collect::<String>());
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, cause.into())
    })
}
