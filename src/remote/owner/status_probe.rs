//! The probe that an idle owner repeats, so that the next build need not wait for one.
//!
//! A head records the status of a machine for 30 s ([`STATUS_TTL`](crate::state::health::STATUS_TTL)). Without this, the
//! first build after a longer pause waits 10 ms or more for a probe. So an owner that stays open for other hooks, and that
//! none of them uses, probes the machine every [`INTERVAL`]. A hook asks for the output and its age.
//!
//! The owner is its own hook here: it has both ends of a stream to the command. If the server refuses the command, the
//! owner does not repeat it.
//!
//! Not checked here: the output, which `probe` parses, and whether it is recent enough for the hook.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::message::{Frames, ProbeOutput, Reply};
use crate::remote::probe::OUTPUT_MAX;

/// The time between two probes of an idle owner.
pub(super) const INTERVAL: Duration = Duration::from_secs(15);

/// The probe of an idle owner.
#[derive(Default)]
pub(super) struct StatusProbe {
    /// When the last one began.
    began: Option<Instant>,
    running: Option<RunningProbe>,
    /// The output of the last one that has ended, and when that one began.
    last: Option<(Instant, String)>,
    is_refused: bool,
}

/// The hook's ends of the stream of a probe.
struct RunningProbe {
    data: UnixStream,
    status: Frames,
    output: Vec<u8>,
}

impl StatusProbe {
    /// Returns the number of streams that it uses.
    pub fn streams(&self) -> usize {
        usize::from(self.running.is_some())
    }

    /// Returns when the next probe is to begin in an owner that was last used then; `None` if none is.
    pub fn next(&self, last_used: Instant) -> Option<Instant> {
        let last = self.began.map_or(last_used, |began| began.max(last_used));
        (!self.is_refused && self.running.is_none()).then_some(last + INTERVAL)
    }

    /// Begins a probe. Returns the data socket and the status socket for its stream.
    pub fn begin(&mut self, now: Instant) -> io::Result<(UnixStream, Frames)> {
        let ((data, their_data), (status, their_status)) = (UnixStream::pair()?, UnixStream::pair()?);
        data.set_nonblocking(true)?;
        status.set_nonblocking(true)?;
        // The command reads no input.
        data.shutdown(Shutdown::Write)?;
        self.began = Some(now);
        self.running = Some(RunningProbe { data, status: Frames::new(status), output: Vec::new() });
        Ok((their_data, Frames::new(their_status)))
    }

    /// Returns the output of the last probe, with its age.
    pub fn output(&self) -> Option<ProbeOutput> {
        self.last.as_ref().map(|(began, text)| ProbeOutput { age: began.elapsed(), text: text.clone() })
    }

    /// Reads what has arrived from the running probe, and notes its end.
    pub fn collect(&mut self) {
        let Some(running) = &mut self.running else { return };
        match running.collect() {
            Ok(None) => return,
            Ok(Some(is_refused)) => {
                let output = String::from_utf8_lossy(&running.output).into_owned();
                self.is_refused = is_refused;
                self.last = self.began.filter(|_| !is_refused).map(|began| (began, output));
            }
            Err(_) => self.last = None,
        }
        self.running = None;
    }
}

impl RunningProbe {
    /// Reads what has arrived. After the end of the probe, returns whether the server refused it. Fails if the probe was
    /// lost, or if its output is too long.
    fn collect(&mut self) -> io::Result<Option<bool>> {
        let reply = self.status.receive();
        // The status follows the last byte of the output.
        let mut buffer = [0; 4096];
        loop {
            match self.data.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.output.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if self.output.len() > OUTPUT_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        match reply {
            Ok(Some(Reply::Opened)) => Ok(None),
            Ok(Some(Reply::Ended { error: None, .. })) => Ok(Some(false)),
            Ok(Some(Reply::Refused(_))) => Ok(Some(true)),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
