//! Machine files in the form that a user writes, loaded as a whole.

use super::*;
use std::path::PathBuf;

mod annotations;
mod bounded;
mod broken;
mod cookbook;
mod decisions;
mod events;
mod examples;
mod generated;
mod hostile;
mod modules;
mod valid;

/// A host key for the files of these tests.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG";

/// A directory with files, of which `machines.lua` is the machine file. `$KEY` is replaced by a host key, `$REST` by
/// the required fields except the name.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new(machines: &str) -> Site {
        let site = Site { directory: tempfile::tempdir().unwrap() };
        site.write("machines.lua", machines);
        site
    }

    fn write(&self, name: &str, text: &str) {
        let rest = format!("user = \"offload\", systems = {{ \"x86_64-linux\" }}, host_key = \"{KEY}\"");
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("$REST", &rest).replace("$KEY", KEY)).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("machines.lua")
    }

    fn load(&self) -> Result<Pool, Report> {
        load(&self.path(), &LoadContext { home: Some("/home/me".into()), ..LoadContext::default() })
    }

    /// Returns a text without the name of the directory.
    fn relative(&self, text: impl ToString) -> String {
        text.to_string().replace(&format!("{}/", self.directory.path().display()), "")
    }
}
