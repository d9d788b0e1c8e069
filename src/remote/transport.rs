//! What carries the bytes of a stream to a daemon: a channel of this process, or the connection of another one.
//!
//! OpenSSH's `ChannelTimeout` closes a channel on which nothing has moved for a number of seconds, and keeps the connection.
//! It sends the end of the data and the closing of the channel together. When the daemon ends, its socket gives an end of
//! the data alone, and the channel stays open: so the two can be told apart. Source: `channel_force_close` in OpenSSH's
//! `channels.c`.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::persisted_stream::PersistedStream;
use crate::ssh::Channel;

/// A channel that moved data within this time was not closed for its silence. Servers count whole seconds.
pub(super) const CUT_SILENCE: Duration = Duration::from_secs(1);

/// How long the closing of a channel may come after the end of its data.
pub(super) const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// What the bytes go through.
pub(super) enum Transport {
    Channel(Channel),
    /// A connection that was kept from a build before.
    Persisted(PersistedStream),
}

impl Transport {
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        match self {
            Transport::Channel(channel) => channel.set_deadline(deadline),
            Transport::Persisted(persisted) => persisted.set_deadline(deadline),
        }
    }

    pub(super) fn wait_for_room(&mut self) -> io::Result<()> {
        match self {
            Transport::Channel(channel) => channel.wait_for_room(),
            // A write there can be interrupted and does this itself.
            Transport::Persisted(_) => Ok(()),
        }
    }

    /// Whether the server closed the channel of its own accord. Only of one that is at its end.
    pub(super) fn was_closed_by_server(&mut self) -> bool {
        match self {
            Transport::Channel(channel) => channel.was_closed_by_server(CLOSE_WAIT),
            Transport::Persisted(persisted) => persisted.was_closed_by_server(),
        }
    }

    /// The same, going by what has arrived.
    pub(super) fn is_closed_by_server(&mut self) -> bool {
        match self {
            Transport::Channel(channel) => channel.is_closed_by_server(),
            Transport::Persisted(_) => false,
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Channel(channel) => channel.read(buffer),
            Transport::Persisted(persisted) => persisted.read(buffer),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Channel(channel) => channel.write(bytes),
            Transport::Persisted(persisted) => persisted.write(bytes),
        }
    }
}
