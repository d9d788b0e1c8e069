//! The front end: what runs when the program is called under the name `guix`.
//!
//! guix-daemon starts all of its helpers through one program, `$GUIX` or `$NIX_BIN_DIR/guix`: `offload`, but also
//! `authenticate`, `substitute`, `gc --list-busy`, `perform-download` and `discover`. A link named `guix` to this
//! program serves the first and hands the others to the real `guix` with exec. Nothing is printed on the way: the
//! standard error of `authenticate` is the pipe that its replies travel on.
//!
//! The real `guix` is `$OFFLOAD_GUIX` if that is set, else the first `guix` on `PATH`, then in the usual places, that
//! is not this program. A wrapper script that leads back here is noticed by a mark in the environment.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

/// Names the real `guix`, for those who keep it in an unusual place.
pub const REAL_GUIX: &str = "OFFLOAD_GUIX";

/// The process that has already been handed on once.
const EXECUTED_BY: &str = "OFFLOAD_FRONT_END";

/// Where `guix` is found when `PATH` does not say: Guix System, a foreign distribution's package, the binary
/// installation.
pub const USUAL_PLACES: [&str; 5] = [
    "/run/current-system/profile/bin",
    "/var/guix/profiles/per-user/root/current-guix/bin",
    "/usr/bin",
    "/usr/local/bin",
    "/root/.config/guix/current/bin",
];

/// The command cannot be handed to the real `guix`.
#[derive(Debug, thiserror::Error)]
pub enum WrapperError {
    #[error("no real 'guix' found, neither on PATH nor in the usual places; set {REAL_GUIX} to its file name")]
    NotFound,
    #[error("{REAL_GUIX} is '{}', which is offload itself; it must name the real 'guix'", .0.display())]
    NamesItself(PathBuf),
    #[error("'{}' leads back to offload; set {REAL_GUIX} to the file name of the real 'guix'", .0.display())]
    LeadsBack(PathBuf),
    #[error("cannot run '{}': {cause}", path.display())]
    Exec { path: PathBuf, cause: io::Error },
}

/// Whether the program was called as `guix`.
pub fn is_called_as_guix(argv0: &OsStr) -> bool {
    Path::new(argv0).file_name() == Some(OsStr::new("guix"))
}

/// Replaces this process by the real `guix` with `arguments`; returns only if that fails.
pub fn exec_real_guix(argv0: &OsStr, arguments: &[OsString]) -> WrapperError {
    let guix = match real_guix() {
        Ok(guix) => guix,
        Err(error) => return error,
    };
    // exec keeps the process number, so the mark of this very process can only come from here.
    let mark = process::id().to_string();
    if env::var_os(EXECUTED_BY).is_some_and(|seen| seen.as_bytes() == mark.as_bytes()) {
        return WrapperError::LeadsBack(guix);
    }
    let cause = Command::new(&guix).arg0(argv0).args(arguments).env(EXECUTED_BY, mark).exec();
    WrapperError::Exec { path: guix, cause }
}

/// The file name of the real `guix`.
pub fn real_guix() -> Result<PathBuf, WrapperError> {
    let own = env::current_exe().ok();
    if let Some(path) = env::var_os(REAL_GUIX).map(PathBuf::from) {
        if own.as_deref().is_some_and(|own| is_same_file(own, &path)) {
            return Err(WrapperError::NamesItself(path));
        }
        return Ok(path);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(USUAL_PLACES.map(PathBuf::from))
        .map(|directory| directory.join("guix"))
        .filter(|guix| guix.is_absolute() && is_executable(guix))
        .find(|guix| !own.as_deref().is_some_and(|own| is_same_file(own, guix)))
        .ok_or(WrapperError::NotFound)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Links followed: a link named `guix` to this program is this program.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_called_as_guix;
    use std::ffi::OsStr;

    #[test]
    fn the_name_alone_decides() {
        for (name, is) in
            [("guix", true), ("/usr/lib/offload/guix", true), ("offload", false), ("/guix/offload", false)]
        {
            assert_eq!(is_called_as_guix(OsStr::new(name)), is, "{name}");
        }
    }
}
