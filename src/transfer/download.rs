//! Download of the outputs.
//!
//! Each output arrives as one signed item (ExportPath). It is restored in a temporary place while it arrives, and
//! accepted only as a whole. It must be the requested output, refer only to the inputs and the derivation's outputs,
//! and be signed by an authorized key; a fixed output must have its hash. The outputs are moved into the store only
//! when all of them are accepted ([`Downloaded::place`]).
//!
//! The daemon that runs the hook registers them. It holds their locks and treats a hook's outputs like those of a local
//! build: it makes their metadata canonical, scans them for references, hashes, deduplicates and registers them, all in
//! one transaction. So the database takes only the files themselves from a build machine, and forbidden references are
//! found. `--disable-deduplication` is respected, no schema of SQLite is assumed, and a kill at any point leaves the
//! store valid: a tree that was not registered is removed before the next build of its path.
//!
//! The alternative, deduplicating and writing the database here, was built and measured. It does not block the daemon's
//! thread, which serves one client (1 ms). Today's way blocks it for 0.4 s for a file of 256 MiB and 0.3 s for 20,000
//! small files with Guix 1.5.0 (1.2 s and 0.9 s with 1.2.0), of a total of 0.7 s and 0.6 s. That is not worth a second
//! registration that would have to follow the daemon's in every later version.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read, Write};
use std::time::{Duration, Instant};

use super::error::DownloadError;
use super::limiter::{SlotRequest, TransferLimiter};
use super::meter::{Direction, ThroughputMeter};
use super::progress::{EVENT_BYTES, EVENT_INTERVAL};
use super::rejected::RejectedOutput;
use super::signing_key_check::{refused, remember};
use crate::daemon::{self, Client};
use crate::events::{Event, Observer};
use crate::failpoints::{Failpoint, failpoint};
use crate::gcrypt;
use crate::local::LocalStore;
use crate::local::{FixedError, RestoreError, Staging, Store, check_fixed_output, load_acl, read_derivation};
use crate::machine::Compressed;
use crate::state::transfers::TransferSlot;
use crate::store::derivation::FixedOutput;
use crate::store::export::{HashingReader, Trailer};
use crate::store::nar::{self, NarError};
use crate::store::path::StorePath;
use crate::store::signature::{Acl, PublicKey};
use crate::timing::{Pieces, Stopwatch};

/// The approximate time until a daemon's first signature.
const SIGNING_START: Duration = Duration::from_millis(100);

/// Outputs that have arrived and are accepted, but are not in the store yet. Dropping them removes their files.
pub struct Downloaded<'a> {
    local_store: &'a LocalStore<'a>,
    pub(super) staged: Vec<StagedOutput<'a>>,
}

/// An output that has arrived.
pub(super) struct StagedOutput<'a> {
    pub staging: Staging<'a>,
    /// Its metadata, with the signature of the machine.
    pub trailer: Trailer,
    /// The SHA-256 of its nar.
    pub nar_hash: [u8; 32],
}

impl Downloaded<'_> {
    /// Moves the outputs into the store.
    pub fn place(self) -> Result<(), RestoreError> {
        for StagedOutput { staging, .. } in self.staged {
            staging.install(&self.local_store.database)?;
            failpoint(Failpoint::Placed);
        }
        failpoint(Failpoint::AllPlaced);
        Ok(())
    }
}

/// The requested outputs, and what they may refer to.
pub struct Expected<'a> {
    pub derivation: &'a StorePath,
    /// The closure of the inputs of the build.
    pub inputs: &'a BTreeSet<StorePath>,
    /// The outputs to download.
    pub outputs: &'a BTreeSet<StorePath>,
}

/// Downloads `expected` from the machine of `client`, over a connection with this compression of downloads. The outputs
/// are restored in `staging`: the store, or a directory beside it.
pub fn download<'a, S: Read + Write>(
    client: &mut Client<S>,
    local_store: &'a LocalStore<'a>,
    staging: &'a Store,
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
    let mut bytes = 0;
    for output in expected.outputs {
        observer.observe(&Event::Downloading { machine, output });
        let staging = Staging::new(staging, output)?;
        failpoint(Failpoint::Staged);
        let exported = client.export_path(output, true, |item| {
            let progress = ProgressReader {
                item,
                machine,
                output,
                observer,
                meter: &mut meter,
                sum: &mut bytes,
                arrived: 0,
                reported: 0,
                reported_at: Instant::now(),
            };
            receive(progress, local_store, output, &allowed, derivation.fixed_output(), &acl, &staging)
        });
        match exported {
            Ok(Item { trailer, key, nar_hash }) => {
                remember(limiter.state, limiter.machine, &key);
                staged.push(StagedOutput { staging, trailer, nar_hash });
            }
            Err(daemon::ExportError::Daemon(error)) => return Err(DownloadError::Machine(error)),
            Err(daemon::ExportError::Consumer(Received::Refused(cause))) => {
                let (machine, cause) = (machine.to_owned(), refused(limiter.state, limiter.machine, cause));
                return Err(DownloadError::Refused { output: output.clone(), machine, cause: Box::new(cause) });
            }
            Err(daemon::ExportError::Consumer(Received::NotRestored(cause))) => {
                return Err(RestoreError::Write { path: output.clone(), cause }.into());
            }
        }
    }
    observer.observe(&Event::DownloadEnded { machine, items: staged.len(), bytes });
    meter.end(Direction::Receiving, expected.outputs.len(), SIGNING_START, limiter, compressed);
    Ok(Downloaded { local_store, staged })
}

/// Waits for a transfer slot, and keeps the connection alive meanwhile.
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

/// The reason why an item was not received.
enum Received {
    /// The item is at fault.
    Refused(RejectedOutput),
    /// This machine's file system is at fault.
    NotRestored(io::Error),
}

impl<T: Into<RejectedOutput>> From<T> for Received {
    fn from(rejected: T) -> Received {
        Received::Refused(rejected.into())
    }
}

/// An item that was received.
struct Item {
    trailer: Trailer,
    /// The key that signed it.
    key: PublicKey,
    nar_hash: [u8; 32],
}

/// Reads one item to its end, and restores it. `fixed` is its required content address,
/// if it is known beforehand.
fn receive<R: Read>(
    item: R,
    local_store: &LocalStore<'_>,
    output: &StorePath,
    allowed: &BTreeSet<StorePath>,
    fixed: Option<&FixedOutput>,
    acl: &Acl,
    staging: &Staging<'_>,
) -> Result<Item, Received> {
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
        // The link or the daemon failed: the client has the error.
        Err(error) => return Err(Received::NotRestored(error)),
    };
    stopwatch.lap_without(reader.into_inner().waiting.end("fetch"), "restore");
    if has_more {
        return Err(RejectedOutput::More.into());
    }
    if trailer.path != *output {
        return Err(RejectedOutput::OtherItem(trailer.path).into());
    }
    if let Some(stray) = trailer.references.iter().find(|reference| !allowed.contains(*reference)) {
        return Err(RejectedOutput::Reference(stray.clone()).into());
    }
    let signature = trailer.signature.as_deref().ok_or(RejectedOutput::NotSigned)?;
    let key = gcrypt::verify(signature, &digest, acl).map_err(RejectedOutput::Signature)?;
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
    Ok(Item { trailer, key, nar_hash })
}

/// A reader that measures how long it blocks.
struct Fetch<R> {
    item: R,
    waiting: Pieces,
}

impl<R: Read> Read for Fetch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.waiting.add(|| self.item.read(buffer))
    }
}

/// A reader that reports its progress.
struct ProgressReader<'a, R> {
    item: R,
    machine: &'a str,
    output: &'a StorePath,
    observer: &'a mut dyn Observer,
    meter: &'a mut ThroughputMeter,
    /// The bytes of all outputs.
    sum: &'a mut u64,
    arrived: u64,
    reported: u64,
    reported_at: Instant,
}

impl<R: Read> Read for ProgressReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.item.read(buffer)?;
        self.meter.pass(&buffer[..count]);
        self.arrived += count as u64;
        *self.sum += count as u64;
        failpoint(Failpoint::FirstBytes);
        if self.arrived >= self.reported + EVENT_BYTES || self.reported_at.elapsed() >= EVENT_INTERVAL {
            (self.reported, self.reported_at) = (self.arrived, Instant::now());
            let ProgressReader { machine, output, arrived: bytes, .. } = *self;
            self.observer.observe(&Event::Downloaded { machine, output, bytes });
        }
        Ok(count)
    }
}
