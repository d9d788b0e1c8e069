//! A head and two build machines, builds that may fail, and the files that they may leave.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use offload::internals::daemon;
use offload::internals::machine::Machine;
use offload::internals::state::health::Failures;
use offload::internals::state::{Health, HealthRecord, StateDirectory};

use crate::lab::{Direct, Drv, Host, HostOptions, LONG, Lab, Made, SSH_PORT, wait_until};

/// The file on the head that names the failpoint at which the hook stops. A hook may act as the owner of the state there,
/// who removes the file.
pub const CRASH_FILE: &str = "/var/lab/points/crash";

const MIB: usize = 1 << 20;

/// A head and two build machines, of which the first is preferred.
pub struct Pool {
    _lab: Lab,
    pub machines: [Host; 2],
    pub head: Host,
}

/// The result of a build.
pub struct Ended {
    /// 0, or the daemon's 1, 100 or 101. `None` if the connection to the daemon was lost.
    pub status: Option<u32>,
    /// The output of the build, with the daemon's message at the end.
    pub log: String,
}

impl Pool {
    pub fn new(head: impl FnOnce(HostOptions) -> HostOptions) -> Pool {
        let lab = Lab::new();
        let machines = ["b1", "b2"].map(|name| lab.build_machine(name).start());
        let head = head(lab.head()).start();
        head.run("install", &["-d", "-m", "777", "/var/lab/points"]);
        let [first, second] = &machines;
        let entry = |machine: &Host| machine.entry().set("overload_threshold", false);
        head.write_machines(&[entry(first).set("speed", 1000), entry(second)]);
        Pool { _lab: lab, machines, head }
    }

    /// Removes the record of the first machine, so that the hook must probe it, and marks the second as healthy.
    pub fn must_probe_first(&self) {
        self.head.change_health(self.machines[0].name(), |_| Health::default());
        self.head.mark_healthy(self.machines[1].name());
    }

    /// Marks both machines as healthy.
    pub fn mark_all_healthy(&self) {
        for number in 0..self.machines.len() {
            self.head.mark_healthy(self.machines[number].name());
        }
    }

    fn record(&self, number: usize) -> HealthRecord {
        let machine = Machine::new(self.machines[number].name(), "root", Vec::new(), Vec::new());
        let machine = Machine { port: SSH_PORT, ..machine };
        HealthRecord::of(&StateDirectory::new(self.head.path("/var/guix/offload")), &machine).unwrap()
    }

    /// Returns a new derivation with an input of `input` MiB and an output of `output` MiB, which refers to another.
    pub fn derivation(&self, name: &str, input: usize, output: usize) -> Drv {
        let file = format!("/tmp/{name}");
        self.head.run("sh", &["-c", &format!("head -c {} /dev/urandom >{file}", input * MIB)]);
        let script = format!(
            "echo on; test $(wc -c <$data) = {}; mkdir $out; head -c {} /dev/urandom >$out/data; echo >$dev; ln -s $dev $out/dev",
            input * MIB,
            output * MIB
        );
        Drv::new(name).outputs(&["out", "dev"]).file("data", &file).script(&script)
    }

    /// Waits until no build is running and no lock is held. Asserts that the records have no false failures.
    #[track_caller]
    pub fn assert_quiet(&self, case: &str) {
        wait_until(&format!("{case}: no build is running"), LONG, || !self.machines.iter().any(Host::is_building));
        self.head.await_no_lock(case);
        for number in 0..self.machines.len() {
            // A probe whose process was killed counts as one without a response. No other failure may be recorded.
            let is_unanswered = |failures: &Failures| failures.error == "no response to the last probe";
            let health = self.record(number).read();
            assert!(health.failures.as_ref().is_none_or(is_unanswered), "{case}: {health:?}");
        }
    }

    /// Collects garbage on all hosts. Asserts that all remaining items are valid, and that none is a bundle of inputs.
    #[track_caller]
    pub fn assert_all_is_collected(&self) {
        self.collect(&self.hosts().collect::<Vec<_>>());
        for host in self.hosts() {
            assert_eq!(leftovers(host), [""; 0], "on {}", host.name());
            let valid = host.valid_paths();
            assert!(!valid.iter().any(|path| path.ends_with("-offload-inputs")), "{valid:?}");
        }
    }

    /// Runs `guix gc` on some hosts at the same time.
    pub fn collect(&self, hosts: &[&Host]) {
        thread::scope(|scope| hosts.iter().for_each(|host| drop(scope.spawn(|| host.run("guix", &["gc"])))));
    }

    /// Verifies all stores with Guix.
    #[track_caller]
    pub fn verify(&self) {
        self.hosts().for_each(Host::verify_store);
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.machines.iter().chain([&self.head])
    }
}

/// Adds a derivation and builds it on a build machine.
pub fn build(head: &Host, drv: &Drv) -> Ended {
    let mut client = head.direct();
    let made = client.make(drv);
    ended(&mut client, &made)
}

/// Builds a derivation that has been added.
pub fn ended(client: &mut Direct<'_>, made: &Made) -> Ended {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    client.daemon().set_log(Some(Box::new(move |text| sink.lock().unwrap().extend_from_slice(text))));
    let (status, message) = match client.build_paths(std::slice::from_ref(&made.path)) {
        Ok(_) => (Some(0), String::new()),
        Err(daemon::Error::Daemon { status, message, .. }) => (Some(status), message),
        Err(daemon::Error::Link { .. }) => (None, String::new()),
        Err(error) => panic!("{error}"),
    };
    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    Ended { status, log: log + &message }
}

/// Builds, and asserts that the outputs are valid and complete, and that no other files of theirs are left.
#[track_caller]
pub fn assert_builds(case: &str, head: &Host, drv: &Drv, size: usize) {
    let ended = build(head, drv);
    assert_eq!(ended.status, Some(0), "{case}: {}", ended.log);
    let output = head.direct().make(drv).output().to_string();
    assert!(head.path_info(&output).is_some(), "{case}: {output} is not valid");
    assert_eq!(fs::metadata(head.path(&output).join("data")).unwrap().len(), (size * MIB) as u64, "{case}");
    let dev = fs::read_link(head.path(&output).join("dev")).unwrap();
    assert!(head.path_info(&dev).is_some() && head.path(&dev).exists(), "{case}: {} is not valid", dev.display());
    assert_eq!(leftovers_of(head, &[Path::new(&output), &dev]), [""; 0], "{case}");
}

/// Returns the names of the files in a store that belong to no valid item.
pub fn leftovers(host: &Host) -> Vec<String> {
    let valid: BTreeSet<PathBuf> = host.valid_paths().into_iter().collect();
    let names = fs::read_dir(host.path("/gnu/store")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.filter(|name| name != ".links" && !valid.contains(&Path::new("/gnu/store").join(name)));
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Returns those leftovers whose names begin with the name of an output.
fn leftovers_of(host: &Host, outputs: &[&Path]) -> Vec<String> {
    let mut names = leftovers(host);
    names.retain(|name| outputs.iter().any(|output| name.starts_with(output.file_name().unwrap().to_str().unwrap())));
    names
}

/// Mounts a separate file system, which the supervisor of the lab unmounts in the end.
pub fn mount(host: &Host, place: &str, options: &str) {
    let place = host.path(place);
    fs::create_dir_all(&place).unwrap();
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place).status().unwrap();
    assert!(status.success());
}
