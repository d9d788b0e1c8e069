//! Sending a bundle over a long link: a program on the other side imports it.
//!
//! ImportPaths asks for 32 KiB at a time, one round trip each. Where these add up to more than it takes to start `guix archive
//! --import` over there, that answers the questions there, and the bundle goes over in one stream.

use std::io::{self, Read, Write};
use std::time::Duration;

use log::debug;

use super::add::QUESTION;
use super::counter::Counter;
use super::head::Head;
use super::send::{FAR, SendError};
use crate::gcrypt::SigningKey;
use crate::local::{Bundle, Item};
use crate::remote::Connection;
use crate::timing::Stopwatch;

/// How long it takes, about, to start a program on the other side.
const START: Duration = Duration::from_secs(1);

/// Whether the round trips of an import take longer than it takes to start a program over there.
pub(super) fn pays(items: &[Item], round_trip: Duration) -> bool {
    let bytes: u64 = items.iter().map(|item| item.nar_size).sum();
    let questions = bytes / QUESTION;
    round_trip >= FAR && round_trip.as_secs_f64() * questions as f64 > START.as_secs_f64()
}

/// Has a program on the other side import the items. False if that did not work.
pub(super) fn send(
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
