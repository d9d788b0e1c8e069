//! Errors of `offload install` and `offload uninstall`.

use std::io;
use std::path::{Path, PathBuf};

use super::unit::{PACKAGE_DROP_IN, UNIT};
use crate::commands::failure::CommandError;
use crate::exit::ExitStatus;

/// The reason why nothing was installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("--prefix must be an absolute name without '..' and control characters")]
    Prefix,
    #[error("--guix must be an absolute name without control characters")]
    GuixName,
    #[error("--restart works only on the running system, not with --root")]
    RestartElsewhere,
    #[error(
        "no {UNIT} in the directories of systemd\n  hint: install the daemon's unit first; for Guix System and for other init \
         systems, see doc/manual/installation.md"
    )]
    NoUnit,
    #[error("{UNIT} runs guix-daemon as '{0}', who is not in /etc/passwd")]
    NoUser(String),
    #[error("no real 'guix' found beside the daemon ('{}') nor in the usual places\n  hint: name it with --guix", .0.display())]
    NoGuix(PathBuf),
    #[error("'{}' is not the real 'guix': it does not exist, or is offload itself", .0.display())]
    NotGuix(PathBuf),
    #[error("'{}' already exists: it was not written by 'offload install', or has been changed since\n  hint: move it away", .0.display())]
    Foreign(PathBuf),
    #[error(
        "the program was started through the dynamic loader, so its own file is unknown\n  hint: the bundle lies where \
         you have put it; for the daemon's variable GUIX, see doc/manual/installation.md"
    )]
    Loader,
    #[error(
        "the package manager has installed offload: '{PACKAGE_DROP_IN}' sets GUIX\n  hint: remove the package first: apt-get remove \
         offload"
    )]
    OfPackage,
    #[error("nothing is installed: there is no '{}'", .0.display())]
    NotInstalled(PathBuf),
    #[error("'{}': {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("`{command}` failed: {problem}")]
    Systemctl { command: String, problem: String },
    #[error("cannot write the report: {0}")]
    Report(#[from] io::Error),
}

impl InstallError {
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
        move |cause| InstallError::File { path: path.to_owned(), cause }
    }

    fn status(&self) -> ExitStatus {
        match self {
            InstallError::Prefix | InstallError::GuixName | InstallError::RestartElsewhere => ExitStatus::Usage,
            _ => ExitStatus::Failure,
        }
    }
}

impl From<InstallError> for CommandError {
    fn from(error: InstallError) -> CommandError {
        CommandError::new(error.status(), error)
    }
}
