//! The outputs of builds by hand, for the garbage collector: they are kept while the command runs, and longer by symbolic
//! links that guix-daemon knows.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use log::warn;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::commands::failure::CommandError;
use crate::error::with_causes;
use crate::local::{Directories, LocalDaemon, LocalDaemonError, connect_to_daemon, read_derivation};
use crate::permissions::{Need, PermissionProblem, User};
use crate::store::path::StorePath;

/// The outputs of derivations, kept by a connection to guix-daemon.
pub struct OutputRoots {
    daemon: LocalDaemon,
    links: Option<Links>,
}

/// The links to make later.
struct Links {
    /// Opened at the beginning: another user could exchange a directory of theirs while root builds.
    directory: OwnedFd,
    /// The names of the links in the directory, with their targets.
    links: Vec<(OsString, StorePath)>,
}

impl OutputRoots {
    /// Protects the outputs, which need not exist, as long as this value lasts. `file` is the link to make later, or the
    /// beginning of the names of several.
    pub fn protect(
        directories: &Directories,
        derivations: &[StorePath],
        file: Option<&Path>,
    ) -> Result<OutputRoots, CommandError> {
        let mut outputs = Vec::new();
        for path in derivations {
            let derivation = read_derivation(&directories.store, path)
                .map_err(|error| CommandError::failure(with_causes(&error)))?;
            outputs.extend(derivation.outputs.into_values().map(|output| output.path));
        }
        let links = file.map(|file| Links::plan(file, &outputs)).transpose()?;
        let mut daemon = connect_to_daemon(directories).map_err(|error| failed(&error))?;
        for output in &outputs {
            daemon.add_temp_root(output).map_err(|error| failed(&error.into()))?;
        }
        Ok(OutputRoots { daemon, links })
    }

    /// Makes the links, and registers them. After an error there is none of them.
    pub fn link(&mut self) -> Result<(), CommandError> {
        let Some(links) = &self.links else { return Ok(()) };
        let made = links.make()?;
        let mut registered = made.iter().map(|link| self.daemon.add_indirect_root(link));
        registered.try_for_each(|result| result.map_err(|error| failed(&error.into()))).inspect_err(|_| {
            links.remove(made.len());
        })
    }
}

fn failed(error: &LocalDaemonError) -> CommandError {
    CommandError::failure(with_causes(error))
}

/// Checks whether a daemon that runs as `user` sees a link: it ignores roots that it cannot see.
pub fn check_for(user: &User, link: &Path) -> Result<(), CommandError> {
    let absolute = std::path::absolute(link).map_err(|cause| cannot_link(link, &cause))?;
    let Some(problem) = PermissionProblem::find(user, Path::new("/"), &absolute, Need::Read) else { return Ok(()) };
    let message = format!("cannot make the root '{}': guix-daemon would not see it: {problem}", link.display());
    let hint = format!("name a file in a directory that {} can enter", user.name);
    Err(CommandError::failure(message).with_hint(Some(hint)))
}

impl Links {
    /// Opens the directory of the links to these outputs. None of the links may exist.
    fn plan(file: &Path, outputs: &[StorePath]) -> Result<Links, CommandError> {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(CWD, parent, flags, Mode::empty()).map_err(|cause| cannot_link(file, &cause.into()))?;
        let name = file.file_name().ok_or_else(|| cannot_link(file, &io::ErrorKind::InvalidInput.into()))?;
        let mut links = Vec::new();
        for (number, output) in outputs.iter().enumerate() {
            let mut name = name.to_owned();
            if outputs.len() > 1 {
                name.push(format!("-{number}"));
            }
            if rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Err(cannot_link(&parent.join(name), &io::ErrorKind::AlreadyExists.into()));
            }
            links.push((name, output.clone()));
        }
        Ok(Links { directory, links })
    }

    /// Makes all links or none. Returns their absolute names, without links above them: the daemon needs those.
    fn make(&self) -> Result<Vec<PathBuf>, CommandError> {
        let opened = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        let parent = fs::read_link(&opened).map_err(|cause| cannot_link(Path::new(&opened), &cause))?;
        let mut made = Vec::new();
        for (name, output) in &self.links {
            let link = parent.join(name);
            if let Err(cause) = rustix::fs::symlinkat(output.as_str(), &self.directory, name) {
                self.remove(made.len());
                return Err(cannot_link(&link, &cause.into()));
            }
            made.push(link);
        }
        Ok(made)
    }

    /// Removes the first `count` links.
    fn remove(&self, count: usize) {
        for (name, _) in self.links.iter().take(count) {
            if let Err(cause) = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
                warn!("cannot remove the link '{}': {cause}", Path::new(name).display());
            }
        }
    }
}

fn cannot_link(link: &Path, cause: &io::Error) -> CommandError {
    CommandError::failure(format!("cannot make the root '{}': {cause}", link.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn several_outputs_have_links_with_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let outputs = ["a", "b"].map(|letter| {
            let path = format!("/gnu/store/{}-x", letter.repeat(32));
            StorePath::parse(&StoreDir::default(), path.as_bytes()).unwrap()
        });
        let names = |outputs: &[StorePath]| {
            let Links { links, .. } = Links::plan(&directory.path().join("./result"), outputs)?;
            Ok::<_, CommandError>(links.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(names(&outputs[..1]).unwrap(), ["result"]);
        assert_eq!(names(&outputs).unwrap(), ["result-0", "result-1"]);
        // A link to nothing exists as well.
        symlink("/nowhere", directory.path().join("result-1")).unwrap();
        assert!(names(&outputs).is_err() && names(&outputs[..1]).is_ok());
        assert!(Links::plan(&directory.path().join("missing/result"), &outputs).is_err());
    }
}
