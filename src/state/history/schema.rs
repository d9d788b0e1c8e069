//! The schema of `history.db`, and its versions.
//!
//! `user_version` is the number of migrations that were applied. A database of a later version is not touched: it belongs
//! to a newer `offload`.
//!
//! - `builds` has a row for each [`Row`](super::Row), with the same names; `id` grows with each new row.
//! - `totals` has the sums of all rows of a machine and an outcome, also of rows that were removed since, until the machine had
//!   no attempt for a year. The machine is empty for rows without one.
//! - `learned` has medians for each name and machine, `machines` for each machine, and `samples` what these come from
//!   ([`learning`](super::learning)). Seconds and bytes.
//! - `power` has a row for each start and stop of a machine on demand ([`PowerRow`](super::PowerRow)), `power_totals` their
//!   sums.
//! - `batch` has the digest of the last batch that was inserted. It excludes that a batch is inserted twice.

use rusqlite::{Connection, Transaction};

use super::learning;

/// The statements that lead from each version to the next.
const MIGRATIONS: &[&str] = &[FIRST, "ALTER TABLE builds ADD COLUMN slot INTEGER", LEARNED, POWER];

/// The schema of version 1.
pub(super) const FIRST: &str = "
    CREATE TABLE builds (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        derivation TEXT NOT NULL,
        name TEXT NOT NULL,
        system TEXT NOT NULL,
        user TEXT,
        head TEXT NOT NULL,
        machine TEXT,
        attempt INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT,
        requests INTEGER NOT NULL,
        started INTEGER NOT NULL,
        ended INTEGER NOT NULL,
        waiting INTEGER NOT NULL,
        sending INTEGER NOT NULL,
        building INTEGER NOT NULL,
        retrieving INTEGER NOT NULL,
        placing INTEGER NOT NULL,
        reused_connection INTEGER,
        sent_items INTEGER NOT NULL,
        sent_bytes INTEGER NOT NULL,
        substituted_items INTEGER NOT NULL,
        substituted_bytes INTEGER NOT NULL,
        retrieved_items INTEGER NOT NULL,
        retrieved_bytes INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX builds_derivation ON builds (derivation);
    CREATE TABLE totals (
        machine TEXT NOT NULL,
        outcome TEXT NOT NULL,
        rows INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        last INTEGER NOT NULL,
        waiting INTEGER NOT NULL,
        sending INTEGER NOT NULL,
        building INTEGER NOT NULL,
        retrieving INTEGER NOT NULL,
        placing INTEGER NOT NULL,
        sent_bytes INTEGER NOT NULL,
        substituted_items INTEGER NOT NULL,
        substituted_bytes INTEGER NOT NULL,
        retrieved_bytes INTEGER NOT NULL,
        PRIMARY KEY (machine, outcome)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE batch (digest BLOB NOT NULL) STRICT;
";

/// The tables of what was learned.
const LEARNED: &str = "
    CREATE INDEX builds_name ON builds (name, machine) WHERE outcome = 'built';
    CREATE TABLE learned (
        name TEXT NOT NULL,
        machine TEXT NOT NULL,
        base TEXT NOT NULL,
        builds INTEGER NOT NULL,
        building REAL NOT NULL,
        bytes REAL NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (name, machine)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX learned_base ON learned (base, last);
    CREATE INDEX learned_last ON learned (last, building);
    CREATE TABLE machines (
        machine TEXT PRIMARY KEY,
        builds INTEGER NOT NULL,
        slowness REAL,
        comparisons INTEGER NOT NULL,
        sending REAL,
        receiving REAL,
        overhead REAL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE samples (
        machine TEXT NOT NULL,
        kind TEXT NOT NULL,
        build INTEGER NOT NULL,
        value REAL NOT NULL,
        PRIMARY KEY (machine, kind, build)
    ) STRICT, WITHOUT ROWID;
";

/// The tables of machines on demand.
const POWER: &str = "
    CREATE TABLE power (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        event TEXT NOT NULL,
        machine TEXT NOT NULL,
        head TEXT NOT NULL,
        time INTEGER NOT NULL,
        duration INTEGER,
        reason TEXT
    ) STRICT;
    CREATE TABLE power_totals (
        machine TEXT NOT NULL,
        event TEXT NOT NULL,
        rows INTEGER NOT NULL,
        duration INTEGER NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (machine, event)
    ) STRICT, WITHOUT ROWID;
";

/// The version since which the database has the tables of what was learned.
const LEARNED_SINCE: usize = 3;

/// The version of this program.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The state of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Current,
    /// Migrations are missing; a new database has none.
    Older,
    /// A newer program has made it.
    Newer(i64),
}

/// Returns the version of a database.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<Version> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok(match version {
        VERSION => Version::Current,
        newer if newer > VERSION => Version::Newer(newer),
        _ => Version::Older,
    })
}

/// Applies the missing migrations.
pub(super) fn migrate(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    // Another process may have applied them meanwhile.
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(usize::try_from(version).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
        if number + 1 == LEARNED_SINCE {
            learning::learn_from_all(transaction)?;
        }
        transaction.pragma_update(None, "user_version", number as i64 + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_database_gets_the_current_version_and_a_newer_one_stays() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(version(&connection).unwrap(), Version::Older);
        for _ in 0..2 {
            let transaction = connection.transaction().unwrap();
            migrate(&transaction).unwrap();
            transaction.commit().unwrap();
            assert_eq!(version(&connection).unwrap(), Version::Current);
        }
        connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
        assert_eq!(version(&connection).unwrap(), Version::Newer(VERSION + 1));
    }
}
