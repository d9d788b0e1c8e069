//! The progress of a transfer: items, bytes and rate.
//!
//! The hook's messages normally go through a pipe to the daemon, and from there to its client, who may be a person or a
//! log. So there are a few plain lines: none for a transfer of some seconds, then one at intervals, which also restarts
//! the daemon's silence timer, and one at the end if there were any. On a terminal, where the hook is run by hand, one
//! line is updated in place.
//!
//! `remote::silence_policy` reports transfers in which no data move.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use log::{debug, info};

use super::terminal::Terminal;
use crate::events::{Event, iec};
use crate::hook::descriptors::LINE_PREFIX;

/// The time after which a transfer is first reported.
const FIRST_REPORT_AFTER: Duration = Duration::from_secs(5);

/// Reports the progress of one transfer after the other.
pub struct Progress<'a> {
    out: &'a File,
    is_terminal: bool,
    line_every: Duration,
    transfer: Option<Transfer>,
}

/// A running transfer.
struct Transfer {
    what: TransferKind,
    machine: String,
    start: Instant,
    /// The time of its last line.
    reported: Option<Instant>,
    bytes: u64,
}

enum TransferKind {
    Upload { items: usize, of: u64 },
    Fetch,
    Download { output: String },
}

impl<'a> Progress<'a> {
    /// Reports to `out`. `line_every` is the interval of lines after the first one, if `out` is not a terminal.
    pub fn new(out: &'a File, line_every: Duration) -> Progress<'a> {
        Progress { out, is_terminal: out.is_terminal(), line_every, transfer: None }
    }

    /// Reports in lines, also to a terminal.
    pub fn in_lines(self) -> Progress<'a> {
        Progress { is_terminal: false, ..self }
    }

    /// Handles an event.
    pub fn observe(&mut self, event: &Event<'_>) {
        self.at(event, Instant::now());
    }

    fn at(&mut self, event: &Event<'_>, now: Instant) {
        match *event {
            Event::Uploading { machine, items, bytes } => {
                self.start(TransferKind::Upload { items, of: bytes }, machine, now)
            }
            // It comes when the uploads beside the fetch have ended.
            Event::Fetched { machine, bytes } => {
                if !matches!(&self.transfer, Some(Transfer { what: TransferKind::Fetch, .. })) {
                    self.start(TransferKind::Fetch, machine, now);
                }
                self.advance(bytes, now);
            }
            Event::Downloading { machine, output } => {
                self.start(TransferKind::Download { output: output.to_string() }, machine, now);
            }
            Event::Uploaded { bytes, .. } | Event::Downloaded { bytes, .. } => self.advance(bytes, now),
            Event::UploadEnded { .. }
            | Event::Building { .. }
            | Event::DownloadEnded { .. }
            | Event::Done { .. }
            | Event::FetchEnded { .. } => self.end(true, now),
            // The transfer failed, or it has to wait for something else.
            _ => self.end(false, now),
        }
    }

    fn start(&mut self, what: TransferKind, machine: &str, now: Instant) {
        self.end(true, now);
        self.transfer = Some(Transfer { what, machine: machine.to_owned(), start: now, reported: None, bytes: 0 });
    }

    fn advance(&mut self, bytes: u64, now: Instant) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.bytes = bytes;
        if self.is_terminal {
            let line = transfer.line(now);
            transfer.reported = Some(now);
            return self.redraw(&line);
        }
        let (since, pause) = match transfer.reported {
            Some(reported) => (reported, self.line_every),
            None => (transfer.start, self.line_every.min(FIRST_REPORT_AFTER)),
        };
        if now.duration_since(since) >= pause {
            transfer.reported = Some(now);
            info!("{}", transfer.line(now));
        }
    }

    /// Ends a transfer. A transfer without a line gets no last line either.
    fn end(&mut self, is_whole: bool, now: Instant) {
        let Some(transfer) = self.transfer.take().filter(|transfer| transfer.reported.is_some()) else { return };
        let line = if is_whole { transfer.last_line(now) } else { transfer.line(now) };
        if self.is_terminal {
            self.redraw(&line);
            self.write("\n");
        } else if is_whole {
            info!("{line}");
        }
    }

    /// Replaces the line of the cursor, cut to the width of the terminal.
    fn redraw(&self, line: &str) {
        let room = Terminal::of(self.out).width.unwrap_or(80).saturating_sub(LINE_PREFIX.len() + 1);
        let line: String = line.chars().take(room).collect();
        self.write(&format!("\r{LINE_PREFIX}{line}\x1b[K"));
    }

    fn write(&self, text: &str) {
        if let Err(error) = (&mut &*self.out).write_all(text.as_bytes()) {
            debug!("cannot report the progress: {error}");
        }
    }
}

impl Transfer {
    fn line(&self, now: Instant) -> String {
        let (machine, rate) = (&self.machine, self.rate(now, self.bytes));
        match &self.what {
            TransferKind::Upload { items, of } => {
                // The bytes sent are slightly more than those of the items.
                let sent = self.bytes.min(*of);
                let percent = sent.checked_mul(100).and_then(|sent| sent.checked_div(*of)).unwrap_or(0);
                let (sent, of, noun) = (iec(sent), iec(*of), noun(*items));
                format!("sent {sent} of {of} to '{machine}' ({percent} % of {items} {noun}, {rate})")
            }
            TransferKind::Fetch => format!("'{machine}' has downloaded {} ({rate})", iec(self.bytes)),
            TransferKind::Download { output } => {
                format!("retrieved {} from '{machine}' ({rate}) of '{output}'", iec(self.bytes))
            }
        }
    }

    fn last_line(&self, now: Instant) -> String {
        let (machine, seconds) = (&self.machine, now.duration_since(self.start).as_secs());
        match &self.what {
            TransferKind::Upload { items, of } => {
                let (rate, noun) = (self.rate(now, *of), noun(*items));
                format!("sent {items} {noun} ({}) to '{machine}' in {seconds} s ({rate})", iec(*of))
            }
            TransferKind::Fetch => format!("'{machine}' has downloaded {} in {seconds} s", iec(self.bytes)),
            TransferKind::Download { output } => {
                // The last bytes come without an event.
                format!("retrieved '{output}' from '{machine}' in {seconds} s")
            }
        }
    }

    fn rate(&self, now: Instant, bytes: u64) -> String {
        let seconds = now.duration_since(self.start).as_secs_f64().max(0.001);
        format!("{}/s", iec((bytes as f64 / seconds) as u64))
    }
}

fn noun(items: usize) -> &'static str {
    if items == 1 { "item" } else { "items" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn progress(file: &File, is_terminal: bool) -> Progress<'_> {
        Progress { out: file, is_terminal, line_every: Duration::from_secs(30), transfer: None }
    }

    /// Returns the seconds at which there was a line about the transfer.
    fn reported(progress: &mut Progress<'_>, seconds: u64) -> Vec<u64> {
        let start = Instant::now();
        progress.at(&Event::Uploading { machine: "b1", items: 3, bytes: 100 * MIB }, start);
        let mut reported = Vec::new();
        for second in 1..=seconds {
            let now = start + Duration::from_secs(second);
            progress.at(&Event::Uploaded { machine: "b1", bytes: second * MIB, of: 100 * MIB }, now);
            if progress.transfer.as_ref().is_some_and(|transfer| transfer.reported == Some(now)) {
                reported.push(second);
            }
        }
        reported
    }

    #[test]
    fn there_are_few_lines_without_a_terminal() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(reported(&mut progress(&file, false), 80), [5, 35, 65]);
        assert_eq!(reported(&mut progress(&file, false), 4), [0; 0]);
        let mut impatient = Progress { line_every: Duration::from_secs(2), ..progress(&file, false) };
        assert_eq!(reported(&mut impatient, 7), [2, 4, 6]);
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_terminal_has_one_line_in_place() {
        use std::io::{Read, Seek};
        let mut file = tempfile::tempfile().unwrap();
        let writer = file.try_clone().unwrap();
        let mut progress = progress(&writer, true);
        assert_eq!(reported(&mut progress, 2), [1, 2]);
        progress.end(false, Instant::now());
        drop(progress);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("\roffload: sent 1.0 MiB of 100.0 MiB to 'b1' (1 % of 3 items, 1.0 MiB/s)\x1b[K\r"),
            "{text:?}"
        );
        assert_eq!((text.matches('\n').count(), text.ends_with('\n')), (1, true));
    }

    #[test]
    fn the_last_line_reports_the_whole_transfer() {
        let start = Instant::now();
        let what = TransferKind::Download { output: "/gnu/store/x".to_owned() };
        let transfer = Transfer { what, machine: "b1".to_owned(), start, reported: None, bytes: 40 * MIB };
        let line = transfer.last_line(start + Duration::from_secs(8));
        assert_eq!(line, "retrieved '/gnu/store/x' from 'b1' in 8 s");
        let what = TransferKind::Upload { items: 1, of: 80 * MIB };
        let transfer = Transfer { what, ..transfer };
        assert_eq!(
            transfer.last_line(start + Duration::from_secs(8)),
            "sent 1 item (80.0 MiB) to 'b1' in 8 s (10.0 MiB/s)"
        );
    }
}
