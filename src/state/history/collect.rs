//! Moving the appended rows into the database.
//!
//! The batch is removed only after its rows are committed. A process that is killed in between leaves it, and the next one
//! recognizes by its digest that it was inserted.

use std::path::Path;

use log::{debug, warn};

use super::database::{Database, set_aside};
use super::error::HistoryError;
use super::pending::{Batch, drop_batch, parse, take_batch};
use super::row::Row;
use crate::failpoints::{Failpoint, failpoint};
use crate::state::health::Time;

/// The most batches that are moved at a time: the rows that were appended, and a batch that a killed process left.
const MAX_BATCHES: usize = 2;

/// Moves the rows in `directory`. A damaged database is set aside and replaced. The caller holds `history.batch.lock`.
pub(super) fn collect(directory: &Path, now: Time) -> Result<(), HistoryError> {
    for _ in 0..MAX_BATCHES {
        let Some(Batch { file, text, digest }) = take_batch(directory)? else { break };
        let (rows, invalid) = parse(&text);
        if invalid > 0 {
            debug!("{invalid} lines of the history are invalid");
        }
        match insert(directory, &rows, &digest, now) {
            Err(error) if error.is_damage() => {
                let aside = set_aside(directory)?;
                // This happens once for each damage.
                warn!("the history is damaged, and is set aside as '{}': {error}", aside.display());
                insert(directory, &rows, &digest, now)?;
            }
            inserted => inserted?,
        }
        failpoint(Failpoint::HistoryCommitted);
        drop_batch(directory)?;
        drop(file);
    }
    Ok(())
}

fn insert(directory: &Path, rows: &[Row], digest: &[u8], now: Time) -> Result<(), HistoryError> {
    Database::open(directory)?.insert(rows, digest, now)
}
