//! Where one measurement is made: a head, a connection to its daemon, and names that nothing else has.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use offload::internals::machine_file::{self, LoadContext};
use offload::internals::remote::Connection;
use offload::internals::state::{Health, health};
use offload::internals::store::path::StorePath;

use crate::lab::{Direct, Drv, Host};
use crate::pool::{Pool, Side};
use crate::usage::{self, Usage};

/// How long the build machines get to end their sessions before their processor time is looked at.
const AFTERMATH: Duration = Duration::from_millis(250);

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub elapsed: Duration,
    /// Of the hooks and their children.
    pub usage: Usage,
    /// Processor time of all hosts together.
    pub everywhere: Duration,
    /// From the end of the last hook to that of the work: the head's daemon registers the outputs.
    pub registration: Duration,
    /// The time of the [bare work](crate::works::Work::bare), if there is one.
    pub bare: Option<Duration>,
}

pub struct Site<'a> {
    pub pool: &'a Pool,
    pub head: &'a Host,
    pub side: Side,
    pub direct: Direct<'a>,
    /// Builds are done on the head itself.
    is_local: bool,
    tag: String,
}

impl<'a> Site<'a> {
    /// `round` distinguishes the measurements of a side.
    pub fn new(pool: &'a Pool, side: Side, is_local: bool, round: usize) -> Site<'a> {
        let head = pool.head(side);
        let tag = format!("{side:?}-{}{round}", if is_local { "local-" } else { "" }).to_lowercase();
        let mut site = Site { pool, head, side, direct: head.direct(), is_local, tag };
        site.go_on();
        // The log of the hook, if the user raised its level.
        if std::env::var_os("OFFLOAD_LOG").is_some() {
            site.direct.daemon().set_log(Some(Box::new(|text| eprint!("{}", String::from_utf8_lossy(text)))));
        }
        site
    }

    /// A connection of the benchmark's own to the first build machine, as the machine file says.
    pub fn connect(&self) -> Connection {
        let context = LoadContext { home: Some("/root".into()), ..LoadContext::default() };
        let pool = machine_file::load(&self.head.path("/etc/guix/machines.lua"), &context).unwrap();
        let mut machine = pool.machines[0].machine.clone();
        machine.name = self.pool.machines()[0].ssh_address().ip().to_string();
        machine.private_key = machine.private_key.map(|key| self.head.path(key.to_str().unwrap()));
        Connection::open(&machine).unwrap()
    }

    /// A name that is unique in the pool.
    pub fn name(&self, name: &str) -> String {
        format!("{name}-{}", self.tag)
    }

    pub fn drv(&self, name: &str) -> Drv {
        Drv::new(&self.name(name))
    }

    /// Builds on the head, not on a machine.
    pub fn build_here(&mut self, drv: &Drv) {
        self.direct.build_locally(4);
        self.direct.build(&[drv]).unwrap();
        self.go_on();
    }

    fn go_on(&mut self) {
        if self.is_local {
            self.direct.build_locally(4);
        } else {
            self.direct.set_options(&self.direct.options());
        }
    }

    /// Forgets what the head's hook remembers of the build machines.
    pub fn forget_machines(&self) {
        let _ = std::fs::remove_dir_all(self.head.path("/var/guix/offload"));
    }

    /// Waits until an idle connection has been probed, and makes the records of the machines old.
    pub fn pause(&self) {
        if self.is_local {
            return;
        }
        thread::sleep(Duration::from_secs(17));
        let old = health::now() - 60_000;
        for machine in self.pool.machines() {
            self.head.change_health(machine.name(), |health| Health { measured: Some(old), ..health });
        }
    }

    /// Ends all persistent connections.
    pub fn forget_connections(&self) {
        let _ = std::fs::remove_dir_all(self.head.path("/var/guix/offload/persist"));
    }

    /// A text item of `size` bytes that nothing else has. It does not compress well.
    pub fn text(&mut self, name: &str, size: usize) -> StorePath {
        let name = self.name(name);
        let mut state = name
            .bytes()
            .fold(0x1234_5678_9abc_def1_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'0' + (state >> 58) as u8
        };
        let text: Vec<u8> = (0..size).map(|_| next()).collect();
        self.direct.daemon().add_text_to_store(&name, &text, &Default::default()).unwrap()
    }

    /// Has derivations built that are in the store already.
    pub fn measure(&mut self, drvs: &[StorePath]) -> Sample {
        usage::take(self.head);
        let before = self.pool.processor_time();
        let elapsed = self.direct.build_paths(drvs).unwrap_or_else(|error| {
            panic!("{}: {error}\n{}", self.tag, self.head.daemon_log());
        });
        self.sample(before, elapsed, SystemTime::now())
    }

    /// Measures something else than a build.
    pub fn measure_with(&mut self, run: impl FnOnce(&Host)) -> Sample {
        usage::take(self.head);
        let before = self.pool.processor_time();
        let start = Instant::now();
        run(self.head);
        self.sample(before, start.elapsed(), SystemTime::now())
    }

    fn sample(&self, before: Duration, elapsed: Duration, end: SystemTime) -> Sample {
        thread::sleep(AFTERMATH);
        let everywhere = self.pool.processor_time().saturating_sub(before);
        let usage = usage::take(self.head);
        let registration = usage.end.and_then(|hook| end.duration_since(hook).ok()).unwrap_or_default();
        Sample { elapsed, usage, everywhere, registration, bare: None }
    }

    /// Adds the derivation and has it built.
    pub fn measure_drv(&mut self, drv: &Drv) -> Sample {
        let made = self.direct.make(drv);
        self.measure(&[made.path])
    }
}

/// Has one derivation built; returns the seconds.
pub fn seconds_of(direct: &mut Direct<'_>, head: &Host, drv: &Drv) -> f64 {
    direct.build(&[drv]).unwrap_or_else(|error| panic!("{error}\n{}", head.daemon_log())).as_secs_f64()
}
