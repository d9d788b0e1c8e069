//! The Rust side of the script `supervisor`: one lab's directory, addresses, names and mounts.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use super::roots::cache;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/supervisor");

/// A lab's supervisor process. Everything of the lab is gone when this has been dropped.
pub struct Supervisor {
    directory: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What `/etc/hosts` says on all hosts.
    names: Vec<(String, Ipv4Addr)>,
    /// The root directories of the hosts, and how many addresses are given out.
    roots: Vec<PathBuf>,
    addresses: u8,
}

impl Supervisor {
    pub fn start() -> Supervisor {
        let runs = cache().join("run");
        // A session of its own: an interrupt from the terminal ends the tests, and then the supervisor clears up.
        let mut child = Command::new("setsid")
            .args(["sh", SCRIPT])
            .arg(&runs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setsid cannot be run");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut inner = Inner { child, input, output, names: Vec::new(), roots: Vec::new(), addresses: 0 };
        let answer = inner.answer();
        let directory = answer.strip_prefix("ready ").unwrap_or_else(|| panic!("the lab's supervisor says {answer:?}"));
        // The name of a socket has 107 bytes, and that of a daemon's takes the rest.
        assert!(directory.len() < 60, "{directory} is too long a name, with it that of a daemon's socket");
        Supervisor { directory: directory.into(), inner: Mutex::new(inner) }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns an unused address of this lab.
    pub fn next_address(&self) -> Ipv4Addr {
        let network = self.directory.file_name().unwrap().to_str().unwrap();
        let mut inner = self.lock();
        inner.addresses = inner.addresses.checked_add(1).expect("a lab has 255 addresses");
        format!("{network}.{}", inner.addresses).parse().unwrap()
    }

    /// Makes `name` known to all hosts.
    pub fn add_name(&self, name: &str, address: Ipv4Addr) {
        let mut inner = self.lock();
        assert!(inner.names.iter().all(|(known, _)| known != name), "there are two hosts {name} in one lab");
        inner.names.push((name.to_owned(), address));
        inner.write_names();
    }

    /// Mounts a root directory for a new host over `base`; returns the host's number, from 0, and its directory. A host
    /// that boots mounts `/proc`, `/run` and `/dev` itself.
    pub fn add_host(&self, name: &str, base: &Path, boots: bool) -> (usize, PathBuf) {
        let mut inner = self.lock();
        let verb = if boots { "system" } else { "host" };
        let request = format!("{verb} {name} {}\n", base.display());
        inner.input.as_mut().unwrap().write_all(request.as_bytes()).expect("the lab's supervisor is dead");
        let answer = inner.answer();
        assert_eq!(answer, format!("mounted {name}"), "the lab's supervisor cannot mount");
        let directory = self.directory.join(name);
        inner.roots.push(directory.join("root"));
        inner.write_names();
        (inner.roots.len() - 1, directory)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked in here must still be taken down.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Inner {
    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the lab's supervisor cannot be read");
        line.trim_end().to_owned()
    }

    fn write_names(&self) {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for (name, address) in &self.names {
            text += &format!("{address} {name}\n");
        }
        for root in &self.roots {
            // As a whole: somebody may be reading it.
            let (new, file) = (root.join("etc/hosts.new"), root.join("etc/hosts"));
            std::fs::write(&new, &text)
                .and_then(|()| std::fs::rename(&new, file))
                .expect("/etc/hosts cannot be written");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let mut inner = self.lock();
        drop(inner.input.take());
        let _ = inner.child.wait();
    }
}
