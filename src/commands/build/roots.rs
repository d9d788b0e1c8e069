//! The outputs of builds by hand, for the garbage collector: they are kept while the command runs, and longer by symbolic
//! links that guix-daemon knows.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::commands::failure::CommandError;
use crate::error::with_causes;
use crate::local::{Directories, LocalDaemon, LocalDaemonError, connect_to_daemon, read_derivation};
use crate::permissions::{Need, PermissionProblem, User};
use crate::store::path::StorePath;

/// The outputs of derivations, kept by a connection to guix-daemon.
pub struct OutputRoots {
    daemon: LocalDaemon,
    /// Each link, with its target.
    links: Vec<(PathBuf, StorePath)>,
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
        let links = match file {
            Some(file) => links(file, &outputs)?,
            None => Vec::new(),
        };
        let failed = |error: LocalDaemonError| CommandError::failure(with_causes(&error));
        let mut daemon = connect_to_daemon(directories).map_err(failed)?;
        for output in &outputs {
            daemon.add_temp_root(output).map_err(|error| failed(error.into()))?;
        }
        Ok(OutputRoots { daemon, links })
    }

    /// Makes the links, and registers them.
    pub fn link(&mut self) -> Result<(), CommandError> {
        for (link, output) in &self.links {
            symlink(output.as_str(), link).map_err(|cause| cannot_link(link, &cause))?;
            self.daemon.add_indirect_root(link).map_err(|error| CommandError::failure(with_causes(&error)))?;
        }
        Ok(())
    }
}

/// Checks whether a daemon that runs as `user` sees a link: it ignores roots that it cannot see.
pub fn check_for(user: &User, link: &Path) -> Result<(), CommandError> {
    let absolute = std::path::absolute(link).map_err(|cause| cannot_link(link, &cause))?;
    let Some(problem) = PermissionProblem::find(user, Path::new("/"), &absolute, Need::Read) else { return Ok(()) };
    let message = format!("cannot make the root '{}': guix-daemon would not see it: {problem}", link.display());
    let hint = format!("name a file in a directory that {} can enter", user.name);
    Err(CommandError::failure(message).with_hint(Some(hint)))
}

/// Returns the links to these outputs. None of them may exist.
fn links(file: &Path, outputs: &[StorePath]) -> Result<Vec<(PathBuf, StorePath)>, CommandError> {
    // The daemon needs an absolute name without links above it.
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(|cause| cannot_link(file, &cause))?;
    let name = file.file_name().ok_or_else(|| cannot_link(file, &io::ErrorKind::InvalidInput.into()))?;
    let mut links = Vec::new();
    for (number, output) in outputs.iter().enumerate() {
        let mut name = name.to_owned();
        if outputs.len() > 1 {
            name.push(format!("-{number}"));
        }
        let link = parent.join(name);
        if link.symlink_metadata().is_ok() {
            return Err(cannot_link(&link, &io::ErrorKind::AlreadyExists.into()));
        }
        links.push((link, output.clone()));
    }
    Ok(links)
}

fn cannot_link(link: &Path, cause: &io::Error) -> CommandError {
    CommandError::failure(format!("cannot make the root '{}': {cause}", link.display()))
}

#[cfg(test)]
mod tests {
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
            let links = links(&directory.path().join("./result"), outputs)?;
            Ok::<_, CommandError>(
                links.iter().map(|(link, _)| link.file_name().unwrap().to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(names(&outputs[..1]).unwrap(), ["result"]);
        assert_eq!(names(&outputs).unwrap(), ["result-0", "result-1"]);
        // A link to nothing exists as well.
        symlink("/nowhere", directory.path().join("result-1")).unwrap();
        assert!(names(&outputs).is_err() && names(&outputs[..1]).is_ok());
        assert!(links(&directory.path().join("missing/result"), &outputs).is_err());
    }
}
