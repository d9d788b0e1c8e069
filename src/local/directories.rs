//! The directories of this machine's daemon.
//!
//! The hook inherits the daemon's environment. These are the variables that the daemon itself reads, with the defaults
//! of a daemon installed under `/`. Paths are made canonical as text, as the daemon does: `//`, `.` and `..` are
//! removed, symbolic links stay. A variable that is empty or a relative path is an error for the daemon and here.
//! Source: `Settings::processEnvironment` in the daemon's `libstore/globals.cc`, and `guix/config.scm`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::store::path::{PathError, StoreDir};

/// The directories of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// `NIX_STORE_DIR`, else `NIX_STORE`. Default `/gnu/store`.
    pub store: StoreDir,
    /// `GUIX_STATE_DIRECTORY`. Default `/var/guix`.
    pub state: PathBuf,
    /// `GUIX_DATABASE_DIRECTORY`. Default `db` in the state directory.
    pub database: PathBuf,
    /// `GUIX_CONFIGURATION_DIRECTORY`. Default `/etc/guix`.
    pub configuration: PathBuf,
    /// `GUIX_LOG_DIRECTORY`. Default `/var/log/guix`.
    pub log: PathBuf,
}

impl Default for Directories {
    fn default() -> Directories {
        Directories {
            store: StoreDir::default(),
            state: "/var/guix".into(),
            database: "/var/guix/db".into(),
            configuration: "/etc/guix".into(),
            log: "/var/log/guix".into(),
        }
    }
}

impl Directories {
    /// Returns the directories that the environment of this process names.
    pub fn from_environment() -> Result<Directories, DirectoryError> {
        Directories::from_variables(|name| std::env::var_os(name))
    }

    /// Returns the directories that the variables in `lookup` name.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Directories, DirectoryError> {
        let directory = |variable, default: &Path| match lookup(variable) {
            Some(value) => canonical(variable, &value),
            None => Ok(default.to_owned()),
        };
        let defaults = Directories::default();
        let store = ["NIX_STORE_DIR", "NIX_STORE"].into_iter().find_map(|name| Some((name, lookup(name)?)));
        let state = directory("GUIX_STATE_DIRECTORY", &defaults.state)?;
        Ok(Directories {
            store: match store {
                Some((variable, value)) => store_dir(variable, &canonical(variable, &value)?)?,
                None => defaults.store,
            },
            database: directory("GUIX_DATABASE_DIRECTORY", &state.join("db"))?,
            configuration: directory("GUIX_CONFIGURATION_DIRECTORY", &defaults.configuration)?,
            log: directory("GUIX_LOG_DIRECTORY", &defaults.log)?,
            state,
        })
    }

    /// Returns the socket on which the daemon listens.
    pub fn daemon_socket(&self) -> PathBuf {
        self.state.join("daemon-socket/socket")
    }

    /// Returns the list of keys whose signatures are accepted.
    pub fn acl(&self) -> PathBuf {
        self.configuration.join("acl")
    }

    /// Returns the secret half of the signing key; the public half is the file beside it that ends in `.pub`.
    pub fn signing_key(&self) -> PathBuf {
        self.configuration.join("signing-key.sec")
    }
}

fn canonical(variable: &'static str, value: &OsStr) -> Result<PathBuf, DirectoryError> {
    if value.as_bytes().first() != Some(&b'/') {
        return Err(DirectoryError::Relative { variable, value: PathBuf::from(value) });
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in value.as_bytes().split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => (),
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let path = names.iter().flat_map(|name| [b"/", *name]).collect::<Vec<_>>().concat();
    Ok(PathBuf::from(if path.is_empty() { "/".into() } else { OsString::from_vec(path) }))
}

fn store_dir(variable: &'static str, path: &Path) -> Result<StoreDir, DirectoryError> {
    StoreDir::new(&path.to_string_lossy()).map_err(|cause| DirectoryError::Store { variable, cause })
}

/// A variable in the environment that does not name a directory.
#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("{variable} is '{value}', which is not an absolute path")]
    Relative { variable: &'static str, value: PathBuf },
    #[error("{variable}: {cause}")]
    Store { variable: &'static str, cause: PathError },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(variables: &[(&str, &str)]) -> Result<Directories, DirectoryError> {
        let lookup = |name: &str| Some(variables.iter().find(|(variable, _)| *variable == name)?.1.into());
        Directories::from_variables(lookup)
    }

    #[test]
    fn an_empty_environment_means_the_defaults() {
        assert_eq!(directories(&[]).unwrap(), Directories::default());
    }

    #[test]
    fn each_variable_is_read() {
        let variables = [
            ("NIX_STORE", "/other"),
            ("GUIX_STATE_DIRECTORY", "//state/./x/../guix/"),
            ("GUIX_CONFIGURATION_DIRECTORY", "/conf"),
            ("GUIX_LOG_DIRECTORY", "/.."),
        ];
        let found = directories(&variables).unwrap();
        assert_eq!(found.store.as_str(), "/other");
        assert_eq!(found.state, Path::new("/state/guix"));
        assert_eq!(found.database, Path::new("/state/guix/db"));
        assert_eq!(found.daemon_socket(), Path::new("/state/guix/daemon-socket/socket"));
        assert_eq!(found.acl(), Path::new("/conf/acl"));
        assert_eq!(found.signing_key(), Path::new("/conf/signing-key.sec"));
        assert_eq!(found.log, Path::new("/"));
    }

    #[test]
    fn some_variables_win_over_others() {
        assert_eq!(directories(&[("NIX_STORE", "/b"), ("NIX_STORE_DIR", "/a")]).unwrap().store.as_str(), "/a");
        let database = [("GUIX_STATE_DIRECTORY", "/s"), ("GUIX_DATABASE_DIRECTORY", "/db")];
        assert_eq!(directories(&database).unwrap().database, Path::new("/db"));
    }

    #[test]
    fn a_value_that_is_not_an_absolute_path_is_refused() {
        for value in ["", "var/guix", "./x"] {
            let error = directories(&[("GUIX_STATE_DIRECTORY", value)]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("GUIX_STATE_DIRECTORY is '{value}'")), "{error}");
        }
        assert!(directories(&[("NIX_STORE_DIR", "/")]).is_err());
    }
}
