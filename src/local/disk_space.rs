//! Disk space on the store's file system: an output is written only while a reserve stays free.
//!
//! A nar has the size of a file before its contents, so a file that does not fit is refused before its first byte is
//! written. For everything else, such as an endless number of files, the free space is checked again after so many
//! bytes and files. The reserve lets the database and concurrent builds continue: a hundredth of the file system, at
//! most 100 MiB, and the same share of its inodes. Free means free for all users (`f_bavail`), as for the builders of a
//! local build.
//!
//! The check ignores quotas, writes of other processes between two checks, and the savings of a compressing file system. A
//! file system that does not report its size always has room.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::StatVfs;
use thiserror::Error;

/// The maximum of the reserve, in bytes.
const MAX_RESERVE_BYTES: u64 = 100 << 20;
/// The maximum of the reserve, in inodes.
const RESERVED_INODES: u64 = 10_000;
/// The bytes that may be written between two checks.
pub(super) const CHECK_EVERY_BYTES: u64 = 16 << 20;
/// The approximate bytes of a file without its contents, or of a whole directory or link.
const BYTES_PER_INODE: u64 = 4096;

/// The bytes and inodes that may be written before the next check.
#[derive(Default)]
pub(super) struct DiskReserve {
    bytes: u64,
    inodes: u64,
}

impl DiskReserve {
    /// Reserves room for a new file, directory or link with `size` bytes, on the file system of `store`.
    pub(super) fn for_node(&mut self, store: BorrowedFd<'_>, size: u64) -> io::Result<()> {
        if self.inodes == 0 || self.bytes < size.saturating_add(BYTES_PER_INODE) {
            self.check(store, size.saturating_add(BYTES_PER_INODE))?;
        }
        self.inodes -= 1;
        self.bytes = self.bytes.saturating_sub(BYTES_PER_INODE);
        Ok(())
    }

    /// Reserves room for the next `count` bytes of a file, which still needs `left` bytes including these.
    pub(super) fn for_bytes(&mut self, store: BorrowedFd<'_>, count: u64, left: u64) -> io::Result<()> {
        if self.bytes < count {
            self.check(store, left)?;
        }
        self.bytes = self.bytes.saturating_sub(count);
        Ok(())
    }

    fn check(&mut self, store: BorrowedFd<'_>, wanted: u64) -> io::Result<()> {
        let space = Space::from(rustix::fs::fstatvfs(store)?);
        *self = space.room(wanted).map_err(|no_room| io::Error::new(io::ErrorKind::StorageFull, no_room))?;
        Ok(())
    }
}

/// Returns the free bytes of the file system that holds `directory`, and how many of them are reserved; `None` if it does not
/// count them.
pub(super) fn free_and_reserve(directory: &Path) -> io::Result<Option<(u64, u64)>> {
    let space = Space::from(rustix::fs::statvfs(directory)?);
    Ok(space.bytes.map(|Capacity { total, free }| (free, MAX_RESERVE_BYTES.min(total / 100))))
}

/// The size of a file system in bytes and inodes; `None` if it does not count them.
#[derive(Clone, Copy)]
struct Space {
    bytes: Option<Capacity>,
    inodes: Option<Capacity>,
}

#[derive(Clone, Copy)]
struct Capacity {
    total: u64,
    free: u64,
}

impl From<StatVfs> for Space {
    fn from(status: StatVfs) -> Space {
        let amount = |total: u64, free: u64, unit: u64| {
            (total > 0).then_some(Capacity { total: total.saturating_mul(unit), free: free.saturating_mul(unit) })
        };
        Space {
            bytes: amount(status.f_blocks, status.f_bavail, status.f_frsize),
            inodes: amount(status.f_files, status.f_favail, 1),
        }
    }
}

impl Space {
    /// Returns what may be written before the next check, if there is room for `wanted` bytes.
    fn room(&self, wanted: u64) -> Result<DiskReserve, NoRoom> {
        let mut room = DiskReserve { bytes: CHECK_EVERY_BYTES, inodes: CHECK_EVERY_BYTES / BYTES_PER_INODE };
        if let Some(Capacity { total, free }) = self.bytes {
            let reserve = MAX_RESERVE_BYTES.min(total / 100);
            let usable = free.saturating_sub(reserve);
            if wanted > usable {
                return Err(NoRoom::Bytes { wanted, free, reserve });
            }
            room.bytes = room.bytes.min(usable);
        }
        if let Some(Capacity { total, free }) = self.inodes {
            let reserve = RESERVED_INODES.min(total / 100);
            if free <= reserve {
                return Err(NoRoom::Inodes { free, reserve });
            }
            room.inodes = room.inodes.min(free - reserve);
        }
        Ok(room)
    }
}

/// The output does not fit. This counts against no machine: a machine that sends too much cannot be distinguished from
/// a build with large outputs, and another machine's outputs would be as large.
#[derive(Debug, PartialEq, Eq, Error)]
enum NoRoom {
    #[error(
        "{} KiB do not fit into the file system of the store, where {} KiB are free and {} KiB are reserved",
        wanted.div_ceil(1024), free >> 10, reserve >> 10
    )]
    Bytes { wanted: u64, free: u64, reserve: u64 },
    #[error("the file system of the store has {free} free inodes, and {reserve} are reserved")]
    Inodes { free: u64, reserve: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bytes(total: u64, free: u64) -> Space {
        Space { bytes: Some(Capacity { total, free }), inodes: None }
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
        let inodes = |free| Space { bytes: None, inodes: Some(Capacity { total: 1000, free }) }.room(MIB);
        assert_eq!(inodes(10).err().unwrap(), NoRoom::Inodes { free: 10, reserve: 10 });
        assert_eq!(inodes(11).ok().unwrap().inodes, 1);
    }

    #[test]
    fn a_fitting_file_is_checked_again_after_a_step() {
        let room = bytes(1 << 40, 1 << 39).room(1 << 38).ok().unwrap();
        assert_eq!((room.bytes, room.inodes), (CHECK_EVERY_BYTES, 4096));
    }

    #[test]
    fn a_file_system_that_does_not_count_has_room() {
        assert!(Space { bytes: None, inodes: None }.room(u64::MAX).is_ok());
    }

    #[test]
    fn the_space_is_checked_when_the_last_result_is_used_up() {
        let directory = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(directory.path()).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&file);
        let mut room = DiskReserve { bytes: 3 * BYTES_PER_INODE, inodes: 2 };
        room.for_node(fd, BYTES_PER_INODE).unwrap();
        assert_eq!((room.bytes, room.inodes), (2 * BYTES_PER_INODE, 1));
        room.for_bytes(fd, BYTES_PER_INODE, BYTES_PER_INODE).unwrap();
        assert_eq!((room.bytes, room.inodes), (BYTES_PER_INODE, 1));
        let error = room.for_node(fd, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(matches!(error.downcast::<NoRoom>(), Ok(NoRoom::Bytes { .. })));
        assert!(room.for_bytes(fd, 2 * BYTES_PER_INODE, u64::MAX).is_err());
        room.for_node(fd, 0).unwrap();
        // No inodes are left.
        room.bytes = BYTES_PER_INODE;
        room.for_node(fd, 0).unwrap();
        assert!(room.bytes > BYTES_PER_INODE, "{}", room.bytes);
    }
}
