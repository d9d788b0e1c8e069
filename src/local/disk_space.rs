//! Room on the store's file system: an output is written only while a reserve stays free.
//!
//! A nar says how large a file is before its contents, so that a file which does not fit is refused before a byte of it
//! is written. Everything else, such as files without end, is found out by looking again after so many bytes and files.
//! The reserve lets the database and the builds beside this one go on: a hundredth of the file system, but 100 MiB at
//! the most, and as much of its inodes. Free is what is free for everybody (`f_bavail`), as for the builders of a local
//! build.
//!
//! Not counted: quotas, what others write between two looks, what a file system saves that compresses. One that does
//! not say how large it is has room for anything.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::StatVfs;
use thiserror::Error;

/// The reserve in bytes, at the most.
const RESERVE: u64 = 100 << 20;
/// The reserve in inodes, at the most.
const RESERVED_INODES: u64 = 10_000;
/// After how many bytes it is looked again.
pub(super) const STEP: u64 = 16 << 20;
/// What a file takes besides its contents, a directory or a link in all, in bytes: about.
const NODE: u64 = 4096;

/// How much may be written before it is looked again, in bytes and inodes.
#[derive(Default)]
pub(super) struct DiskReserve {
    bytes: u64,
    inodes: u64,
}

impl DiskReserve {
    /// Makes sure of a place for something new with `size` bytes in it, on the file system that `store` is on.
    pub(super) fn for_node(&mut self, store: BorrowedFd<'_>, size: u64) -> io::Result<()> {
        if self.inodes == 0 || self.bytes < size.saturating_add(NODE) {
            self.look(store, size.saturating_add(NODE))?;
        }
        self.inodes -= 1;
        self.bytes = self.bytes.saturating_sub(NODE);
        Ok(())
    }

    /// Makes sure that the next `count` bytes of a file may be written, of which `left` are to come with these.
    pub(super) fn for_bytes(&mut self, store: BorrowedFd<'_>, count: u64, left: u64) -> io::Result<()> {
        if self.bytes < count {
            self.look(store, left)?;
        }
        self.bytes = self.bytes.saturating_sub(count);
        Ok(())
    }

    fn look(&mut self, store: BorrowedFd<'_>, wanted: u64) -> io::Result<()> {
        let space = Space::from(rustix::fs::fstatvfs(store)?);
        *self = space.room(wanted).map_err(|no_room| io::Error::new(io::ErrorKind::StorageFull, no_room))?;
        Ok(())
    }
}

/// How many bytes are free on the file system of `directory`, and how many of them stay so; `None` where it does not count them.
pub(super) fn free_and_reserve(directory: &Path) -> io::Result<Option<(u64, u64)>> {
    let space = Space::from(rustix::fs::statvfs(directory)?);
    Ok(space.bytes.map(|Amount { total, free }| (free, RESERVE.min(total / 100))))
}

/// What a file system says of itself, in bytes and inodes; nothing where it does not count them.
#[derive(Clone, Copy)]
struct Space {
    bytes: Option<Amount>,
    inodes: Option<Amount>,
}

#[derive(Clone, Copy)]
struct Amount {
    total: u64,
    free: u64,
}

impl From<StatVfs> for Space {
    fn from(status: StatVfs) -> Space {
        let amount = |total: u64, free: u64, unit: u64| {
            (total > 0).then_some(Amount { total: total.saturating_mul(unit), free: free.saturating_mul(unit) })
        };
        Space {
            bytes: amount(status.f_blocks, status.f_bavail, status.f_frsize),
            inodes: amount(status.f_files, status.f_favail, 1),
        }
    }
}

impl Space {
    /// What may be written before it is looked again, if there is room for `wanted` bytes.
    fn room(&self, wanted: u64) -> Result<DiskReserve, NoRoom> {
        let mut room = DiskReserve { bytes: STEP, inodes: STEP / NODE };
        if let Some(Amount { total, free }) = self.bytes {
            let reserve = RESERVE.min(total / 100);
            let usable = free.saturating_sub(reserve);
            if wanted > usable {
                return Err(NoRoom::Bytes { wanted, free, reserve });
            }
            room.bytes = room.bytes.min(usable);
        }
        if let Some(Amount { total, free }) = self.inodes {
            let reserve = RESERVED_INODES.min(total / 100);
            if free <= reserve {
                return Err(NoRoom::Inodes { free, reserve });
            }
            room.inodes = room.inodes.min(free - reserve);
        }
        Ok(room)
    }
}

/// There is no room for what is to be written. That is nobody's fault: a machine that says too much cannot be told from
/// a build that makes much, and what another machine builds would be as large.
#[derive(Debug, PartialEq, Eq, Error)]
enum NoRoom {
    #[error(
        "{} KiB do not fit into the file system of the store, where {} KiB are free and {} KiB stay so",
        wanted.div_ceil(1024), free >> 10, reserve >> 10
    )]
    Bytes { wanted: u64, free: u64, reserve: u64 },
    #[error("the file system of the store has {free} free inodes, and {reserve} stay so")]
    Inodes { free: u64, reserve: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bytes(total: u64, free: u64) -> Space {
        Space { bytes: Some(Amount { total, free }), inodes: None }
    }

    #[test]
    fn a_reserve_stays_free() {
        for (total, reserve) in [(50 * MIB, MIB / 2), (1 << 40, 100 * MIB)] {
            for free in [0, reserve - 1, reserve, reserve + 4095] {
                let no_room = bytes(total, free).room(4096).err().unwrap();
                assert_eq!(no_room, NoRoom::Bytes { wanted: 4096, free, reserve });
            }
            assert_eq!(bytes(total, reserve + 4096).room(4096).ok().unwrap().bytes, 4096);
        }
        let inodes = |free| Space { bytes: None, inodes: Some(Amount { total: 1000, free }) }.room(MIB);
        assert_eq!(inodes(10).err().unwrap(), NoRoom::Inodes { free: 10, reserve: 10 });
        assert_eq!(inodes(11).ok().unwrap().inodes, 1);
    }

    #[test]
    fn what_fits_is_looked_at_again_after_a_step() {
        let room = bytes(1 << 40, 1 << 39).room(1 << 38).ok().unwrap();
        assert_eq!((room.bytes, room.inodes), (STEP, 4096));
    }

    #[test]
    fn a_file_system_that_does_not_count_has_room() {
        assert!(Space { bytes: None, inodes: None }.room(u64::MAX).is_ok());
    }

    #[test]
    fn it_is_looked_when_what_was_seen_is_used_up() {
        let directory = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(directory.path()).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&file);
        let mut room = DiskReserve { bytes: 3 * NODE, inodes: 2 };
        room.for_node(fd, NODE).unwrap();
        assert_eq!((room.bytes, room.inodes), (2 * NODE, 1));
        room.for_bytes(fd, NODE, NODE).unwrap();
        assert_eq!((room.bytes, room.inodes), (NODE, 1));
        let error = room.for_node(fd, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(matches!(error.downcast::<NoRoom>(), Ok(NoRoom::Bytes { .. })));
        assert!(room.for_bytes(fd, 2 * NODE, u64::MAX).is_err());
        room.for_node(fd, 0).unwrap();
        // By inodes, of which none are left.
        room.bytes = NODE;
        room.for_node(fd, 0).unwrap();
        assert!(room.bytes > NODE, "{}", room.bytes);
    }
}
