//! Takes the snapshot of a machine: probes it, and reads the records of this head.

use std::collections::BTreeSet;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::snapshot::{Build, Drained, Failures, MachineSnapshot, MachineState, OpenConnection, PowerReport};
use crate::build::MachineLink;
use crate::commands::contact::{self, ContactError};
use crate::daemon::Client;
use crate::engine::Engine;
use crate::machine::{Machine, StartedAs, label};
use crate::remote::owner;
use crate::state::health::{self, Time};
use crate::state::{Drain, HealthRecord, Phase, PowerRecord, Slots, StateError, SubstituteRecord};
use crate::status::MachineStatus;

/// Takes snapshots of one machine, over an open connection.
pub struct SnapshotSource<'a> {
    machine: &'a Machine,
    engine: &'a Engine,
    link: Option<MachineLink>,
}

impl<'a> SnapshotSource<'a> {
    pub fn new(machine: &'a Machine, engine: &'a Engine) -> SnapshotSource<'a> {
        SnapshotSource { machine, engine, link: None }
    }

    /// Returns the current state of the machine.
    pub fn snapshot(&mut self) -> MachineSnapshot {
        // Before the probe, which uses one of them.
        let connections = self.connections();
        let mut snapshot = self.known();
        if let Some(state) = snapshot.power.as_ref().and_then(power_state) {
            snapshot.connections = connections;
            snapshot.state = if self.machine.enabled { state } else { MachineState::Disabled };
            return snapshot;
        }
        let probed = self.probe();
        // The probe has changed the records.
        snapshot = self.known();
        snapshot.connections = connections;
        match probed {
            Ok((status, protocol, guix)) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
                snapshot.reachable = true;
                snapshot.clock_skew = status.clock_skew(now);
                (snapshot.protocol, snapshot.guix) = (Some(protocol), Some(guix));
                snapshot.status = status;
                snapshot.state = self.state(&snapshot);
            }
            Err(ContactError { message, is_misconfigured, .. }) => {
                self.link = None;
                let (error, hint) = match message.split_once("\n  hint: ") {
                    Some((error, hint)) => (error.to_owned(), Some(hint.to_owned())),
                    None => (message, None),
                };
                (snapshot.error, snapshot.hint) = (Some(error), hint);
                snapshot.state = match (self.machine.enabled, is_misconfigured) {
                    (false, _) => MachineState::Disabled,
                    (true, true) => MachineState::Misconfigured,
                    (true, false) => MachineState::Unreachable,
                };
            }
        }
        snapshot
    }

    /// Returns the state of the machine as the records of this head have it. The machine is not contacted.
    pub fn recorded(&self) -> MachineSnapshot {
        let mut snapshot = self.known();
        let is_skipped = snapshot.failures.as_ref().is_some_and(|failures| failures.until > health::now() / 1000);
        snapshot.state = match self.machine.enabled && is_skipped {
            true => MachineState::Unreachable,
            false => self.state(&snapshot),
        };
        snapshot
    }

    /// Probes the machine: its status, and the version of its daemon.
    fn probe(&mut self) -> Result<(MachineStatus, String, String), ContactError> {
        let is_alive = |client: &mut Client<_>| client.query_valid_paths(&BTreeSet::new()).is_ok();
        let link = match self.link.take().map(|mut link| (is_alive(&mut link.client), link)) {
            Some((true, link)) => link,
            _ => contact::contact(self.engine, self.machine)?,
        };
        let status = contact::probe(self.engine, &link)?;
        let version = link.client.version();
        self.link = Some(link);
        contact::record_works(self.engine, self.machine, status.clone());
        Ok((status, version.to_string(), version.releases().to_owned()))
    }

    /// Returns the open connections; none if this user may not see them.
    fn connections(&self) -> Vec<OpenConnection> {
        let sessions = owner::sessions(&self.engine.state.persist_directory(), Some(self.machine)).unwrap_or_default();
        let now = health::now() / 1000;
        let connection = |session: owner::Session| {
            let owner::Report { age, streams, idle, sent, received, .. } = session.report;
            OpenConnection { pid: session.process(), since: now.saturating_sub(age), streams, idle, sent, received }
        };
        sessions.into_iter().map(connection).collect()
    }

    /// Returns the records of this head.
    fn known(&self) -> MachineSnapshot {
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
        let failures = HealthRecord::of(state, machine).ok().and_then(|record| record.read().failures);
        let drained = Drain::of(state, machine).ok().and_then(|drain| drain.read(health::now()));
        let power = machine.on_demand.as_ref().and_then(|_| PowerRecord::of(state, machine).ok()).map(|record| {
            let power = record.read();
            PowerReport {
                phase: power.phase,
                since: seconds(power.since),
                boot_seconds: power.boot_time().map(|time| time.as_secs_f64()),
                hours: power.ran_within_span(health::now()) as f64 / 3_600_000.0,
                contact: power
                    .started_as
                    .apply(machine)
                    .contact
                    .filter(|_| power.started_as != StartedAs::default())
                    .map(|(name, port)| label(&name, port)),
                error: power.error,
            }
        });
        MachineSnapshot {
            name: machine.name.clone(),
            port: machine.port,
            state: MachineState::Unreachable,
            reachable: false,
            error: None,
            hint: None,
            status: MachineStatus::default(),
            protocol: None,
            guix: None,
            clock_skew: None,
            slots: machine.parallel_builds,
            taken: taken.as_ref().map(Vec::len),
            slots_error,
            builds: builds.collect(),
            connections: Vec::new(),
            failures: failures.map(|failures| Failures {
                since: seconds(failures.since),
                count: failures.count,
                until: seconds(failures.last) + failures.back_off().as_secs(),
                error: failures.error,
            }),
            drained: drained
                .map(|drained| Drained { since: seconds(drained.since), until: drained.until.map(seconds) }),
            power,
            substitutes: SubstituteRecord::of(state, machine).map(|record| record.read()).unwrap_or_default(),
        }
    }

    fn state(&self, snapshot: &MachineSnapshot) -> MachineState {
        let machine = self.machine;
        let is_above = |threshold: f64| snapshot.status.load().is_some_and(|load| load > threshold);
        if !machine.enabled {
            MachineState::Disabled
        } else if let Some(state) = snapshot.power.as_ref().and_then(power_state) {
            state
        } else if snapshot.drained.is_some() {
            MachineState::Drained
        } else if snapshot.status.free_disk.is_some_and(|free| free < machine.minimum_disk_space) {
            MachineState::DiskLow
        } else if machine.overload_threshold.is_some_and(is_above) {
            MachineState::Overloaded
        } else if snapshot.taken.is_some_and(|taken| taken >= machine.parallel_builds as usize) {
            MachineState::Busy
        } else {
            MachineState::Ready
        }
    }
}

/// Returns the state of a machine that does not run.
fn power_state(power: &PowerReport) -> Option<MachineState> {
    match power.phase {
        Phase::Running => None,
        Phase::Off => Some(MachineState::Off),
        Phase::Starting => Some(MachineState::Starting),
        Phase::Stopping => Some(MachineState::Stopping),
    }
}

#[cfg(test)]
mod tests {
    use crate::hook::HookArguments;
    use crate::local::Directories;
    use crate::state::{Health, SlotHolder};

    use super::*;

    #[test]
    fn a_back_off_begins_with_the_last_failure() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories { state: directory.path().to_owned(), ..Directories::default() };
        let engine = Engine::new(directories, HookArguments::without_limits("x86_64-linux"));
        let machine = Machine::new("b1", "u", Vec::new(), Vec::new());
        let failed = Health::default().after_failure("lost", 1_000).after_failure("lost again", 500_000);
        let back_off = failed.failures.as_ref().unwrap().back_off().as_secs();
        HealthRecord::of(&engine.state, &machine).unwrap().change(|_| failed).unwrap();
        let shown = SnapshotSource::new(&machine, &engine).known().failures.unwrap();
        assert_eq!((shown.since, shown.count, shown.until), (1, 2, 500 + back_off));
    }

    #[test]
    fn the_state_is_the_first_reason_against_a_build() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories { state: directory.path().to_owned(), ..Directories::default() };
        let engine = Engine::new(directories, HookArguments::without_limits("x86_64-linux"));
        let mut machine = Machine { parallel_builds: 2, ..Machine::new("b1", "root", Vec::new(), Vec::new()) };
        let recorded = |machine: &Machine| SnapshotSource::new(machine, &engine).recorded().state;
        assert_eq!(recorded(&machine), MachineState::Ready);
        let slots = Slots::of(&engine.state, &machine).unwrap();
        let take = || slots.try_take(&SlotHolder::this_process("/gnu/store/x.drv")).unwrap().unwrap();
        let _first = take();
        assert_eq!(recorded(&machine), MachineState::Ready);
        let _last = take();
        assert_eq!(recorded(&machine), MachineState::Busy);
        let drained = crate::state::Drained { since: 0, until: None };
        Drain::of(&engine.state, &machine).unwrap().set(&drained).unwrap();
        assert_eq!(recorded(&machine), MachineState::Drained);
        let failed = |health: Health| health.after_failure("no route", health::now());
        HealthRecord::of(&engine.state, &machine).unwrap().change(failed).unwrap();
        assert_eq!(recorded(&machine), MachineState::Unreachable);
        machine.enabled = false;
        assert_eq!(recorded(&machine), MachineState::Disabled);
    }
}
