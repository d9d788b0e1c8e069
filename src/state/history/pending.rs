//! Rows that are not in the database yet: `history.pending`, a line of JSON for each row, and `history.batch`, the rows
//! that are being moved.
//!
//! A line also begins with an end of line. So a line that a full disk cut off spoils no other line; it is skipped.
//!
//! An appending process holds `history.lock`, so that the file is not taken for a batch meanwhile. It waits for that lock
//! for [`LOCK_WAIT`] at most, because the holder may be stopped. Then it appends without the lock: the holder does not
//! read the batch before it has released the lock.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::row::Row;
use crate::failpoints::{Failpoint, failpoint};
use crate::permissions::files;
use crate::state::StateError;
use crate::state::lock::try_lock;

/// The largest file of rows, in bytes: some thousand rows. If nothing collects them, further rows are dropped.
const MAX_PENDING: u64 = 4 << 20;

/// Above this size, requests that were not accepted are dropped: a daemon with thousands of builds repeats them every few
/// seconds.
const MAX_PENDING_REQUESTS: u64 = 256 << 10;

/// Above this size the rows should be moved.
const MANY_PENDING: u64 = 64 << 10;

/// The longest wait for the lock.
const LOCK_WAIT: Duration = Duration::from_millis(5);

/// The pause between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_micros(100);

/// Appends rows in one write.
pub(super) fn append(directory: &Path, rows: &[Row]) -> Result<(), StateError> {
    let path = directory.join("history.pending");
    let failed = |cause| StateError { path: path.clone(), cause };
    let _lock = lock(directory)?;
    let mut file = files::open_to_append(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut text = Vec::new();
    for row in rows.iter().filter(|row| size <= MAX_PENDING_REQUESTS || !row.outcome.is_request()) {
        text.push(b'\n');
        serde_json::to_writer(&mut text, &row.shortened()).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
    }
    if size + text.len() as u64 > MAX_PENDING {
        let cause = "the file is full: no hook and no `offload history` has moved its rows into the database";
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, cause)));
    }
    file.write_all(&text).map_err(failed)?;
    failpoint(Failpoint::HistoryAppended);
    Ok(())
}

/// Returns whether the file has so many rows that they should be moved.
pub(super) fn is_filling(directory: &Path) -> bool {
    files::size(&directory.join("history.pending")).is_ok_and(|size| size > MANY_PENDING)
}

/// Takes the lock; `None` if it is not released in time.
fn lock(directory: &Path) -> Result<Option<File>, StateError> {
    let path = directory.join("history.lock");
    let start = Instant::now();
    loop {
        match try_lock(&path)? {
            None if start.elapsed() < LOCK_WAIT => thread::sleep(LOCK_PAUSE),
            lock => return Ok(lock),
        }
    }
}

/// Rows that are moved into the database together.
#[derive(Default)]
pub(super) struct Batch {
    pub text: Vec<u8>,
    /// Of the text and of the time of its last line, so that no other batch has it.
    pub digest: Vec<u8>,
}

/// Returns the batch: the one that a killed process left, or else all rows that were appended since. `None` if there are
/// none. The caller holds `history.batch.lock`.
pub(super) fn take_batch(directory: &Path) -> Result<Option<Batch>, StateError> {
    let (pending, batch) = (directory.join("history.pending"), directory.join("history.batch"));
    if !files::exists(&batch) {
        if !files::exists(&pending) {
            return Ok(None);
        }
        let Some(_lock) = lock(directory)? else { return Ok(None) };
        files::rename(&pending, &batch).map_err(|cause| StateError { path: pending.clone(), cause })?;
        failpoint(Failpoint::HistoryBatchTaken);
    }
    let failed = |cause| StateError { path: batch.clone(), cause };
    let read = || -> io::Result<Batch> {
        let file = files::open(&batch)?;
        let data = file.metadata()?;
        let mut text = Vec::new();
        file.take(2 * MAX_PENDING).read_to_end(&mut text)?;
        let digest =
            Sha256::new().chain_update(data.mtime().to_ne_bytes()).chain_update(data.mtime_nsec().to_ne_bytes());
        let digest = digest.chain_update(&text).finalize().to_vec();
        Ok(Batch { text, digest })
    };
    read().map(Some).map_err(failed)
}

/// Removes the batch, which is in the database.
pub(super) fn drop_batch(directory: &Path) -> Result<(), StateError> {
    let batch = directory.join("history.batch");
    files::remove(&batch).map_err(|cause| StateError { path: batch, cause })
}

/// Returns the rows of a batch, and the number of invalid lines.
pub(super) fn parse(batch: &[u8]) -> (Vec<Row>, usize) {
    let lines = batch.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut invalid = 0;
    let rows = lines.filter_map(|line| {
        let row = serde_json::from_slice::<Row>(line).ok();
        invalid += usize::from(row.is_none());
        row
    });
    let rows: Vec<Row> = rows.collect();
    (rows, invalid)
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
        let batch = take_batch(directory).unwrap().unwrap_or_default();
        parse(&batch.text).0.into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn appended_rows_make_one_batch_and_later_ones_the_next() {
        let top = tempfile::tempdir().unwrap();
        let directory = &top.path().join("offload");
        assert!(take_batch(directory).unwrap().is_none());
        append(directory, &[row("a", Outcome::Built), row("b", Outcome::BuildFailed)]).unwrap();
        append(directory, &[row("c", Outcome::Built)]).unwrap();
        assert_eq!(names(directory), ["a", "b", "c"]);
        append(directory, &[row("d", Outcome::Built)]).unwrap();
        // It is the same batch until it is dropped.
        assert_eq!(names(directory), ["a", "b", "c"]);
        drop_batch(directory).unwrap();
        assert_eq!(names(directory), ["d"]);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let top = tempfile::tempdir().unwrap();
        append(top.path(), &[row("a", Outcome::Built)]).unwrap();
        let pending = top.path().join("history.pending");
        let mut file = fs::OpenOptions::new().append(true).open(&pending).unwrap();
        file.write_all(b"\n{\"derivation\":\"/gnu/st").unwrap();
        append(top.path(), &[row("b", Outcome::Built)]).unwrap();
        let (rows, invalid) = parse(&take_batch(top.path()).unwrap().unwrap().text);
        assert_eq!((rows.len(), rows[1].name.as_str(), invalid), (2, "b", 1));
    }

    #[test]
    fn a_full_file_takes_attempts_longer_than_requests_and_neither_for_ever() {
        let top = tempfile::tempdir().unwrap();
        let pending = top.path().join("history.pending");
        let fill = |size: u64| fs::File::create(&pending).unwrap().set_len(size).unwrap();
        fill(MAX_PENDING_REQUESTS + 1);
        append(top.path(), &[row("a", Outcome::Postponed), row("b", Outcome::Declined)]).unwrap();
        assert_eq!(fs::metadata(&pending).unwrap().len(), MAX_PENDING_REQUESTS + 1);
        append(top.path(), &[row("c", Outcome::Built)]).unwrap();
        assert!(fs::metadata(&pending).unwrap().len() > MAX_PENDING_REQUESTS + 1);
        fill(MAX_PENDING_REQUESTS);
        append(top.path(), &[row("a", Outcome::Postponed)]).unwrap();
        assert!(fs::metadata(&pending).unwrap().len() > MAX_PENDING_REQUESTS);
        fill(MAX_PENDING - 10);
        let error = append(top.path(), &[row("c", Outcome::Built)]).unwrap_err().to_string();
        assert!(error.contains("history.pending: the file is full"), "{error}");
        assert_eq!(fs::metadata(&pending).unwrap().len(), MAX_PENDING - 10);
    }

    #[test]
    fn a_stopped_holder_of_the_lock_delays_no_row_and_no_batch_is_taken() {
        let top = tempfile::tempdir().unwrap();
        let held = try_lock(&top.path().join("history.lock")).unwrap().unwrap();
        append(top.path(), &[row("a", Outcome::Built)]).unwrap();
        assert_eq!(names(top.path()), [""; 0]);
        drop(held);
        assert_eq!(names(top.path()), ["a"]);
    }
}
