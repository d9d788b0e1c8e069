//! Reading rows and totals.

use rusqlite::types::Value;
use rusqlite::{Row as Columns, params_from_iter};

use super::columns::{number, row};
use super::database::Database;
use super::error::HistoryError;
use super::row::{Outcome, Row};
use super::summary::Total;
use crate::state::health::Time;

/// The rows that are wanted; by default all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A derivation, or the name of one, with or without its version. In a name, `*`, `?` and `[…]` have the meaning that
    /// they have in a shell.
    pub name: Option<String>,
    /// The machine, with its port if that is not 22; patterns as in `name`.
    pub machine: Option<String>,
    pub user: Option<String>,
    /// Rows with one of these outcomes; none: with any.
    pub outcomes: Vec<Outcome>,
    /// Rows that ended at that time or later, and before that time. Milliseconds since 1970.
    pub since: Option<Time>,
    pub until: Option<Time>,
    /// Only this many rows, the last ones.
    pub limit: Option<u64>,
}

impl Filter {
    /// Returns the condition, and the values of its parameters.
    fn condition(&self) -> (String, Vec<Value>) {
        let mut conditions = vec!["1"];
        let mut values = Vec::new();
        let time = |time: Time| Value::from(i64::try_from(time).unwrap_or(i64::MAX));
        if let Some(name) = &self.name {
            if name.contains('/') {
                conditions.push("derivation = ?");
                values.push(name.clone().into());
            } else {
                conditions.push("(name GLOB ? OR name GLOB ?)");
                let name = name.strip_suffix(".drv").unwrap_or(name);
                values.extend([Value::from(name.to_owned()), format!("{name}-[0-9]*").into()]);
            }
        }
        for (column, value) in [("machine GLOB ?", &self.machine), ("user = ?", &self.user)] {
            if let Some(value) = value {
                conditions.push(column);
                values.push(value.clone().into());
            }
        }
        for (column, value) in [("ended >= ?", self.since), ("ended < ?", self.until)] {
            if let Some(value) = value {
                conditions.push(column);
                values.push(time(value));
            }
        }
        let mut condition = conditions.join(" AND ");
        if !self.outcomes.is_empty() {
            condition += &format!(" AND outcome IN ({})", vec!["?"; self.outcomes.len()].join(", "));
            values.extend(self.outcomes.iter().map(|outcome| Value::from(outcome.word().to_owned())));
        }
        (condition, values)
    }
}

impl Database {
    /// Returns the rows that match, the oldest first.
    pub fn rows(&self, filter: &Filter) -> Result<Vec<Row>, HistoryError> {
        let (condition, values) = filter.condition();
        let limit = filter.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let query = format!("SELECT * FROM builds WHERE {condition} ORDER BY id DESC LIMIT {limit}");
        let rows = || -> rusqlite::Result<Vec<Row>> {
            self.connection().prepare(&query)?.query_map(params_from_iter(values.iter()), row)?.collect()
        };
        let mut rows = rows().map_err(|cause| self.error(cause))?;
        rows.reverse();
        Ok(rows)
    }

    /// Returns the totals, in the order of machines and outcomes.
    pub fn totals(&self) -> Result<Vec<Total>, HistoryError> {
        let totals = || -> rusqlite::Result<Vec<Total>> {
            self.connection().prepare("SELECT * FROM totals ORDER BY machine, outcome")?.query_map([], total)?.collect()
        };
        totals().map_err(|cause| self.error(cause))
    }
}

fn total(columns: &Columns<'_>) -> rusqlite::Result<Total> {
    let number = |name| number(columns, name);
    let machine: String = columns.get("machine")?;
    Ok(Total {
        machine: Some(machine).filter(|machine| !machine.is_empty()),
        outcome: Outcome::of_column(&columns.get::<_, String>("outcome")?)?,
        rows: number("rows")?,
        requests: number("requests")?,
        last: number("last")?,
        waiting: number("waiting")?,
        sending: number("sending")?,
        building: number("building")?,
        retrieving: number("retrieving")?,
        placing: number("placing")?,
        sent_bytes: number("sent_bytes")?,
        substituted_items: number("substituted_items")?,
        substituted_bytes: number("substituted_bytes")?,
        retrieved_bytes: number("retrieved_bytes")?,
    })
}
