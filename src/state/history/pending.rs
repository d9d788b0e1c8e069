//! Rows that are not in the database yet: `history.pending`, a line of JSON for each row, and `history.batch`, the rows
//! that are being moved.
//!
//! A line also begins with an end of line. So a line that a full disk cut off spoils no other line; it is skipped.
//!
//! Processes that append have shared locks of the file, so that none waits for another one. A process that moves the rows
//! renames the file first, and then locks it for itself until it is removed. Who does not get the shared lock, or finds
//! that the file was removed, opens the name again, which is another file now.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::power_row::PowerRow;
use super::row::Row;
use crate::failpoints::{Failpoint, failpoint};
use crate::permissions::files;
use crate::state::StateError;
use crate::state::lock::{try_exclusive, try_shared};

/// The largest file of rows, in bytes: some thousand rows. If nothing collects them, further rows are dropped.
const MAX_PENDING: u64 = 4 << 20;

/// Above this size, requests that were not accepted are dropped: a daemon with thousands of builds repeats them every few
/// seconds.
const MAX_PENDING_REQUESTS: u64 = 256 << 10;

/// Above this size the rows should be moved.
const MANY_PENDING: u64 = 64 << 10;

/// How long a process that moves the rows waits for those that append to them.
const APPEND_WAIT: Duration = Duration::from_millis(500);

/// How often it checks them.
const POLL_INTERVAL: Duration = Duration::from_micros(200);

/// How often the file is opened again. Each time it was renamed a moment ago.
const MAX_OPENINGS: usize = 100;

/// Appends rows in one write.
pub(super) fn append(directory: &Path, rows: &[Row], power: &[PowerRow]) -> Result<(), StateError> {
    let path = directory.join("history.pending");
    let failed = |cause| StateError { path: path.clone(), cause };
    let mut file = open_shared(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut text = Vec::new();
    for row in rows.iter().filter(|row| size <= MAX_PENDING_REQUESTS || !row.outcome.is_request()) {
        write_line(&row.shortened(), &mut text).map_err(failed)?;
    }
    for row in power {
        write_line(row, &mut text).map_err(failed)?;
    }
    if size + text.len() as u64 > MAX_PENDING {
        let cause = "the file is full: no hook and no `offload history` has moved its rows into the database";
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, cause)));
    }
    file.write_all(&text).map_err(failed)?;
    failpoint(Failpoint::HistoryAppended);
    Ok(())
}

fn write_line(row: &impl Serialize, text: &mut Vec<u8>) -> io::Result<()> {
    text.push(b'\n');
    serde_json::to_writer(&mut *text, row)?;
    text.push(b'\n');
    Ok(())
}

/// Returns whether the file has so many rows that they should be moved.
pub(super) fn is_filling(directory: &Path) -> bool {
    files::size(&directory.join("history.pending")).is_ok_and(|size| size > MANY_PENDING)
}

/// Returns the rows that were appended, also those that another process moves just then; none if a file is larger than
/// `limit` bytes. Takes no lock: a row may be missing.
pub(super) fn peek(directory: &Path, limit: u64) -> Vec<Row> {
    let read = |name: &str| {
        let mut text = Vec::new();
        let file = files::open(&directory.join(name)).ok()?;
        file.take(limit + 1).read_to_end(&mut text).ok()?;
        (text.len() as u64 <= limit).then_some(text)
    };
    ["history.batch", "history.pending"]
        .iter()
        .filter_map(|name| read(name))
        .flat_map(|text| parse(&text).rows)
        .collect()
}

/// Opens the file with a shared lock.
fn open_shared(path: &Path) -> io::Result<File> {
    for _ in 0..MAX_OPENINGS {
        let file = files::open_to_append(path)?;
        if try_shared(&file)? && file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another process keeps it locked"))
}

/// Rows that are moved into the database together.
pub(super) struct Batch {
    /// Holds the lock.
    pub file: File,
    pub text: Vec<u8>,
    /// Of the text and of the time of its last line, so that no other batch has it.
    pub digest: Vec<u8>,
}

/// Returns the batch: the one that a killed process left, or else all rows that were appended since. `None` if there are
/// none, or a process that appends was stopped. The caller holds `history.batch.lock`.
pub(super) fn take_batch(directory: &Path) -> Result<Option<Batch>, StateError> {
    let (pending, batch) = (directory.join("history.pending"), directory.join("history.batch"));
    if !files::exists(&batch) {
        if !files::exists(&pending) {
            return Ok(None);
        }
        files::rename(&pending, &batch).map_err(|cause| StateError { path: pending.clone(), cause })?;
        failpoint(Failpoint::HistoryBatchTaken);
    }
    let failed = |cause| StateError { path: batch.clone(), cause };
    let read = || -> io::Result<Option<Batch>> {
        let file = files::open(&batch)?;
        let start = Instant::now();
        while !try_exclusive(&file)? {
            if start.elapsed() > APPEND_WAIT {
                return Ok(None);
            }
            thread::sleep(POLL_INTERVAL);
        }
        let data = file.metadata()?;
        let mut text = Vec::new();
        (&file).take(2 * MAX_PENDING).read_to_end(&mut text)?;
        let digest =
            Sha256::new().chain_update(data.mtime().to_ne_bytes()).chain_update(data.mtime_nsec().to_ne_bytes());
        let digest = digest.chain_update(&text).finalize().to_vec();
        Ok(Some(Batch { file, text, digest }))
    };
    read().map_err(failed)
}

/// Removes the batch, which is in the database.
pub(super) fn drop_batch(directory: &Path) -> Result<(), StateError> {
    let batch = directory.join("history.batch");
    files::remove(&batch).map_err(|cause| StateError { path: batch, cause })
}

/// The rows of a batch.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub rows: Vec<Row>,
    pub power: Vec<PowerRow>,
    /// The number of invalid lines.
    pub invalid: usize,
}

/// Returns the rows of a batch. No line is a valid row of both kinds.
pub(super) fn parse(batch: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    for line in batch.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        if let Ok(row) = serde_json::from_slice::<Row>(line) {
            parsed.rows.push(row);
        } else if let Ok(row) = serde_json::from_slice::<PowerRow>(line) {
            parsed.power.push(row);
        } else {
            parsed.invalid += 1;
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::state::history::Outcome;

    fn row(name: &str, outcome: Outcome) -> Row {
        Row::new(&format!("/gnu/store/x-{name}.drv"), "x86_64-linux", outcome, 7)
    }

    fn names(directory: &Path) -> Vec<String> {
        let text = take_batch(directory).unwrap().map(|batch| batch.text).unwrap_or_default();
        parse(&text).rows.into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn appended_rows_make_one_batch_and_later_ones_the_next() {
        let top = tempfile::tempdir().unwrap();
        let directory = &top.path().join("offload");
        assert!(take_batch(directory).unwrap().is_none());
        append(directory, &[row("a", Outcome::Built), row("b", Outcome::BuildFailed)], &[]).unwrap();
        append(directory, &[row("c", Outcome::Built)], &[]).unwrap();
        assert_eq!(names(directory), ["a", "b", "c"]);
        append(directory, &[row("d", Outcome::Built)], &[]).unwrap();
        // It is the same batch until it is dropped.
        assert_eq!(names(directory), ["a", "b", "c"]);
        drop_batch(directory).unwrap();
        assert_eq!(names(directory), ["d"]);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let top = tempfile::tempdir().unwrap();
        append(top.path(), &[row("a", Outcome::Built)], &[]).unwrap();
        let pending = top.path().join("history.pending");
        let mut file = fs::OpenOptions::new().append(true).open(&pending).unwrap();
        file.write_all(b"\n{\"derivation\":\"/gnu/st").unwrap();
        append(top.path(), &[row("b", Outcome::Built)], &[]).unwrap();
        let Parsed { rows, invalid, .. } = parse(&take_batch(top.path()).unwrap().unwrap().text);
        assert_eq!((rows.len(), rows[1].name.as_str(), invalid), (2, "b", 1));
    }

    #[test]
    fn a_full_file_takes_attempts_longer_than_requests_and_neither_for_ever() {
        let top = tempfile::tempdir().unwrap();
        let pending = top.path().join("history.pending");
        let fill = |size: u64| fs::File::create(&pending).unwrap().set_len(size).unwrap();
        fill(MAX_PENDING_REQUESTS + 1);
        append(top.path(), &[row("a", Outcome::Postponed), row("b", Outcome::Declined)], &[]).unwrap();
        assert_eq!(fs::metadata(&pending).unwrap().len(), MAX_PENDING_REQUESTS + 1);
        append(top.path(), &[row("c", Outcome::Built)], &[]).unwrap();
        assert!(fs::metadata(&pending).unwrap().len() > MAX_PENDING_REQUESTS + 1);
        fill(MAX_PENDING_REQUESTS);
        append(top.path(), &[row("a", Outcome::Postponed)], &[]).unwrap();
        assert!(fs::metadata(&pending).unwrap().len() > MAX_PENDING_REQUESTS);
        fill(MAX_PENDING - 10);
        let error = append(top.path(), &[row("c", Outcome::Built)], &[]).unwrap_err().to_string();
        assert!(error.contains("history.pending: the file is full"), "{error}");
        assert_eq!(fs::metadata(&pending).unwrap().len(), MAX_PENDING - 10);
    }

    #[test]
    fn a_row_goes_to_another_file_while_the_batch_is_moved() {
        let top = tempfile::tempdir().unwrap();
        append(top.path(), &[row("a", Outcome::Built)], &[]).unwrap();
        // It was opened before the file became a batch, and is locked too late.
        let late = files::open_to_append(&top.path().join("history.pending")).unwrap();
        let batch = take_batch(top.path()).unwrap().unwrap();
        assert!(!try_shared(&late).unwrap());
        append(top.path(), &[row("b", Outcome::Built)], &[]).unwrap();
        drop_batch(top.path()).unwrap();
        drop(batch);
        assert!(try_shared(&late).unwrap() && late.metadata().unwrap().nlink() == 0);
        assert_eq!(names(top.path()), ["b"]);
    }

    #[test]
    fn a_stopped_process_keeps_no_row_from_being_appended() {
        let top = tempfile::tempdir().unwrap();
        append(top.path(), &[row("a", Outcome::Built)], &[]).unwrap();
        // It was stopped while it appended.
        let appending = open_shared(&top.path().join("history.pending")).unwrap();
        assert!(take_batch(top.path()).unwrap().is_none());
        append(top.path(), &[row("b", Outcome::Built)], &[]).unwrap();
        // It is stopped while it moves the rows.
        drop(appending);
        let moving = take_batch(top.path()).unwrap().unwrap();
        append(top.path(), &[row("c", Outcome::Built)], &[]).unwrap();
        drop(moving);
        assert_eq!(names(top.path()), ["a"]);
        drop_batch(top.path()).unwrap();
        assert_eq!(names(top.path()), ["b", "c"]);
    }
}
