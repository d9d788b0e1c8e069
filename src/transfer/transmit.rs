//! Transmitting items to a machine whose daemon lacks them.
//!
//! Those whose paths follow from their contents are added one by one where that is faster (`add`); the others go over
//! as one signed bundle, references first, which the machine's daemon pulls piece by piece; over a long link a program
//! over there answers it ([`Importer`]). Memory does not grow with what is sent.

use std::io::{self, Read, Write};
use std::time::Duration;

use log::debug;

use super::add::{self, Plan};
use super::counter::Counter;
use super::head::Head;
use super::send::SendError;
use super::signer::Signer;
use crate::daemon::{self, Client};
use crate::gcrypt::SigningKey;
use crate::local::{Bundle, Item};
use crate::remote::{DaemonStream, Importer};
use crate::timing::{Pieces, Stopwatch};

/// From this time of a round trip on, the questions of an import are a matter of the link, and not of the processors.
const APART: Duration = Duration::from_micros(500);
/// How long it takes, about, to start a program on the other side.
const START: Duration = Duration::from_secs(1);

/// What the daemon's helper `guix authenticate` says of a key that is not in its access-control list.
pub(super) const UNAUTHORIZED: &str = "unauthorized public key";

/// Sends items, which come with their references first.
pub(super) fn transmit(
    client: &mut Client<DaemonStream>,
    head: &Head<'_>,
    items: Vec<Item>,
    signer: &mut Signer<'_>,
    counter: &mut Counter<'_>,
) -> Result<(), SendError> {
    let mut stopwatch = Stopwatch::start();
    let Plan { added, bundled } = add::plan(&head.store, items, client.round_trip());
    if bundled.is_empty() {
        signer.start(client);
    }
    for (item, address) in &added {
        add::add(client, &head.store, item, *address, counter)?;
    }
    stopwatch.lap("add");
    if bundled.is_empty() {
        return Ok(());
    }
    let before = counter.sent();
    if is_long(&bundled, client.round_trip()) && stream(client, head, &bundled, counter)? {
        return Ok(());
    }
    counter.again(before);
    import(client, head, bundled, counter)
}

/// Whether the round trips of an import take longer than it takes to start a program over there.
fn is_long(items: &[Item], round_trip: Duration) -> bool {
    let bytes: u64 = items.iter().map(|item| item.nar_size).sum();
    let questions = bytes / add::QUESTION;
    round_trip >= APART && round_trip.as_secs_f64() * questions as f64 > START.as_secs_f64()
}

/// Has a program on the other side import the items. False if that did not work and nothing else is wrong.
fn stream(
    client: &mut Client<DaemonStream>,
    head: &Head<'_>,
    items: &[Item],
    counter: &mut Counter<'_>,
) -> Result<bool, SendError> {
    let mut stopwatch = Stopwatch::start();
    let mut importer = match client.stream_mut().importer() {
        Ok(Some(importer)) => importer,
        Ok(None) => return Ok(false),
        Err(error) => {
            debug!("no program to import with: {error}");
            return Ok(false);
        }
    };
    let key = SigningKey::load(&head.directories.signing_key())?;
    counter.spent(START);
    let bundle = Bundle::new(&head.store, items.to_vec(), |digest| key.sign(digest).map_err(io::Error::other));
    let mut bundle = counter.reader(bundle);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let size = match bundle.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => size,
            Err(error) => return Err(SendError::Source(error)),
        };
        match importer.write_all(&buffer[..size]) {
            Err(error) if Importer::has_ended(&error) => {
                debug!("the program over there ended early");
                return Ok(false);
            }
            result => result.map_err(lost_link)?,
        }
    }
    let is_imported = importer.finish().map_err(lost_link)?;
    stopwatch.lap("stream");
    if !is_imported {
        debug!("the program over there did not import");
    }
    Ok(is_imported)
}

fn lost_link(cause: io::Error) -> SendError {
    SendError::Machine(daemon::Error::Link { operation: "guix archive --import", cause })
}

fn import(
    client: &mut Client<DaemonStream>,
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
