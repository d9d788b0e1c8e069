//! Sending the inputs that the build machine lacks.
//!
//! One query tells which inputs are missing. Those are sent (`transmit`), but for what another process is sending to
//! the same machine: that is waited for ([`turns`](super::turns)).
//!
//! Between the query and the build the machine's garbage collector may run. Items that were just sent are temporary
//! roots of the daemon that took them (`LocalStore::importPath` and the others add one for each). For those found
//! present, a small text item that refers to all inputs is added: adding it makes it a temporary root too, a root
//! protects what it refers to, and it can only be added while all of that is valid. So one round trip both protects the
//! inputs and notices if some were lost before; then everything starts again from the query. The item is garbage as
//! soon as the connection ends, and the same inputs give the same item.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::counter::Counter;
use super::head::Head;
use super::signer::Signer;
use super::transmit::transmit;
use super::turns::{Asked, Turns};
use crate::crash::{Point, point};
use crate::daemon::{self, Client};
use crate::events::Observer;
use crate::local::{Database, DatabaseError};
use crate::remote::DaemonStream;
use crate::store::path::StorePath;
use crate::timing::Stopwatch;

/// How often inputs may get lost while they are sent before the machine is given up.
const ATTEMPTS: usize = 3;

/// Name of the item that protects the inputs.
const ROOT: &str = "offload-inputs";

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
            SendError::Machine(_) | SendError::NotAuthorized { .. } | SendError::Lost => true,
            SendError::Database(_) | SendError::SigningKey(_) | SendError::Source(_) => false,
        }
    }
}

/// Sends those of `inputs` (a closure) that the machine behind `client` lacks. On return all of them are valid there,
/// and protected for as long as the connection lasts. `signer` is started as soon as it is clear that nothing has to be
/// imported.
pub fn send(
    client: &mut Client<DaemonStream>,
    head: &Head<'_>,
    inputs: &BTreeSet<StorePath>,
    signer: &mut Signer<'_>,
    turns: &Turns<'_>,
    observer: &mut dyn Observer,
) -> Result<(), SendError> {
    let tops = tops(&head.database, inputs)?;
    for _ in 0..ATTEMPTS {
        if supply(client, head, inputs, signer, turns, observer)? == Supplied::Lost {
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
fn supply(
    client: &mut Client<DaemonStream>,
    head: &Head<'_>,
    inputs: &BTreeSet<StorePath>,
    signer: &mut Signer<'_>,
    turns: &Turns<'_>,
    observer: &mut dyn Observer,
) -> Result<Supplied, SendError> {
    let mut wait = turns.wait();
    loop {
        let on_the_way = turns.on_the_way();
        signer.is_busy = !on_the_way.is_empty();
        let mut stopwatch = Stopwatch::start();
        let present = client.query_valid_paths(inputs).map_err(SendError::Machine)?;
        stopwatch.lap("query");
        let missing: BTreeSet<StorePath> = inputs.difference(&present).cloned().collect();
        if missing.is_empty() {
            signer.start(client);
            return Ok(Supplied::All);
        }
        let items = head.database.items(&missing)?;
        let (turn, items) = match turns.upload(items, &on_the_way, &mut wait, observer) {
            Asked::Granted(turn, items) => (turn, items),
            Asked::LookAgain => continue,
        };
        point(Point::UploadTurn);
        let is_all = items.len() == missing.len();
        let mut counter = Counter::start(&items, &turns.machine.name, observer);
        let count = items.len();
        let sent = transmit(client, head, items, signer, &mut counter);
        point(Point::Uploaded);
        if sent.is_ok() {
            counter.end(count, turns, signer.connection.compressed());
        }
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
fn lost(
    client: &mut Client<DaemonStream>,
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
