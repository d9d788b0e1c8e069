//! Hints for errors of the file system or SQLite with the store or its database. A hint follows the message on a line
//! of its own, and is empty for other errors.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;
use rustix::io::Errno;

/// Returns the hint for an error of the file system that holds the store.
pub(super) fn of_store(cause: &io::Error) -> String {
    // They are matched by kind, because not all of them have a number.
    if matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return line("free some space, or inodes, on the store's file system, as with `guix gc`");
    }
    let hint = match Errno::from_io_error(cause) {
        Some(Errno::ROFS) => "the store's file system is mounted read-only; `dmesg` shows whether an error caused that",
        Some(Errno::IO) => "`dmesg` shows the errors of the store's disk",
        Some(Errno::ACCESS | Errno::PERM) => "the hook runs as the daemon's user, which must own the store",
        _ => return String::new(),
    };
    line(hint)
}

/// Returns the hint for an error of the directory for temporary files.
pub(super) fn of_temporary() -> String {
    line("set TMPDIR to a directory in which this user can make files, with room for the outputs")
}

/// Returns the hint for an error of the database in `file`.
pub(super) fn of_database(cause: &rusqlite::Error, file: &Path) -> String {
    let name = file.display();
    let hint = match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program holds its lock; `fuser -v {name}` shows which one")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "it is damaged; stop guix-daemon and restore a copy from a backup, or repair it with `sqlite3`, `.recover`"
                .to_owned()
        }
        Some(ErrorCode::SystemIoFailure) => {
            "`dmesg` shows whether its disk is at fault, `df` whether its file system is full".to_owned()
        }
        Some(ErrorCode::DiskFull) => "free some space on its file system".to_owned(),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => format!(
            "the hook runs as the daemon's user, which must be able to read it, and to write '{name}-wal' and '{name}-shm' \
             beside it"
        ),
        // Such as a missing table.
        Some(ErrorCode::Unknown) => {
            "check that it is guix-daemon's: GUIX_DATABASE_DIRECTORY and GUIX_STATE_DIRECTORY set its place".to_owned()
        }
        _ => return String::new(),
    };
    line(&hint)
}

fn line(hint: &str) -> String {
    format!("\n  hint: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_store_have_remedies() {
        let hint = |errno: Errno| of_store(&io::Error::from(errno));
        assert!(hint(Errno::NOSPC).contains("`guix gc`") && hint(Errno::DQUOT).contains("`guix gc`"));
        assert!(of_store(&io::ErrorKind::StorageFull.into()).contains("`guix gc`"));
        assert!(hint(Errno::ROFS).contains("read-only"));
        assert!(hint(Errno::IO).contains("dmesg"));
        assert_eq!(hint(Errno::NOTEMPTY), "");
        assert_eq!(of_store(&io::Error::other("no number")), "");
    }

    #[test]
    fn errors_of_the_database_have_remedies() {
        let hint = |code| {
            let error = rusqlite::ffi::Error::new(code);
            of_database(&rusqlite::Error::SqliteFailure(error, None), Path::new("/db"))
        };
        for (code, words) in [
            (rusqlite::ffi::SQLITE_BUSY, "`fuser -v /db`"),
            (rusqlite::ffi::SQLITE_CORRUPT, "damaged"),
            (rusqlite::ffi::SQLITE_NOTADB, "damaged"),
            (rusqlite::ffi::SQLITE_IOERR_READ, "`dmesg`"),
            (rusqlite::ffi::SQLITE_FULL, "space"),
            (rusqlite::ffi::SQLITE_CANTOPEN, "'/db-wal'"),
            (rusqlite::ffi::SQLITE_READONLY, "'/db-wal'"),
            (rusqlite::ffi::SQLITE_ERROR, "GUIX_DATABASE_DIRECTORY"),
        ] {
            assert!(hint(code).starts_with("\n  hint: ") && hint(code).contains(words), "{code}: {}", hint(code));
        }
        assert_eq!(of_database(&rusqlite::Error::InvalidQuery, Path::new("/db")), "");
    }
}
