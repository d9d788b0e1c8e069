//! Upload of items to a machine whose daemon lacks them.
//!
//! Items whose paths follow from their contents are added one by one if that is faster (`add_items`). The others are
//! sent as one signed bundle, references first. The machine's daemon requests the bundle piece by piece; over a link
//! with high latency a program on the machine serves these requests ([`ArchiveImport`]). Memory does not grow with the
//! size of the bundle.

use std::io::{self, Read, Write};
use std::time::Duration;

use log::debug;

use super::add_items::{self, Plan};
use super::error::UploadError;
use super::progress::Progress;
use super::signing_connection::SigningConnection;
use crate::daemon::{self, Client};
use crate::gcrypt::SigningKey;
use crate::local::LocalStore;
use crate::local::{Bundle, Item};
use crate::remote::{ArchiveImport, DaemonStream};
use crate::timing::{Pieces, Stopwatch};

/// With a longer round trip the latency, and not the processors, bounds an import.
const STREAM_MIN_RTT: Duration = Duration::from_micros(500);
/// The approximate time for starting a program on the build machine.
const PROGRAM_START: Duration = Duration::from_secs(1);

/// The message of the daemon's helper `guix authenticate` about a key that is not in its access-control list.
pub(super) const UNAUTHORIZED_KEY_ERROR: &str = "unauthorized public key";

/// Sends items, which are sorted with their references first.
pub(super) fn send_items(
    client: &mut Client<DaemonStream>,
    local_store: &LocalStore<'_>,
    items: Vec<Item>,
    signing_connection: &mut SigningConnection<'_>,
    progress: &mut Progress<'_>,
) -> Result<(), UploadError> {
    let mut stopwatch = Stopwatch::start();
    let Plan { added, bundled } = add_items::plan(&local_store.store, items, client.round_trip());
    if bundled.is_empty() {
        signing_connection.start(client);
    }
    for (item, address) in &added {
        add_items::add(client, &local_store.store, item, *address, progress)?;
    }
    stopwatch.lap("add");
    if bundled.is_empty() {
        return Ok(());
    }
    let before = progress.sent();
    if is_long(&bundled, client.round_trip()) && stream(client, local_store, &bundled, progress)? {
        return Ok(());
    }
    progress.again(before);
    import(client, local_store, bundled, progress)
}

/// Returns whether the round trips of an import take longer than starting a program on the machine.
fn is_long(items: &[Item], round_trip: Duration) -> bool {
    let bytes: u64 = items.iter().map(|item| item.nar_size).sum();
    let questions = bytes / add_items::IMPORT_CHUNK;
    round_trip >= STREAM_MIN_RTT && round_trip.as_secs_f64() * questions as f64 > PROGRAM_START.as_secs_f64()
}

/// Imports the items through a program on the machine. Returns false if the program does not work but the link does.
fn stream(
    client: &mut Client<DaemonStream>,
    local_store: &LocalStore<'_>,
    items: &[Item],
    progress: &mut Progress<'_>,
) -> Result<bool, UploadError> {
    let mut stopwatch = Stopwatch::start();
    let mut archive_import = match client.stream_mut().archive_import() {
        Ok(Some(archive_import)) => archive_import,
        Ok(None) => return Ok(false),
        Err(error) => {
            debug!("no program to import with: {error}");
            return Ok(false);
        }
    };
    let key = SigningKey::load(&local_store.directories.signing_key())?;
    progress.spent(PROGRAM_START);
    let bundle = Bundle::new(&local_store.store, items.to_vec(), |digest| key.sign(digest).map_err(io::Error::other));
    let mut bundle = progress.reader(bundle);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let size = match bundle.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => size,
            Err(error) => return Err(UploadError::Source(error)),
        };
        match archive_import.write_all(&buffer[..size]) {
            Err(error) if ArchiveImport::has_ended(&error) => {
                debug!("the program on the machine ended early");
                return Ok(false);
            }
            result => result.map_err(lost_link)?,
        }
    }
    let is_imported = archive_import.finish().map_err(lost_link)?;
    stopwatch.lap("stream");
    if !is_imported {
        debug!("the program on the machine did not import");
    }
    Ok(is_imported)
}

fn lost_link(cause: io::Error) -> UploadError {
    UploadError::Machine(daemon::Error::Link { operation: "guix archive --import", cause })
}

fn import(
    client: &mut Client<DaemonStream>,
    local_store: &LocalStore<'_>,
    items: Vec<Item>,
    progress: &mut Progress<'_>,
) -> Result<(), UploadError> {
    let key = SigningKey::load(&local_store.directories.signing_key())?;
    let (mut stopwatch, mut signing) = (Stopwatch::start(), Pieces::default());
    let sign = |digest: &[u8; 32]| signing.add(|| key.sign(digest)).map_err(io::Error::other);
    let imported = client.import_paths(&mut progress.reader(Bundle::new(&local_store.store, items, sign)));
    stopwatch.lap_without(signing.end("sign"), "send");
    match imported {
        Ok(_) => Ok(()),
        Err(daemon::Error::Source { cause, .. }) => Err(UploadError::Source(cause)),
        Err(daemon::Error::Daemon { message, .. }) if message.contains(UNAUTHORIZED_KEY_ERROR) => {
            Err(UploadError::NotAuthorized { key: local_store.directories.signing_key().with_extension("pub") })
        }
        Err(error) => Err(UploadError::Machine(error)),
    }
}
