//! Sending the inputs that the build machine lacks.
//!
//! One query tells which inputs are missing. Those whose paths follow from their contents are added one by one where that is
//! faster (`add`); the others go over as one signed bundle, references first, which the machine's daemon pulls piece by
//! piece; over a long link a program over there answers it ([`Importer`](crate::remote::Importer)). Memory does not grow with
//! what is sent. What another process is sending to the same machine is waited for
//! ([`turns`](super::turns)).
//!
//! Between the query and the build the machine's garbage collector may run. Items that were just sent are temporary
//! roots of the daemon that took them (`LocalStore::importPath` and the others add one for each). For those found present, a
//! small text item that refers to all inputs is added: adding it makes it a temporary root too, a root protects what it
//! refers to, and it can only be added while all of that is valid. So one round trip both protects the inputs and notices
//! if some were lost before; then everything starts again from the query. The item is garbage as soon as the connection
//! ends, and the same inputs give the same item.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::debug;

use super::add::{self, Plan};
use super::head::Head;
use super::turns::{Asked, Turns};
use crate::daemon::{self, Client};
use crate::events::{Event, Observer};
use crate::gcrypt::SigningKey;
use crate::local::{Bundle, Database, DatabaseError, Item};
use crate::remote::Connection;
use crate::store::path::StorePath;
use crate::timing::{Pieces, Stopwatch};

/// How often inputs may get lost while they are sent before the machine is given up.
const ATTEMPTS: usize = 3;

/// Name of the item that protects the inputs.
const ROOT: &str = "offload-inputs";

/// From this time of a round trip on, a link is long.
pub(super) const FAR: Duration = Duration::from_millis(5);
/// How long it takes, about, to start a program on the other side.
const START: Duration = Duration::from_secs(1);

/// How many bytes are sent between two events.
const PROGRESS: u64 = 16 << 20;

/// And how much time at the most, as long as any are.
const SLOW: Duration = Duration::from_secs(1);

/// What the daemon's helper `guix authenticate` says of a key that is not in its access-control list.
pub(super) const UNAUTHORIZED: &str = "unauthorized public key";

/// Why inputs could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    SigningKey(#[from] crate::gcrypt::Error),
    /// An item of this store cannot be read, or is damaged.
    #[error("{0}")]
    Source(io::Error),
    /// The build machine's daemon, or the way there.
    #[error(transparent)]
    Machine(daemon::Error),
    /// Others kept sending all the time.
    #[error("no turn to send inputs came for {} s", .0.as_secs())]
    NoTurn(Duration),
    /// It trusts nothing that this machine signs.
    #[error(
        "its daemon does not trust what this machine signs\n  hint: copy '{}' there, and as root: \
         `guix archive --authorize < signing-key.pub`",
        key.display()
    )]
    NotAuthorized { key: PathBuf },
    /// Inputs keep disappearing from its store.
    #[error("inputs were lost {ATTEMPTS} times while they were sent; is its garbage collector running all the time?")]
    Lost,
}

impl SendError {
    /// Whether another machine may do better.
    pub fn is_of_machine(&self) -> bool {
        match self {
            SendError::Machine(_) | SendError::NotAuthorized { .. } | SendError::NoTurn(_) | SendError::Lost => true,
            SendError::Database(_) | SendError::SigningKey(_) | SendError::Source(_) => false,
        }
    }
}

/// Sends those of `inputs` (a closure) that the machine behind `client` lacks. On return all of them are valid there, and
/// protected for as long as the connection lasts.
pub fn send<S: Read + Write>(
    client: &mut Client<S>,
    head: &Head<'_>,
    inputs: &BTreeSet<StorePath>,
    connection: &Connection,
    turns: &Turns<'_>,
    observer: &mut dyn Observer,
) -> Result<(), SendError> {
    let tops = tops(&head.database, inputs)?;
    for _ in 0..ATTEMPTS {
        if supply(client, head, inputs, connection, turns, observer)? == Supplied::Lost {
            continue;
        }
        let mut stopwatch = Stopwatch::start();
        let protected = client.add_text_to_store(ROOT, b"", &tops);
        stopwatch.lap("protect");
        match protected {
            Ok(_) => return Ok(()),
            Err(daemon::Error::Daemon { .. }) if lost(client, inputs, &BTreeSet::new())? => {}
            Err(error) => return Err(SendError::Machine(error)),
        }
    }
    Err(SendError::Lost)
}

#[derive(PartialEq)]
enum Supplied {
    /// All inputs were there, or were sent.
    All,
    /// Some got lost meanwhile.
    Lost,
}

/// Sends what is missing, with others that may be sending some of it.
fn supply<S: Read + Write>(
    client: &mut Client<S>,
    head: &Head<'_>,
    inputs: &BTreeSet<StorePath>,
    connection: &Connection,
    turns: &Turns<'_>,
    observer: &mut dyn Observer,
) -> Result<Supplied, SendError> {
    let mut wait = turns.wait();
    loop {
        let on_the_way = turns.on_the_way();
        let mut stopwatch = Stopwatch::start();
        let present = client.query_valid_paths(inputs).map_err(SendError::Machine)?;
        stopwatch.lap("query");
        let missing: BTreeSet<StorePath> = inputs.difference(&present).cloned().collect();
        if missing.is_empty() {
            return Ok(Supplied::All);
        }
        let items = head.database.items(&missing)?;
        let (turn, items) = match turns.upload(items, &on_the_way, &mut wait, observer) {
            Asked::Granted(turn, items) => (turn, items),
            Asked::LookAgain => continue,
            Asked::TooLong(limit) => return Err(SendError::NoTurn(limit)),
        };
        let is_all = items.len() == missing.len();
        let mut counter = Counter::start(&items, &turns.machine.name, observer);
        let sent = transmit(client, head, items, connection, &mut counter);
        drop(turn);
        match sent {
            Ok(()) if is_all => return Ok(Supplied::All),
            Ok(()) => wait = turns.wait(),
            // What the items refer to was there a moment ago.
            Err(SendError::Machine(daemon::Error::Daemon { .. })) if lost(client, inputs, &missing)? => {
                return Ok(Supplied::Lost);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Those of `inputs` that no other of them refers to: what protects these protects all.
fn tops(database: &Database, inputs: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, SendError> {
    let mut tops = inputs.clone();
    for item in database.items(inputs)? {
        for reference in item.references.iter().filter(|reference| **reference != item.path) {
            tops.remove(reference);
        }
    }
    Ok(tops)
}

/// Whether any of `inputs`, but for `missing`, is gone.
fn lost<S: Read + Write>(
    client: &mut Client<S>,
    inputs: &BTreeSet<StorePath>,
    missing: &BTreeSet<StorePath>,
) -> Result<bool, SendError> {
    if !client.is_usable() {
        return Ok(false);
    }
    let expected: BTreeSet<StorePath> = inputs.difference(missing).cloned().collect();
    let present = client.query_valid_paths(&expected).map_err(SendError::Machine)?;
    Ok(present.len() < expected.len())
}

/// Sends items, which come with their references first.
fn transmit<S: Read + Write>(
    client: &mut Client<S>,
    head: &Head<'_>,
    items: Vec<Item>,
    connection: &Connection,
    counter: &mut Counter<'_>,
) -> Result<(), SendError> {
    let mut stopwatch = Stopwatch::start();
    let Plan { added, bundled } = add::plan(&head.store, items, client.round_trip());
    for (item, address) in &added {
        add::add(client, &head.store, item, *address, counter)?;
    }
    stopwatch.lap("add");
    if bundled.is_empty() {
        return Ok(());
    }
    let before = counter.sent;
    if is_long(&bundled, client.round_trip()) && stream(head, &bundled, connection, counter)? {
        return Ok(());
    }
    counter.sent = before;
    import(client, head, bundled, counter)
}

/// Whether the round trips of an import take longer than it takes to start a program over there.
fn is_long(items: &[Item], round_trip: Duration) -> bool {
    let bytes: u64 = items.iter().map(|item| item.nar_size).sum();
    let questions = bytes / add::QUESTION;
    round_trip >= FAR && round_trip.as_secs_f64() * questions as f64 > START.as_secs_f64()
}

/// Has a program on the other side import the items. False if that did not work.
fn stream(
    head: &Head<'_>,
    items: &[Item],
    connection: &Connection,
    counter: &mut Counter<'_>,
) -> Result<bool, SendError> {
    let mut stopwatch = Stopwatch::start();
    let mut importer = match connection.importer() {
        Ok(Some(importer)) => importer,
        Ok(None) => return Ok(false),
        Err(error) => {
            debug!("no program to import with: {error}");
            return Ok(false);
        }
    };
    let key = SigningKey::load(&head.directories.signing_key())?;
    let bundle = Bundle::new(&head.store, items.to_vec(), |digest| key.sign(digest).map_err(io::Error::other));
    let mut bundle = counter.reader(bundle);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let size = match bundle.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => size,
            Err(error) => return Err(SendError::Source(error)),
        };
        if let Err(error) = importer.write_all(&buffer[..size]) {
            debug!("importing ended early: {error}");
            return Ok(false);
        }
    }
    let imported = importer.finish();
    stopwatch.lap("stream");
    Ok(imported.unwrap_or_else(|error| {
        debug!("importing failed: {error}");
        false
    }))
}

fn import<S: Read + Write>(
    client: &mut Client<S>,
    head: &Head<'_>,
    items: Vec<Item>,
    counter: &mut Counter<'_>,
) -> Result<(), SendError> {
    let key = SigningKey::load(&head.directories.signing_key())?;
    let (mut stopwatch, mut signing) = (Stopwatch::start(), Pieces::default());
    let sign = |digest: &[u8; 32]| signing.add(|| key.sign(digest)).map_err(io::Error::other);
    let imported = client.import_paths(&mut counter.reader(Bundle::new(&head.store, items, sign)));
    stopwatch.lap_without(signing.end("sign"), "send");
    match imported {
        Ok(_) => Ok(()),
        Err(daemon::Error::Source { cause, .. }) => Err(SendError::Source(cause)),
        Err(daemon::Error::Daemon { message, .. }) if message.contains(UNAUTHORIZED) => {
            Err(SendError::NotAuthorized { key: head.directories.signing_key().with_extension("pub") })
        }
        Err(error) => Err(SendError::Machine(error)),
    }
}

/// Counts what is sent, and tells about it.
pub(super) struct Counter<'a> {
    machine: &'a str,
    observer: &'a mut dyn Observer,
    sent: u64,
    told: u64,
    told_at: Instant,
    of: u64,
}

impl<'a> Counter<'a> {
    fn start(items: &[Item], machine: &'a str, observer: &'a mut dyn Observer) -> Counter<'a> {
        let bytes = items.iter().map(|item| item.nar_size).sum();
        observer.observe(&Event::Sending { machine, items: items.len(), bytes });
        Counter { machine, observer, sent: 0, told: 0, told_at: Instant::now(), of: bytes }
    }

    pub fn count(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.sent >= self.told + PROGRESS || self.told_at.elapsed() >= SLOW {
            (self.told, self.told_at) = (self.sent, Instant::now());
            self.observer.observe(&Event::Sent { machine: self.machine, bytes: self.sent, of: self.of });
        }
    }

    /// Counts what is read from `source`.
    pub fn reader<R: Read>(&mut self, source: R) -> Counted<'_, 'a, R> {
        Counted { source, counter: self }
    }
}

pub(super) struct Counted<'c, 'a, R> {
    source: R,
    counter: &'c mut Counter<'a>,
}

impl<R: Read> Read for Counted<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.counter.count(count);
        Ok(count)
    }
}
