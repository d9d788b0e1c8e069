//! The progress of a daemon that fetches substitutes, from the text that it prints.
//!
//! `guix substitute` prints lines `@ download-progress FILE URL SIZE BYTES`, several a second while bytes arrive
//! (`progress-reporter/trace` in `guix/progress.scm`), where BYTES are those of the download so far. Other lines that
//! begin with `@ ` are events, too; the rest is text for people, of which the last line names the cause of a failure.
//!
//! Text about a query is for people. `guix substitute: ` begins a warning or an error, in every language, possibly behind
//! the progress of the query on the same line: for example that a server cannot be reached. The query itself succeeds then.
//!
//! A server that sends a few bytes now and then is not silent. So a minimum must arrive in each period.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The longest line that is read; the rest of a longer one is dropped.
const MAX_LINE: usize = 4 << 10;
/// The limit of files that are counted at the same time.
const MAX_FILES: usize = 1 << 17;
/// The beginning of a warning or an error.
const COMPLAINT: &str = "guix substitute: ";

/// Reads the text, and counts.
pub(super) struct Downloads {
    line: Vec<u8>,
    /// The bytes of each file.
    files: BTreeMap<String, u64>,
    bytes: u64,
    /// The last line for people.
    message: String,
    /// The last warning or error.
    complaint: String,
    /// The length of a period, and the bytes that must arrive in it.
    period: Duration,
    bytes_per_period: u64,
    /// When the current period began, and the bytes until then.
    began: (Instant, u64),
}

impl Downloads {
    /// Counts downloads that must be as fast as `min_rate`, in bytes per second, in each `period`.
    pub fn new(period: Duration, min_rate: f64, now: Instant) -> Downloads {
        let bytes_per_period = (period.as_secs_f64() * min_rate).max(1.0) as u64;
        let (line, files, message, complaint) = Default::default();
        Downloads { line, files, bytes: 0, message, complaint, period, bytes_per_period, began: (now, 0) }
    }

    /// Takes a piece of the text, of any length.
    pub fn take(&mut self, text: &[u8]) {
        for &byte in text {
            match byte {
                b'\n' | b'\r' => self.end_line(),
                _ if self.line.len() < MAX_LINE => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["@", "download-progress", file, _, _, bytes] => self.count(file, bytes.parse().unwrap_or(0)),
            ["@", ..] | [] => {}
            _ => self.message = printable(&line),
        }
        if let Some(at) = line.rfind(COMPLAINT) {
            self.complaint = printable(&line[at..]);
        }
    }

    fn count(&mut self, file: &str, bytes: u64) {
        if self.files.len() >= MAX_FILES {
            return;
        }
        let before = self.files.insert(file.to_owned(), bytes).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(bytes.saturating_sub(before));
    }

    /// Returns the bytes of all downloads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the last line for people, without control characters; empty if there was none.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the last warning or error, without control characters; `None` if there was none.
    pub fn complaint(&self) -> Option<&str> {
        Some(self.complaint.as_str()).filter(|complaint| !complaint.is_empty())
    }

    /// Returns whether too little arrived in a period that has ended at `now`.
    pub fn is_too_slow(&mut self, now: Instant) -> bool {
        let (began, before) = self.began;
        if now.duration_since(began) < self.period {
            return false;
        }
        self.began = (now, self.bytes);
        self.bytes - before < self.bytes_per_period
    }
}

/// Returns text on one line without control characters.
fn printable(text: &str) -> String {
    text.trim().chars().flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(file: &str, bytes: u64) -> String {
        format!("@ download-progress /gnu/store/{file} http://h/nar/{file} - {bytes}\n")
    }

    #[test]
    fn bytes_of_all_files_are_counted_once() {
        let mut downloads = Downloads::new(Duration::from_secs(5), 1.0, Instant::now());
        let text = [progress("a", 10), progress("b", 7), progress("a", 30), progress("a", 20)].concat();
        for piece in text.as_bytes().chunks(7) {
            downloads.take(piece);
        }
        assert_eq!(downloads.bytes(), 37 - 10 + 10);
        downloads.take(b"@ download-progress /gnu/store/c http://h - x\n@ download-succeeded /gnu/store/a u 30\n");
        downloads.take(&[b'y'; 3 * MAX_LINE]);
        assert_eq!((downloads.bytes(), downloads.message()), (37, ""));
    }

    #[test]
    fn the_last_line_for_people_is_the_message() {
        let mut downloads = Downloads::new(Duration::from_secs(5), 1.0, Instant::now());
        downloads.take(b"\rsubstitute: updating 0%\rguix substitute: error: 404\x1b\n@ substituter-failed /x 1 y\n\n");
        assert_eq!(downloads.message(), "guix substitute: error: 404\\u{1b}");
    }

    /// What Guix 1.5.0 and 1.2.0 print about a server that is down, and about one that answers.
    #[test]
    fn a_warning_follows_the_progress_of_a_query() {
        let query = "substitute: \rsubstitute: \x1b[Klooking for substitutes on 'http://h'...   0.0%";
        let warning = "guix substitute: warning: h: connection failed: Connection refused\n";
        for (text, expected) in [
            (format!("{query}{warning}substitute: \n"), Some(warning.trim())),
            (format!("substitute: {warning}"), Some(warning.trim())),
            (format!("{query}\r{} 100.0%\n", &query[13..]), None),
            (String::new(), None),
        ] {
            let mut downloads = Downloads::new(Duration::from_secs(5), 1.0, Instant::now());
            downloads.take(text.as_bytes());
            assert_eq!(downloads.complaint(), expected, "{text:?}");
        }
    }

    #[test]
    fn each_period_has_its_share_of_bytes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut downloads = Downloads::new(Duration::from_secs(10), 10.0, start);
        downloads.take(progress("a", 100).as_bytes());
        assert!(!downloads.is_too_slow(at(9)) && !downloads.is_too_slow(at(10)));
        downloads.take(progress("a", 199).as_bytes());
        assert!(!downloads.is_too_slow(at(19)) && downloads.is_too_slow(at(20)));
    }
}
