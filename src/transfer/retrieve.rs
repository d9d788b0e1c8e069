//! Retrieving the outputs.
//!
//! Each output comes as one signed item (ExportPath), which is restored aside while it arrives and accepted only whole:
//! it must be the output that was asked for, refer to nothing but the inputs and the derivation's outputs, and be
//! signed by an authorized key; a fixed output must have its hash. Only when all outputs are accepted are they moved to
//! their places ([`Retrieved::place`]).
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

use super::gauge::{Gauge, Way};
use super::head::Head;
use super::refusal::Refusal;
use super::turns::{Asked, Turns};
use crate::crash::{Point, point};
use crate::daemon::{self, Client};
use crate::events::{Event, Observer};
use crate::gcrypt;
use crate::local::{
    AclError, FixedError, ReadDerivationError, RestoreError, Staging, check_fixed_output, load_acl, read_derivation,
};
use crate::machine::Compressed;
use crate::state::transfers::Turn;
use crate::store::derivation::FixedOutput;
use crate::store::export::{HashingReader, Trailer};
use crate::store::nar::{self, NarError};
use crate::store::path::StorePath;
use crate::store::signature::Acl;
use crate::timing::{Pieces, Stopwatch};

/// How many bytes arrive between two events.
const PROGRESS: u64 = 16 << 20;

/// And how much time at the most, as long as any are.
const SLOW: Duration = Duration::from_secs(1);

/// How long the daemon may need, about, before it makes its first signature.
const SIGNING: Duration = Duration::from_millis(100);

/// Outputs that have arrived and been accepted, and are not in their places yet. Dropping them removes them.
pub struct Retrieved<'a> {
    head: &'a Head<'a>,
    staged: Vec<Staging<'a>>,
}

impl Retrieved<'_> {
    /// Moves the outputs to their places in the store.
    pub fn place(self) -> Result<(), RestoreError> {
        for staging in self.staged {
            staging.install(&self.head.database)?;
            point(Point::Placed);
        }
        point(Point::AllPlaced);
        Ok(())
    }
}

/// Why outputs could not be retrieved.
#[derive(Debug, thiserror::Error)]
pub enum RetrieveError {
    #[error(transparent)]
    Derivation(#[from] ReadDerivationError),
    #[error(transparent)]
    Acl(#[from] AclError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The build machine's daemon, or the way there.
    #[error(transparent)]
    Machine(daemon::Error),
    /// What arrived is not acceptable.
    #[error("'{output}' as it came from '{machine}' is not acceptable: {cause}")]
    Refused { output: StorePath, machine: String, cause: Box<Refusal> },
}

impl RetrieveError {
    /// Whether another machine may do better.
    pub fn is_of_machine(&self) -> bool {
        match self {
            RetrieveError::Machine(_) | RetrieveError::Refused { .. } => true,
            RetrieveError::Derivation(_) | RetrieveError::Acl(_) | RetrieveError::Restore(_) => false,
        }
    }
}

/// What is fetched, and what it may refer to.
pub struct Wanted<'a> {
    pub derivation: &'a StorePath,
    /// The closure of what the build needed.
    pub inputs: &'a BTreeSet<StorePath>,
    /// The outputs to fetch.
    pub outputs: &'a BTreeSet<StorePath>,
}

/// Fetches `wanted` from the machine behind `client`, over a connection that is `compressed` in this way.
pub fn retrieve<'a, S: Read + Write>(
    client: &mut Client<S>,
    head: &'a Head<'a>,
    wanted: &Wanted<'_>,
    compressed: Compressed,
    turns: &Turns<'_>,
    observer: &mut dyn Observer,
) -> Result<Retrieved<'a>, RetrieveError> {
    let derivation = read_derivation(&head.directories.store, wanted.derivation)?;
    let acl = load_acl(&head.directories.acl())?;
    let mut allowed = wanted.inputs.clone();
    allowed.extend(derivation.output_paths().cloned());

    let machine = turns.machine.name.as_str();
    let _turn = turn(client, wanted, turns, observer)?;
    point(Point::DownloadTurn);
    let mut gauge = Gauge::start();
    let mut staged = Vec::new();
    for output in wanted.outputs {
        observer.observe(&Event::Retrieving { machine, output });
        let staging = Staging::new(&head.store, output)?;
        point(Point::Staged);
        let exported = client.export_path(output, true, |item| {
            let progress = Progress {
                item,
                machine,
                output,
                observer,
                gauge: &mut gauge,
                arrived: 0,
                told: 0,
                told_at: Instant::now(),
            };
            receive(progress, head, output, &allowed, derivation.fixed_output(), &acl, &staging)
        });
        match exported {
            Ok(()) => staged.push(staging),
            Err(daemon::ExportError::Daemon(error)) => return Err(RetrieveError::Machine(error)),
            Err(daemon::ExportError::Consumer(Received::Refused(cause))) => {
                let machine = machine.to_owned();
                return Err(RetrieveError::Refused { output: output.clone(), machine, cause: Box::new(cause) });
            }
            Err(daemon::ExportError::Consumer(Received::NotRestored(cause))) => {
                return Err(RestoreError::Write { path: output.clone(), cause }.into());
            }
        }
    }
    gauge.end(Way::Receiving, wanted.outputs.len(), SIGNING, turns, compressed);
    Ok(Retrieved { head, staged })
}

/// Waits for a turn, without letting the connection fall silent.
fn turn<S: Read + Write>(
    client: &mut Client<S>,
    wanted: &Wanted<'_>,
    turns: &Turns<'_>,
    observer: &mut dyn Observer,
) -> Result<Option<Turn>, RetrieveError> {
    let mut wait = turns.wait();
    loop {
        match turns.download(&mut wait, observer) {
            Asked::Granted(turn, ()) => return Ok(turn),
            Asked::LookAgain => drop(client.query_valid_paths(wanted.outputs).map_err(RetrieveError::Machine)?),
        }
    }
}

/// Why one item was not received.
enum Received {
    /// It is at fault.
    Refused(Refusal),
    /// This machine's file system is.
    NotRestored(io::Error),
}

impl<T: Into<Refusal>> From<T> for Received {
    fn from(refusal: T) -> Received {
        Received::Refused(refusal.into())
    }
}

/// Reads one item to its end, and restores it. `fixed`: what it must be, if that is known beforehand.
fn receive<R: Read>(
    item: R,
    head: &Head<'_>,
    output: &StorePath,
    allowed: &BTreeSet<StorePath>,
    fixed: Option<&FixedOutput>,
    acl: &Acl,
    staging: &Staging<'_>,
) -> Result<(), Received> {
    let mut stopwatch = Stopwatch::start();
    let mut reader = HashingReader::new(Fetch { item, waiting: Pieces::default() });
    reader.reset();
    match nar::read(&mut reader, &mut staging.restore()) {
        Ok(_) => {}
        Err(NarError::Visitor { source, .. }) => return Err(Received::NotRestored(source)),
        Err(error) => return Err(Refusal::Nar(error).into()),
    }
    point(Point::Restored);
    let nar_hash = reader.digest();
    let (trailer, digest) = Trailer::read(&head.directories.store, &mut reader).map_err(Refusal::from)?;
    let has_more = match reader.fill_buf() {
        Ok(rest) => !rest.is_empty(),
        // Of the link or the daemon: the client tells it.
        Err(error) => return Err(Received::NotRestored(error)),
    };
    stopwatch.lap_without(reader.into_inner().waiting.end("fetch"), "restore");
    if has_more {
        return Err(Refusal::More.into());
    }
    if trailer.path != *output {
        return Err(Refusal::OtherItem(trailer.path).into());
    }
    if let Some(stray) = trailer.references.into_iter().find(|reference| !allowed.contains(reference)) {
        return Err(Refusal::Reference(stray).into());
    }
    let signature = trailer.signature.ok_or(Refusal::NotSigned)?;
    gcrypt::verify(&signature, &digest, acl).map_err(Refusal::Signature)?;
    stopwatch.lap("verify");
    if let Some(fixed) = fixed {
        check_fixed_output(staging, &nar_hash, fixed).map_err(|error| match error {
            FixedError::Mismatch { .. } | FixedError::NotPlain { .. } => Received::Refused(Refusal::Fixed(error)),
            FixedError::Read { cause, .. } => Received::NotRestored(cause),
            FixedError::Digest(cause) => Received::NotRestored(io::Error::other(cause)),
        })?;
    }
    point(Point::Verified);
    Ok(())
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
struct Progress<'a, R> {
    item: R,
    machine: &'a str,
    output: &'a StorePath,
    observer: &'a mut dyn Observer,
    gauge: &'a mut Gauge,
    arrived: u64,
    told: u64,
    told_at: Instant,
}

impl<R: Read> Read for Progress<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.item.read(buffer)?;
        self.gauge.pass(&buffer[..count]);
        self.arrived += count as u64;
        point(Point::FirstBytes);
        if self.arrived >= self.told + PROGRESS || self.told_at.elapsed() >= SLOW {
            (self.told, self.told_at) = (self.arrived, Instant::now());
            let Progress { machine, output, arrived: bytes, .. } = *self;
            self.observer.observe(&Event::Retrieved { machine, output, bytes });
        }
        Ok(count)
    }
}
