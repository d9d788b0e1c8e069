//! What `offload` keeps on a head between its processes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use offload::internals::machine::Machine;
use offload::internals::state::health::Availability;
use offload::internals::state::queue::TicketRecord;
use offload::internals::state::{Health, HealthRecord, StateDirectory, health};
use offload::internals::status::MachineStatus;
use rustix::fs::{major, minor};

use super::host::Host;
use super::{LONG, SSH_PORT, wait_until};

const STATE: &str = "/var/guix/offload";

impl Host {
    /// Returns the files of the head's state that a process has locked: build slots, transfer slots, places in the queue.
    pub fn held_locks(&self) -> Vec<PathBuf> {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let mut files = Vec::new();
        walk(&self.path(STATE), &mut files);
        // Only directories of an overlay show its own device, under which the kernel counts locks; other labs have
        // files of the same number.
        let name = |file: &Path| -> Option<String> {
            let device = fs::metadata(file.parent()?).ok()?.dev();
            let number = fs::metadata(file).ok()?.ino();
            Some(format!(" {:02x}:{:02x}:{number} ", major(device), minor(device)))
        };
        files.retain(|file| name(file).is_some_and(|name| locks.contains(&name)));
        files
    }

    /// Waits until no process has a lock any more: what is killed may take a moment to go.
    #[track_caller]
    pub fn await_no_lock(&self, case: &str) {
        wait_until(&format!("{case}: no lock is held"), LONG, || self.held_locks().is_empty());
    }

    /// Gives the head a fresh record of a machine, so that it chooses it without asking.
    pub fn mark_healthy(&self, name: &str) {
        self.change_health(name, |_| Health::reached(MachineStatus::default(), health::now()));
    }

    /// Makes the head skip a failing machine for five minutes, however long the test takes.
    pub fn avoid(&self, name: &str) {
        self.change_health(name, |mut health| {
            health.failures.as_mut().expect("the machine has failed").count = 100;
            health
        });
    }

    /// Changes what the head remembers of a machine.
    pub fn change_health(&self, name: &str, change: impl Fn(Health) -> Health) {
        let record = health_record(self, name);
        // Hooks have it for moments, and a change does not wait for long.
        wait_until("the record is written", LONG, || record.change(&change).is_ok());
    }

    /// Makes the head forget everything about machines except their names.
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

    /// Returns whether the head may choose a machine now, by its record.
    pub fn availability_of(&self, name: &str) -> Availability {
        health_record(self, name).read().availability(health::now())
    }

    /// Since when the builds wait that have a ticket in the queue for a slot, in milliseconds since 1970.
    pub fn waiting_since(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.path(STATE).join("queue")).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        // A ticket that is being renewed is replaced, and one that is gone was given back.
        let records = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let since = |text: Vec<u8>| serde_json::from_slice::<TicketRecord>(&text).unwrap().since;
        records.filter_map(|path| fs::read(path).ok()).map(since).collect()
    }

    /// Names in the store of outputs that were not finished.
    pub fn unfinished_outputs(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("/gnu/store")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".chroot")).collect()
    }
}

fn health_record(host: &Host, name: &str) -> HealthRecord {
    let machine = Machine { port: SSH_PORT, ..Machine::new(name, "root", Vec::new(), Vec::new()) };
    HealthRecord::of(&StateDirectory::new(host.path(STATE)), &machine).unwrap()
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}
