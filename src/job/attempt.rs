//! One try to build on one machine: connect, send, build, retrieve.

use std::error::Error;

use log::debug;

use super::look::how_to_look;
use super::reach::{Reached, daemon_failed};
use super::remember::{remember_failure, remember_success};
use super::verdict::{Verdict, verdict};
use super::{Chosen, Job, Network};
use crate::crash::{Point, point};
use crate::daemon::{self, Client, Options};
use crate::error::{Failure, with_causes};
use crate::events::{Event, Observer};
use crate::hook::BuildLog;
use crate::hook::descriptors::PREFIX;
use crate::machine::Machine;
use crate::remote::{Connection, DaemonStream, Patience, patience};
use crate::schedule::{self, Choice};
use crate::state::health::{self, FRESH};
use crate::state::{HealthRecord, Slot};
use crate::status::Status;
use crate::store::path::StorePath;
use crate::timing::Stopwatch;
use crate::transfer::retrieve::Wanted;
use crate::transfer::{self, Head, Retrieved, Signer, Turns};

impl Job<'_> {
    /// Builds on the machine that was chosen, and puts the outputs in their places.
    pub(super) fn attempt(
        &self,
        choice: Chosen,
        world: &Network,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let Choice { machine, slot, link } = choice;
        let machine = self.failover.machines[machine];
        let derivation = &self.failover.request.derivation;
        observer.observe(&Event::Offloading { derivation, machine: &machine.name });
        let head = Head::open(self.directories).map_err(|error| Failure::Head(with_causes(&error)))?;
        point(Point::HeadOpened);
        let on = On { job: self, machine, world, head: &head };
        let retrieved = on.build(slot, link, log, observer)?;
        point(Point::SlotReleased);
        let mut stopwatch = Stopwatch::start();
        retrieved.place().map_err(|error| Failure::Head(with_causes(&error)))?;
        stopwatch.lap("place");
        observer.observe(&Event::Done { derivation, machine: &machine.name });
        Ok(())
    }
}

/// A job on one machine.
struct On<'a> {
    job: &'a Job<'a>,
    machine: &'a Machine,
    world: &'a Network,
    head: &'a Head<'a>,
}

impl<'a> On<'a> {
    /// All that needs the machine. The slot is given back when that is done.
    fn build(
        &self,
        _slot: Slot,
        link: Option<Reached>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Retrieved<'a>, Failure> {
        let job = self.job;
        let Reached { mut client, connection } = match link {
            Some(reached) => reached,
            None => schedule::connect(self.machine, self.world).map_err(|cause| self.failure(cause))?,
        };
        let max_silent_time = job.failover.arguments.max_silent_time;
        let patience = Patience::answer(self.machine, max_silent_time);
        client.stream_mut().set_patience(patience.clone());
        let mut stopwatch = Stopwatch::start();
        client.set_options(&self.options()).map_err(|error| self.daemon_failed("greeting its daemon", &error))?;
        stopwatch.lap("options");
        point(Point::OptionsSet);

        let turns = self.turns();
        let mut signer = Signer::new(&connection, &patience, &turns);
        transfer::send(&mut client, self.head, job.inputs, &mut signer, &turns, observer)
            .map_err(|error| self.transfer_failed("sending inputs", error.is_of_machine(), &error))?;

        point(Point::InputsProtected);
        let derivation = &job.failover.request.derivation;
        observer.observe(&Event::Building { derivation, machine: &self.machine.name });
        let mut stopwatch = Stopwatch::start();
        let mut sink = log.sink().map_err(|error| Failure::Head(format!("no build log: {error}")))?;
        sink(first_line(derivation, &self.machine.name).as_bytes());
        client.set_log(Some(sink));
        client.stream_mut().set_patience(Patience::build(self.machine, max_silent_time));
        let built = client.start_build(&[derivation.clone()].into()).and_then(|()| {
            point(Point::BuildStarted);
            signer.start_late(&mut client);
            client.finish_build()
        });
        client.set_log(None);
        client.stream_mut().set_patience(patience);
        stopwatch.lap("build");
        if let Err(error) = built {
            return Err(self.judge(error, &mut client, &connection));
        }

        point(Point::BuildEnded);
        self.world.remember_stock(self.machine);

        let wanted = Wanted { derivation, inputs: job.inputs, outputs: job.outputs };
        // The first connection stays open for what it protects from the garbage collector.
        let mut second = signer.ready();
        let exporter = second.as_mut().unwrap_or(&mut client);
        let retrieved = transfer::retrieve(exporter, self.head, &wanted, connection.compressed(), &turns, observer)
            .map_err(|error| self.transfer_failed("retrieving outputs", error.is_of_machine(), &error))?;
        self.refresh_status(&connection);
        point(Point::Retrieved);
        Ok(retrieved)
    }

    fn turns(&self) -> Turns<'a> {
        let max_silent_time = self.job.failover.arguments.max_silent_time;
        let say_every = patience::line_every(max_silent_time);
        Turns { state: self.job.state, machine: self.machine, limit: patience::LONGEST_TURN, say_every }
    }

    fn options(&self) -> Options {
        Options {
            build_timeout: self.job.failover.arguments.build_timeout,
            max_silent_time: self.job.failover.arguments.max_silent_time,
            use_substitutes: self.machine.use_substitutes,
            ..Options::default()
        }
    }

    /// What a failed build means.
    fn judge(&self, error: daemon::Error, client: &mut Client<DaemonStream>, connection: &Connection) -> Failure {
        let daemon::Error::Daemon { message, status, .. } = &error else {
            return self.daemon_failed("building", &error);
        };
        let job = self.job;
        let lost = match client.query_valid_paths(job.inputs) {
            Ok(present) => job.inputs.len() - present.len(),
            Err(error) => return self.daemon_failed("judging the failed build", &error),
        };
        let mut has_commands = false;
        let free = match connection.probe(job.directories.store.as_str()) {
            Ok(status) => {
                has_commands = status != Status::default();
                remember_success(job.state, self.machine, status.clone());
                status.store_free
            }
            // The daemon has spoken, and what it said stands.
            Err(error) => {
                debug!("no status after a failed build: {error}");
                None
            }
        };
        let (derivation, machine) = (job.failover.request.derivation.to_string(), self.machine.name.clone());
        let look = how_to_look(self.machine, &job.failover.request.derivation, has_commands);
        let message = message.clone();
        match verdict(*status, free, lost) {
            Verdict::Failed => Failure::Build { derivation, machine, message: message + &look },
            Verdict::TimedOut => Failure::TimedOut { derivation, machine, message: message + &look },
            // The machine answers, and may be good for other builds.
            Verdict::Machine(Some(why)) => Failure::Machine { machine, cause: format!("{message}; {why}") },
            Verdict::Machine(None) => Failure::Refused { machine, cause: message },
        }
    }

    /// Measures again, so that the next decision finds a fresh record. Not worth a failure.
    fn refresh_status(&self, connection: &Connection) {
        let record = HealthRecord::of(self.job.state, self.machine).map(|record| record.read()).unwrap_or_default();
        if record.trouble.is_none() && record.age(health::now()).is_some_and(|age| age < FRESH / 2) {
            return;
        }
        match connection.probe(self.job.directories.store.as_str()) {
            Ok(status) => remember_success(self.job.state, self.machine, status),
            Err(error) => debug!("no status after the build: {error}"),
        }
    }

    /// `phase` is what was going on.
    fn daemon_failed(&self, phase: &str, error: &daemon::Error) -> Failure {
        self.failed(daemon_failed(phase, error))
    }

    fn transfer_failed(&self, phase: &str, is_of_machine: bool, error: &dyn Error) -> Failure {
        let cause = with_causes(error);
        if is_of_machine { self.failed(format!("{phase}: {cause}")) } else { Failure::Head(cause) }
    }

    /// The machine is at fault, and other builds need not find out for themselves.
    fn failed(&self, cause: String) -> Failure {
        remember_failure(self.job.state, self.machine, &cause);
        self.failure(cause)
    }

    fn failure(&self, cause: String) -> Failure {
        Failure::Machine { machine: self.machine.name.clone(), cause }
    }
}

/// What the build log begins with, so that it tells where it comes from.
fn first_line(derivation: &StorePath, machine: &str) -> String {
    format!("{PREFIX}building '{derivation}' on '{machine}'\n")
}
