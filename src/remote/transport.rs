//! What the bytes of a stream to a daemon go through.

use std::io::{self, Read, Write};
use std::time::Instant;

use super::persisted_stream::PersistedStream;
use crate::ssh::Channel;

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
