//! Columns of the table `builds`, as values of a [`Row`].

use rusqlite::Row as Columns;

use super::row::{Outcome, Row};

/// Returns a number; a negative one is 0.
pub(super) fn number(columns: &Columns<'_>, name: &str) -> rusqlite::Result<u64> {
    Ok(u64::try_from(columns.get::<_, i64>(name)?).unwrap_or(0))
}

/// Returns the row of the table `builds`.
pub(super) fn row(columns: &Columns<'_>) -> rusqlite::Result<Row> {
    let number = |name| number(columns, name);
    Ok(Row {
        derivation: columns.get("derivation")?,
        name: columns.get("name")?,
        system: columns.get("system")?,
        user: columns.get("user")?,
        head: columns.get("head")?,
        machine: columns.get("machine")?,
        slot: columns.get("slot")?,
        attempt: u32::try_from(number("attempt")?).unwrap_or(u32::MAX),
        outcome: Outcome::of_column(&columns.get::<_, String>("outcome")?)?,
        reason: columns.get("reason")?,
        requests: number("requests")?,
        started: number("started")?,
        ended: number("ended")?,
        waiting: number("waiting")?,
        sending: number("sending")?,
        building: number("building")?,
        retrieving: number("retrieving")?,
        placing: number("placing")?,
        reused_connection: columns.get("reused_connection")?,
        sent_items: number("sent_items")?,
        sent_bytes: number("sent_bytes")?,
        substituted_items: number("substituted_items")?,
        substituted_bytes: number("substituted_bytes")?,
        retrieved_items: number("retrieved_items")?,
        retrieved_bytes: number("retrieved_bytes")?,
    })
}

impl Outcome {
    /// Returns the outcome that a column contains.
    pub(super) fn of_column(word: &str) -> rusqlite::Result<Outcome> {
        Outcome::parse(word).ok_or_else(|| {
            let cause = format!("unknown outcome '{}'", word.escape_debug().take(40).collect::<String>());
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, cause.into())
        })
    }
}
