//! What `offload` keeps on a head between its processes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::host::Host;

const STATE: &str = "/var/guix/offload";

impl Host {
    /// The files of the head's state that some process has locked: slots, turns, places in a line.
    pub fn held_locks(&self) -> Vec<PathBuf> {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let mut files = Vec::new();
        walk(&self.path(STATE), &mut files);
        files.retain(|file| fs::metadata(file).is_ok_and(|file| locks.contains(&format!(":{} ", file.ino()))));
        files
    }

    /// Makes the head forget what it knows about machines, but for their names.
    pub fn forget_health(&self) {
        let mut files = Vec::new();
        walk(&self.path(STATE), &mut files);
        for file in files.iter().filter(|file| file.ends_with("health.json")) {
            // A process that is about to end may replace it just now.
            let _ = fs::remove_file(file);
        }
    }

    /// What the head remembers of a machine, as text.
    pub fn health_of(&self, address: &str) -> String {
        fs::read_to_string(self.path(STATE).join(address).join("health.json")).unwrap_or_default()
    }

    /// Names in the store of outputs that were not finished.
    pub fn unfinished_outputs(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("/gnu/store")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".chroot")).collect()
    }
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}
