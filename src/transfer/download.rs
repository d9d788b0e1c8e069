//! Retrieving the outputs.
//!
//! Each output comes as one signed item (ExportPath), which is restored aside while it arrives and accepted only whole:
//! it must be the output that was asked for, refer to nothing but the inputs and the derivation's outputs, and be
//! signed by an authorized key; a fixed output must have its hash. Only when all outputs are accepted are they moved to
//! their places ([`Downloaded::place`]).
//!
//! The daemon that asked registers them. It holds their locks and takes a hook's outputs like those of a local build:
//! it makes their metadata canonical, scans them for references, hashes, deduplicates and registers them, all in one
//! transaction. So nothing of a build machine's word but the files themselves enters the database, the references that
//! are not allowed are found, `--disable-deduplication` counts, no schema of SQLite is depended upon, and a kill at any
//! point leaves the store valid: a tree that nobody registers is removed before the next build of its path.
//!
//! The other way, deduplicating and writing the database here, was built and measured: the daemon's thread, which
//! serves one client, is then not held up at all (1 ms), against 0.4 s for a file of 256 MiB and 0.3 s for 20,000 small
//! files with Guix 1.5.0 (1.2 s and 0.9 s with 1.2.0), of a whole of 0.7 s and 0.6 s. That is not worth a second
//! registration that would have to follow the daemon's for ever.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read, Write};
use std::time::{Duration, Instant};

use log::debug;

use super::error::DownloadError;
use super::limiter::{SlotRequest, TransferLimiter};
use super::meter::{Direction, ThroughputMeter};
use super::progress::{EVENT_BYTES, EVENT_INTERVAL};
use super::rejected::RejectedOutput;
use crate::daemon::{self, Client};
use crate::events::{Event, Observer};
use crate::failpoints::{Failpoint, failpoint};
use crate::gcrypt::{self, VerifyError};
use crate::local::LocalStore;
use crate::local::{FixedError, RestoreError, Staging, check_fixed_output, load_acl, read_derivation};
use crate::machine::Compressed;
use crate::state::transfers::TransferSlot;
use crate::state::{AcceptedKeys, StateDirectory};
use crate::store::derivation::FixedOutput;
use crate::store::export::{HashingReader, Trailer};
use crate::store::nar::{self, NarError};
use crate::store::path::StorePath;
use crate::store::signature::{Acl, PublicKey};
use crate::timing::{Pieces, Stopwatch};

/// About how long a daemon takes until its first signature.
const SIGNING_START: Duration = Duration::from_millis(100);

/// Outputs that have arrived and been accepted, and are not in their places yet. Dropping them removes them.
pub struct Downloaded<'a> {
    local_store: &'a LocalStore<'a>,
    staged: Vec<Staging<'a>>,
}

impl Downloaded<'_> {
    /// Moves the outputs to their places in the store.
    pub fn place(self) -> Result<(), RestoreError> {
        for staging in self.staged {
            staging.install(&self.local_store.database)?;
            failpoint(Failpoint::Placed);
        }
        failpoint(Failpoint::AllPlaced);
        Ok(())
    }
}

/// What is fetched, and what it may refer to.
pub struct Expected<'a> {
    pub derivation: &'a StorePath,
    /// The closure of what the build needed.
    pub inputs: &'a BTreeSet<StorePath>,
    /// The outputs to fetch.
    pub outputs: &'a BTreeSet<StorePath>,
}

/// Fetches `expected` from the machine behind `client`, over a connection that is `compressed` in this way.
pub fn download<'a, S: Read + Write>(
    client: &mut Client<S>,
    local_store: &'a LocalStore<'a>,
    expected: &Expected<'_>,
    compressed: Compressed,
    limiter: &TransferLimiter<'_>,
    observer: &mut dyn Observer,
) -> Result<Downloaded<'a>, DownloadError> {
    let derivation = read_derivation(&local_store.directories.store, expected.derivation)?;
    let acl = load_acl(&local_store.directories.acl())?;
    let mut allowed = expected.inputs.clone();
    allowed.extend(derivation.output_paths().cloned());

    let machine = limiter.machine.name.as_str();
    let _slot = wait_for_slot(client, expected, limiter, observer)?;
    failpoint(Failpoint::DownloadSlot);
    let mut meter = ThroughputMeter::start();
    let mut staged = Vec::new();
    for output in expected.outputs {
        observer.observe(&Event::Downloading { machine, output });
        let staging = Staging::new(&local_store.store, output)?;
        failpoint(Failpoint::Staged);
        let exported = client.export_path(output, true, |item| {
            let progress = ProgressReader {
                item,
                machine,
                output,
                observer,
                meter: &mut meter,
                arrived: 0,
                reported: 0,
                reported_at: Instant::now(),
            };
            receive(progress, local_store, output, &allowed, derivation.fixed_output(), &acl, &staging)
        });
        match exported {
            Ok(signing_connection) => {
                record_speed(limiter.state, &signing_connection);
                staged.push(staging);
            }
            Err(daemon::ExportError::Daemon(error)) => return Err(DownloadError::Machine(error)),
            Err(daemon::ExportError::Consumer(Received::Refused(cause))) => {
                let (machine, cause) = (machine.to_owned(), revoked(limiter.state, cause));
                return Err(DownloadError::Refused { output: output.clone(), machine, cause: Box::new(cause) });
            }
            Err(daemon::ExportError::Consumer(Received::NotRestored(cause))) => {
                return Err(RestoreError::Write { path: output.clone(), cause }.into());
            }
        }
    }
    meter.end(Direction::Receiving, expected.outputs.len(), SIGNING_START, limiter, compressed);
    Ok(Downloaded { local_store, staged })
}

/// Notes who signs. What cannot be noted only makes a message worse.
fn record_speed(state: &StateDirectory, signing_connection: &PublicKey) {
    if let Err(error) = AcceptedKeys::of(state).and_then(|keys| keys.remember(signing_connection)) {
        debug!("who signs is not remembered: {error}");
    }
}

/// The same refusal, or that of a key which was authorized before.
fn revoked(state: &StateDirectory, rejected: RejectedOutput) -> RejectedOutput {
    match rejected {
        RejectedOutput::Signature(VerifyError::Unauthorized { key })
            if AcceptedKeys::of(state).is_ok_and(|keys| keys.has(&key)) =>
        {
            RejectedOutput::Revoked(key)
        }
        other => other,
    }
}

/// Waits for a turn, without letting the connection fall silent.
fn wait_for_slot<S: Read + Write>(
    client: &mut Client<S>,
    expected: &Expected<'_>,
    limiter: &TransferLimiter<'_>,
    observer: &mut dyn Observer,
) -> Result<Option<TransferSlot>, DownloadError> {
    let mut wait = limiter.wait();
    loop {
        match limiter.download(&mut wait, observer) {
            SlotRequest::Granted(slot, ()) => return Ok(slot),
            SlotRequest::Requery => drop(client.query_valid_paths(expected.outputs).map_err(DownloadError::Machine)?),
        }
    }
}

/// Why one item was not received.
enum Received {
    /// It is at fault.
    Refused(RejectedOutput),
    /// This machine's file system is.
    NotRestored(io::Error),
}

impl<T: Into<RejectedOutput>> From<T> for Received {
    fn from(rejected: T) -> Received {
        Received::Refused(rejected.into())
    }
}

/// Reads one item to its end, restores it, and gives the key that signed it. `fixed`: what it must be, if that is known beforehand.
fn receive<R: Read>(
    item: R,
    local_store: &LocalStore<'_>,
    output: &StorePath,
    allowed: &BTreeSet<StorePath>,
    fixed: Option<&FixedOutput>,
    acl: &Acl,
    staging: &Staging<'_>,
) -> Result<PublicKey, Received> {
    let mut stopwatch = Stopwatch::start();
    let mut reader = HashingReader::new(Fetch { item, waiting: Pieces::default() });
    reader.reset();
    match nar::read(&mut reader, &mut staging.restore()) {
        Ok(_) => {}
        Err(NarError::Visitor { source, .. }) => return Err(Received::NotRestored(source)),
        Err(error) => return Err(RejectedOutput::Nar(error).into()),
    }
    failpoint(Failpoint::Restored);
    let nar_hash = reader.digest();
    let (trailer, digest) = Trailer::read(&local_store.directories.store, &mut reader).map_err(RejectedOutput::from)?;
    let has_more = match reader.fill_buf() {
        Ok(rest) => !rest.is_empty(),
        // Of the link or the daemon: the client tells it.
        Err(error) => return Err(Received::NotRestored(error)),
    };
    stopwatch.lap_without(reader.into_inner().waiting.end("fetch"), "restore");
    if has_more {
        return Err(RejectedOutput::More.into());
    }
    if trailer.path != *output {
        return Err(RejectedOutput::OtherItem(trailer.path).into());
    }
    if let Some(stray) = trailer.references.into_iter().find(|reference| !allowed.contains(reference)) {
        return Err(RejectedOutput::Reference(stray).into());
    }
    let signature = trailer.signature.ok_or(RejectedOutput::NotSigned)?;
    let signing_connection = gcrypt::verify(&signature, &digest, acl).map_err(RejectedOutput::Signature)?;
    stopwatch.lap("verify");
    if let Some(fixed) = fixed {
        check_fixed_output(staging, &nar_hash, fixed).map_err(|error| match error {
            FixedError::Mismatch { .. } | FixedError::NotPlain { .. } => {
                Received::Refused(RejectedOutput::Fixed(error))
            }
            FixedError::Read { cause, .. } => Received::NotRestored(cause),
            FixedError::Digest(cause) => Received::NotRestored(io::Error::other(cause)),
        })?;
    }
    failpoint(Failpoint::Verified);
    Ok(signing_connection)
}

/// Measures how long it is waited for.
struct Fetch<R> {
    item: R,
    waiting: Pieces,
}

impl<R: Read> Read for Fetch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.waiting.add(|| self.item.read(buffer))
    }
}

/// Tells about the progress of what is read from it.
struct ProgressReader<'a, R> {
    item: R,
    machine: &'a str,
    output: &'a StorePath,
    observer: &'a mut dyn Observer,
    meter: &'a mut ThroughputMeter,
    arrived: u64,
    reported: u64,
    reported_at: Instant,
}

impl<R: Read> Read for ProgressReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.item.read(buffer)?;
        self.meter.pass(&buffer[..count]);
        self.arrived += count as u64;
        failpoint(Failpoint::FirstBytes);
        if self.arrived >= self.reported + EVENT_BYTES || self.reported_at.elapsed() >= EVENT_INTERVAL {
            (self.reported, self.reported_at) = (self.arrived, Instant::now());
            let ProgressReader { machine, output, arrived: bytes, .. } = *self;
            self.observer.observe(&Event::Downloaded { machine, output, bytes });
        }
        Ok(count)
    }
}
