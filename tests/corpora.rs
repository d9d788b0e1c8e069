//! The corpora of the fuzzer, on stable Rust: every reader of bytes from outside reads all inputs that were ever
//! interesting. `fuzz/src/lib.rs` has the promises of the readers; `tests/fuzz` looks for more inputs.

#[path = "../fuzz/src/lib.rs"]
mod targets;

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lab::{Host, Lab, Release, peak_memory};
use offload::internals::daemon::Client;
use offload::internals::store::path::StoreDir;

/// Seeds that other tests have, too: for each target, where.
const GOLDEN: &[(&str, &[&str])] = &[
    ("nar", &["nar"]),
    ("restore", &["nar"]),
    ("export", &["export"]),
    ("sexp", &["keys", "signature"]),
    ("signature", &["keys", "signature"]),
    ("derivation", &["drv"]),
];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_reader_keeps_its_promises() {
    let before = peak_memory();
    for (name, target) in targets::TARGETS {
        let mut inputs = files(&top().join("fuzz/corpus").join(name));
        let golden = GOLDEN.iter().filter(|(target, _)| target == name).flat_map(|(_, directories)| *directories);
        inputs.extend(golden.flat_map(|directory| files(&top().join("tests/golden").join(directory))));
        assert!(inputs.len() >= 3, "the corpus of {name} has {} files", inputs.len());
        for input in &inputs {
            // The name of the input that fails is what one needs to know.
            let data = fs::read(input).unwrap();
            let kept = std::panic::catch_unwind(|| target(&data)).is_ok();
            assert!(kept, "{name} fails with {}", input.display());
        }
        eprintln!("{name}: {} inputs", inputs.len());
    }
    let grown = peak_memory() - before;
    assert!(grown < 64 << 20, "{grown} bytes of memory were taken");
}

/// Each target is one that the fuzzer has, and has a corpus.
#[test]
fn the_list_of_targets_is_complete() {
    let mut names: Vec<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    let stem = |file: &PathBuf| file.file_stem().unwrap().to_string_lossy().into_owned();
    assert_eq!(files(&top().join("fuzz/fuzz_targets")).iter().map(stem).collect::<Vec<_>>(), names);
    assert_eq!(files(&top().join("fuzz/corpus")).iter().map(stem).collect::<Vec<_>>(), names);
    let manifest = fs::read_to_string(top().join("fuzz/Cargo.toml")).unwrap();
    assert!(names.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))));
}

/// Records the seeds from real daemons and machines again: `cargo test --test corpora record -- --ignored`.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn record_seeds() {
    let lab = Lab::new();
    let hosts = [lab.daemon("sid", Release::Sid).start(), lab.daemon("bullseye", Release::Bullseye).start()];
    let shell = |host: &Host, script: &str| host.run("sh", &["-c", script]);
    for host in &hosts {
        let name = host.name();
        let mut client = Client::connect(host.connect_to_daemon(), StoreDir::default()).unwrap();
        client.add_text_to_store("foo", b"hello\n", &BTreeSet::new()).unwrap();
        // The operations by their numbers in `targets::operate`; those that only fail come last.
        for (index, operations) in
            [&[0, 2, 1, 4, 5][..], &[1, 3], &[6, 1], &[2, 7], &[8], &[9], &[10, 11], &[11]].iter().enumerate()
        {
            let heard = Arc::new(Mutex::new(Vec::new()));
            let stream = Heard { stream: host.connect_to_daemon(), heard: Arc::clone(&heard) };
            let mut client = Client::connect(stream, StoreDir::default()).unwrap();
            for operation in *operations {
                let _ = targets::operate(&mut client, *operation);
            }
            let seed = [&[operations.len() as u8], *operations, &heard.lock().unwrap()].concat();
            fs::write(top().join(format!("fuzz/corpus/daemon/{name}-{index}")), seed).unwrap();
        }
        let printed = shell(host, &offload::internals::remote::probe::command("/gnu/store"));
        fs::write(top().join(format!("fuzz/corpus/probe/{name}")), printed).unwrap();
    }
    let busybox = "exec /bin/busybox sh -c 'PATH=/var/lab/busybox/bin; ".to_owned();
    let command = offload::internals::remote::probe::command("/gnu/store").replacen("exec /bin/sh -c '", &busybox, 1);
    let printed = shell(&hosts[0], &command);
    fs::write(top().join("fuzz/corpus/probe/busybox"), printed).unwrap();
}

/// Keeps what is read.
struct Heard {
    stream: UnixStream,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Read for Heard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.heard.lock().unwrap().extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
