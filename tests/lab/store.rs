//! Looking into a host's store and its database.

use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::LONG;
use super::host::Host;

/// What a daemon knows about a valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// `sha256:` and 64 digits in base 16, of the nar.
    pub hash: String,
    pub nar_size: u64,
    pub deriver: Option<String>,
    /// Sorted.
    pub references: Vec<String>,
}

impl Host {
    /// Lets Guix check the database and the contents of all store items; panics if it finds an error.
    #[track_caller]
    pub fn verify_store(&self) {
        let output = self.command("guix").args(["gc", "--verify=contents"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let complaint =
            said.lines().find(|line| !line.starts_with("reading the store") && !line.starts_with("checking"));
        assert!(output.status.success() && complaint.is_none(), "the store of {} is not well:\n{said}", self.name());
    }

    /// Returns the record of a path in the database; `None` if it is not valid.
    pub fn path_info(&self, path: impl AsRef<Path>) -> Option<PathInfo> {
        let path = path.as_ref().to_str().unwrap();
        let database = self.database()?;
        let item = database
            .query_row("select id, hash, narSize, deriver from ValidPaths where path = ?", [path], |row| {
                let info = PathInfo {
                    hash: row.get(1)?,
                    nar_size: row.get::<_, i64>(2)? as u64,
                    deriver: row.get::<_, Option<String>>(3)?.filter(|deriver| !deriver.is_empty()),
                    references: Vec::new(),
                };
                Ok((row.get::<_, i64>(0)?, info))
            })
            .optional()
            .unwrap();
        let (id, mut info) = item?;
        let mut query = database
            .prepare("select path from Refs join ValidPaths on reference = id where referrer = ? order by path")
            .unwrap();
        info.references = query.query_map([id], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        Some(info)
    }

    /// The valid paths, sorted.
    pub fn valid_paths(&self) -> Vec<PathBuf> {
        let Some(database) = self.database() else { return Vec::new() };
        let mut query = database.prepare("select path from ValidPaths order by path").unwrap();
        query.query_map([], |row| row.get::<_, String>(0)).unwrap().map(|path| path.unwrap().into()).collect()
    }

    /// Returns the names in the store that are not valid, except the daemon's own files and directories.
    pub fn strays(&self) -> Vec<String> {
        let valid = self.valid_paths();
        let names = std::fs::read_dir(self.path("/gnu/store")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with('.') && !valid.contains(&Path::new("/gnu/store").join(name))).collect()
    }

    /// Gives the host, which has no store items yet, a store on a file system of its own, of so many MiB and 8,192
    /// inodes. The daemon is restarted.
    pub fn limit_store(&self, size: u32) {
        self.stop_daemon();
        let options = ["-t", "tmpfs", "-o", &format!("size={size}m,nr_inodes=8k,mode=1775"), "tmpfs"];
        let status = Command::new("mount").args(options).arg(self.path("/gnu/store")).status().unwrap();
        assert!(status.success(), "no file system for the store of {}", self.name());
        self.start_daemon();
    }

    /// `None`: the daemon has not had a client yet.
    fn database(&self) -> Option<Connection> {
        let file = self.path("/var/guix/db/db.sqlite");
        if !file.exists() {
            return None;
        }
        let database = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let database = database.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        // For a daemon that is writing.
        database.busy_timeout(LONG).unwrap();
        Some(database)
    }
}
