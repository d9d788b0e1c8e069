//! The wrapper: the program runs as this if it is called under the name `guix`.
//!
//! guix-daemon starts all of its helpers through one program, `$GUIX` or `$NIX_BIN_DIR/guix`: `offload`, but also
//! `authenticate`, `substitute`, `gc --list-busy`, `perform-download` and `discover`. A link named `guix` to this
//! program handles the first and runs the real `guix` with exec for the others. It prints nothing: the standard error
//! of `authenticate` is the pipe for its replies.
//!
//! The real `guix` is `$OFFLOAD_GUIX` if that is set, else the first `guix` that is not this program, on `PATH` and
//! then in the usual places. A mark in the environment detects a wrapper script that calls this program again.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

/// The variable that names the real `guix`, for unusual places.
pub const REAL_GUIX_VARIABLE: &str = "OFFLOAD_GUIX";

/// The variable that names the process that has already run exec once.
const EXECUTED_BY_VARIABLE: &str = "OFFLOAD_WRAPPER";

/// The usual places of `guix`: Guix System, a foreign distribution's package, the binary installation.
pub const USUAL_PLACES: [&str; 5] = [
    "/run/current-system/profile/bin",
    "/var/guix/profiles/per-user/root/current-guix/bin",
    "/usr/bin",
    "/usr/local/bin",
    "/root/.config/guix/current/bin",
];

/// The real `guix` cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum WrapperError {
    #[error("no real 'guix' found, neither on PATH nor in the usual places; set {REAL_GUIX_VARIABLE} to its file name")]
    NotFound,
    #[error("{REAL_GUIX_VARIABLE} is '{}', which is offload itself; it must name the real 'guix'", .0.display())]
    NamesItself(PathBuf),
    #[error("'{}' runs offload again; set {REAL_GUIX_VARIABLE} to the file name of the real 'guix'", .0.display())]
    LeadsBack(PathBuf),
    #[error("cannot run '{}': {cause}", path.display())]
    Exec { path: PathBuf, cause: io::Error },
}

/// Returns whether the program was called as `guix`.
pub fn is_called_as_guix(argv0: &OsStr) -> bool {
    Path::new(argv0).file_name() == Some(OsStr::new("guix"))
}

/// Replaces this process by the real `guix` with `arguments`; it returns only if that fails.
pub fn exec_real_guix(argv0: &OsStr, arguments: &[OsString]) -> WrapperError {
    let guix = match real_guix() {
        Ok(guix) => guix,
        Err(error) => return error,
    };
    // exec keeps the process number, so only this very process can have set the mark.
    let mark = process::id().to_string();
    if env::var_os(EXECUTED_BY_VARIABLE).is_some_and(|seen| seen.as_bytes() == mark.as_bytes()) {
        return WrapperError::LeadsBack(guix);
    }
    let cause = Command::new(&guix).arg0(argv0).args(arguments).env(EXECUTED_BY_VARIABLE, mark).exec();
    WrapperError::Exec { path: guix, cause }
}

/// Returns the file name of the real `guix`.
pub fn real_guix() -> Result<PathBuf, WrapperError> {
    let own = env::current_exe().ok();
    if let Some(path) = env::var_os(REAL_GUIX_VARIABLE).map(PathBuf::from) {
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

/// Returns whether both are the same file, links followed: a link named `guix` to this program is this program.
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
    fn only_the_name_decides() {
        for (name, is) in
            [("guix", true), ("/usr/lib/offload/guix", true), ("offload", false), ("/guix/offload", false)]
        {
            assert_eq!(is_called_as_guix(OsStr::new(name)), is, "{name}");
        }
    }
}
