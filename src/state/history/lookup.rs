//! Reading what was learned, for a decision. This never delays a build: a database that is missing, damaged, locked or of
//! another version says nothing, and no report is made.
//!
//! Rows that are not in the database yet count as well, unless there are many.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use log::debug;
use rusqlite::{Row as Columns, params};

use super::database::Database;
use super::learned::{Learned, MachineRecord, NameRecord, Records, Speeds, median};
use super::row::Outcome;
use super::without_version::without_version;
use super::{History, pending};
use crate::permissions::files;

/// The most records of a name or of its versions that are read, the last ones.
const MAX_RECORDS: i64 = 2000;

/// The number of last builds whose median time is the typical one.
const TYPICAL_BUILDS: i64 = 31;

/// A larger file of rows that are not in the database, in bytes, is not read.
const MAX_PENDING: u64 = 64 << 10;

impl History {
    /// Returns what is expected of a build of this name on the machines of a pool.
    pub fn learned(&self, name: &str, pool: &Arc<Speeds>) -> Learned {
        let read = files::as_owner_of(self.state.path(), || {
            let database = Database::open_to_look_up(self.state.path()).map_err(std::io::Error::other)?;
            let records = database.map(|database| database.records(name).map_err(std::io::Error::other));
            let mut records = records.transpose()?.unwrap_or_default();
            add_pending(&mut records, name, self.state.path());
            Ok(records)
        });
        let records = read.unwrap_or_else(|error| {
            debug!("nothing is learned from the history: {error}");
            Records::default()
        });
        Learned::new(records, pool)
    }
}

impl Database {
    fn records(&self, name: &str) -> rusqlite::Result<Records> {
        let typical = "SELECT building FROM learned ORDER BY last DESC LIMIT ?";
        let mut typical = self.connection().prepare(typical)?;
        let typical = typical.query_map([TYPICAL_BUILDS], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(Records {
            exact: self.names("name = ?", name)?,
            versions: self.names("base = ?", &without_version(name))?,
            machines: self.machines()?,
            typical: median(typical),
        })
    }

    fn names(&self, condition: &str, value: &str) -> rusqlite::Result<Vec<NameRecord>> {
        let query = format!(
            "SELECT machine, builds, building, bytes, last FROM learned WHERE {condition} ORDER BY last DESC LIMIT ?"
        );
        self.connection().prepare(&query)?.query_map(params![value, MAX_RECORDS], record)?.collect()
    }

    fn machines(&self) -> rusqlite::Result<HashMap<String, MachineRecord>> {
        let query = "SELECT machine, builds, slowness, comparisons, sending, receiving, overhead FROM machines";
        let machine = |row: &Columns<'_>| {
            let record = MachineRecord {
                builds: number(row, 1)?,
                slowness: row.get(2)?,
                comparisons: u32::try_from(number(row, 3)?).unwrap_or(u32::MAX),
                sending: row.get(4)?,
                receiving: row.get(5)?,
                overhead: row.get(6)?,
            };
            Ok((row.get(0)?, record))
        };
        self.connection().prepare(query)?.query_map([], machine)?.collect()
    }
}

/// Returns a number; a negative one is 0.
fn number(row: &Columns<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn record(row: &Columns<'_>) -> rusqlite::Result<NameRecord> {
    Ok(NameRecord {
        machine: row.get(0)?,
        builds: u32::try_from(number(row, 1)?).unwrap_or(0),
        building: row.get(2)?,
        output_bytes: row.get(3)?,
        last: row.get(4)?,
    })
}

/// Adds the rows of this name, and of its versions, that are not in the database yet.
fn add_pending(records: &mut Records, name: &str, directory: &Path) {
    let base = without_version(name);
    for (number, row) in (0i64..).zip(pending::peek(directory, MAX_PENDING)) {
        let (Some(machine), Outcome::Built) = (&row.machine, row.outcome) else { continue };
        records.machines.entry(machine.clone()).or_default().builds += 1;
        let new = || NameRecord {
            machine: machine.clone(),
            builds: 1,
            building: row.building as f64 / 1000.0,
            output_bytes: row.retrieved_bytes as f64,
            // After those in the database.
            last: (i64::MAX >> 1) + number,
        };
        if row.name == name {
            records.exact.push(new());
        }
        if without_version(&row.name) == base {
            records.versions.push(new());
        }
    }
}

#[cfg(test)]
mod tests;
