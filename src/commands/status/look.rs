//! Looking at one machine: what it says of itself, and what this head knows of it.

use std::collections::BTreeSet;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::daemon::Client;
use crate::engine::Engine;
use crate::job::{Reached, reach, remember_success};
use crate::machine::Machine;
use crate::state::health::{self, Time};
use crate::state::{Drain, HealthRecord, Slots, StateError};

/// How a machine is. What is not known is null in JSON, and missing in a record.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    pub name: String,
    pub port: u16,
    pub state: State,
    pub reachable: bool,
    /// Why it is not reachable, and what to do about it.
    pub error: Option<String>,
    pub hint: Option<String>,
    pub host_name: Option<String>,
    pub kernel: Option<String>,
    pub architecture: Option<String>,
    /// Seconds since it was started.
    pub uptime: Option<u64>,
    /// The version of the worker protocol that its daemon speaks, and the releases of Guix that do.
    pub protocol: Option<String>,
    pub guix: Option<String>,
    /// Load averages of 1, 5 and 15 minutes.
    pub load1: Option<f64>,
    pub load5: Option<f64>,
    pub load15: Option<f64>,
    pub cores: Option<u32>,
    /// Percentages of the last ten seconds in which some process waited.
    pub pressure_cpu: Option<f64>,
    pub pressure_memory: Option<f64>,
    pub pressure_io: Option<f64>,
    /// Bytes.
    pub free_memory: Option<u64>,
    pub free_disk: Option<u64>,
    pub free_inodes: Option<u64>,
    /// Seconds that its clock is ahead of this machine's.
    pub clock_skew: Option<f64>,
    pub slots: u32,
    /// Slots that this head's hooks hold.
    pub taken: Option<usize>,
    /// Why they cannot be counted, if it is not that this user may not.
    #[serde(skip)]
    pub slots_error: Option<String>,
    pub builds: Vec<Build>,
    pub trouble: Option<Trouble>,
    pub drained: Option<Drained>,
}

/// What it is good for just now; the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// `enabled` is false.
    Disabled,
    Unreachable,
    Drained,
    /// Less is free in its store than `minimum_disk_space`.
    DiskLow,
    /// Its load is above `overload_threshold`.
    Overloaded,
    /// All its slots are taken.
    Busy,
    Ready,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Disabled => "disabled",
            State::Unreachable => "unreachable",
            State::Drained => "drained",
            State::DiskLow => "disk-low",
            State::Overloaded => "overloaded",
            State::Busy => "busy",
            State::Ready => "ready",
        }
    }
}

/// Who has a slot.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    pub slot: u32,
    /// The hook process.
    pub pid: Option<u32>,
    pub derivation: Option<String>,
    /// Seconds since 1970.
    pub since: Option<u64>,
}

/// Failures in a row, as hooks remember them. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct Trouble {
    pub since: u64,
    pub count: u32,
    pub error: String,
    /// Until then hooks leave the machine alone.
    pub until: u64,
}

/// Since when it is drained, and until when. Seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct Drained {
    pub since: u64,
    pub until: Option<u64>,
}

/// Looks at one machine, over a connection that is kept.
pub struct Look<'a> {
    machine: &'a Machine,
    engine: &'a Engine,
    link: Option<Reached>,
}

impl<'a> Look<'a> {
    pub fn new(machine: &'a Machine, engine: &'a Engine) -> Look<'a> {
        Look { machine, engine, link: None }
    }

    /// How the machine is now.
    pub fn look(&mut self) -> Seen {
        let asked = self.ask();
        let mut seen = self.known();
        match asked {
            Ok((status, protocol, guix)) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
                seen.reachable = true;
                seen.clock_skew = status.clock_skew(now);
                (seen.protocol, seen.guix) = (Some(protocol), Some(guix));
                (seen.load1, seen.load5, seen.load15) = (status.load1, status.load5, status.load15);
                (seen.cores, seen.uptime) = (status.cores, status.uptime);
                (seen.pressure_cpu, seen.pressure_memory) = (status.pressure_cpu, status.pressure_memory);
                (seen.pressure_io, seen.free_memory) = (status.pressure_io, status.free_memory);
                (seen.free_disk, seen.free_inodes) = (status.store_free, status.store_free_inodes);
                let load = status.load();
                (seen.host_name, seen.kernel) = (status.host_name, status.kernel);
                seen.architecture = status.architecture;
                seen.state = self.state(&seen, load);
            }
            Err(message) => {
                self.link = None;
                let (error, hint) = match message.split_once("\n  hint: ") {
                    Some((error, hint)) => (error.to_owned(), Some(hint.to_owned())),
                    None => (message, None),
                };
                (seen.error, seen.hint) = (Some(error), hint);
                seen.state = if self.machine.enabled { State::Unreachable } else { State::Disabled };
            }
        }
        seen
    }

    /// What it says: its status, and the version of its daemon.
    fn ask(&mut self) -> Result<(crate::status::Status, String, String), String> {
        let store = &self.engine.directories.store;
        let is_alive = |client: &mut Client<_>| client.query_valid_paths(&BTreeSet::new()).is_ok();
        let link = match self.link.take().map(|mut link| (is_alive(&mut link.client), link)) {
            Some((true, link)) => link,
            _ => reach(&self.engine.state, self.machine, store)?,
        };
        let status = link.connection.probe(store.as_str()).map_err(|error| error.to_string())?;
        let version = link.client.version();
        self.link = Some(link);
        if self.engine.state.of(self.machine).is_ok() {
            remember_success(&self.engine.state, self.machine, status.clone());
        }
        Ok((status, version.to_string(), version.releases().to_owned()))
    }

    /// What this head knows of it.
    fn known(&self) -> Seen {
        let (machine, state) = (self.machine, &self.engine.state);
        let seconds = |time: Time| time / 1000;
        let counted = Slots::of(state, machine).and_then(|slots| slots.taken());
        let is_odd = |error: &&StateError| error.cause.kind() != io::ErrorKind::PermissionDenied;
        let slots_error = counted.as_ref().err().filter(is_odd).map(StateError::to_string);
        let taken = counted.ok();
        let builds = taken.iter().flatten().map(|(slot, holder)| Build {
            slot: *slot,
            pid: holder.as_ref().map(|holder| holder.pid),
            derivation: holder.as_ref().map(|holder| holder.derivation.clone()),
            since: holder.as_ref().map(|holder| holder.since),
        });
        let trouble = HealthRecord::of(state, machine).ok().and_then(|record| record.read().trouble);
        let drained = Drain::of(state, machine).ok().and_then(|drain| drain.read(health::now()));
        Seen {
            name: machine.name.clone(),
            port: machine.port,
            state: State::Unreachable,
            reachable: false,
            error: None,
            hint: None,
            host_name: None,
            kernel: None,
            architecture: None,
            uptime: None,
            protocol: None,
            guix: None,
            load1: None,
            load5: None,
            load15: None,
            cores: None,
            pressure_cpu: None,
            pressure_memory: None,
            pressure_io: None,
            free_memory: None,
            free_disk: None,
            free_inodes: None,
            clock_skew: None,
            slots: machine.parallel_builds,
            taken: taken.as_ref().map(Vec::len),
            slots_error,
            builds: builds.collect(),
            trouble: trouble.map(|trouble| Trouble {
                since: seconds(trouble.since),
                count: trouble.count,
                until: seconds(trouble.last) + trouble.back_off().as_secs(),
                error: trouble.error,
            }),
            drained: drained
                .map(|drained| Drained { since: seconds(drained.since), until: drained.until.map(seconds) }),
        }
    }

    fn state(&self, seen: &Seen, load: Option<f64>) -> State {
        let machine = self.machine;
        let is_above = |threshold: f64| load.is_some_and(|load| load > threshold);
        if !machine.enabled {
            State::Disabled
        } else if seen.drained.is_some() {
            State::Drained
        } else if seen.free_disk.is_some_and(|free| free < machine.minimum_disk_space) {
            State::DiskLow
        } else if machine.overload_threshold.is_some_and(is_above) {
            State::Overloaded
        } else if seen.taken.is_some_and(|taken| taken >= machine.parallel_builds as usize) {
            State::Busy
        } else {
            State::Ready
        }
    }
}
