//! One try to build on one machine: connect, send, build, retrieve.

use std::cell::Cell;
use std::error::Error;

use log::{debug, warn};

use super::connect::connect;
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
use crate::state::logins::Logins;
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
        let on = On { job: self, machine, world, head: &head, blame: Cell::default(), borrowed: Cell::default() };
        let retrieved = on.build(slot, link, log, observer)?;
        point(Point::SlotReleased);
        let mut stopwatch = Stopwatch::start();
        retrieved.place().map_err(|error| Failure::Head(with_causes(&error)))?;
        stopwatch.lap("place");
        if let Some(connection) = on.borrowed.take() {
            // That takes a login, and nothing is to wait for it.
            on.refresh_status(&connection);
        }
        observer.observe(&Event::Done { derivation, machine: &machine.name });
        Ok(())
    }
}

/// What a build gives, with the second connection to the daemon if there is one.
type Built<'a> = (Retrieved<'a>, Option<Client<DaemonStream>>);

/// A job on one machine.
pub(super) struct On<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) machine: &'a Machine,
    pub(super) world: &'a Network,
    head: &'a Head<'a>,
    /// What the machine is at fault for.
    blame: Cell<Option<String>>,
    /// The connection that was borrowed for the build.
    borrowed: Cell<Option<Connection>>,
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
        let result = self.build_somehow(link, log, observer);
        if let Some(cause) = self.blame.take() {
            // Other builds need not find out for themselves.
            remember_failure(self.job.state, self.machine, &cause);
        }
        result
    }

    /// Builds over the connection over which the machine was asked, else over one that was kept, else over a new one.
    fn build_somehow(
        &self,
        link: Option<Reached>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Retrieved<'a>, Failure> {
        if link.is_none()
            && let Some(mut lent) = self.borrow()
        {
            let result = self.build_over(&mut lent, log, observer);
            // Then it is not the machine that is to blame.
            let has_lost_keeper = result.is_err() && lent.client.stream_mut().has_lost_keeper();
            let why = if has_lost_keeper { self.blame.take() } else { None };
            let Some(why) = why else { return result.map(|built| self.kept(built, lent)) };
            warn!("{why}; building over a new connection");
        }
        let reached = match link {
            Some(reached) => reached,
            None => schedule::connect(self.machine, self.world).map_err(|cause| self.failure(cause))?,
        };
        let mut reached = self.greet(reached)?;
        let built = self.build_over(&mut reached, log, observer)?;
        Ok(self.kept(built, reached))
    }

    /// Keeps the connection that is of most use to another build.
    fn kept(&self, (retrieved, second): Built<'a>, reached: Reached) -> Retrieved<'a> {
        self.keep(second.unwrap_or(reached.client));
        point(Point::ConnectionKept);
        self.borrowed.set(reached.connection.is_borrowed().then_some(reached.connection));
        retrieved
    }

    fn build_over(
        &self,
        reached: &mut Reached,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Built<'a>, Failure> {
        let job = self.job;
        let Reached { client, connection } = reached;
        let max_silent_time = job.failover.arguments.max_silent_time;
        let patience = Patience::answer(self.machine, max_silent_time);
        client.stream_mut().set_patience(patience.clone());
        point(Point::OptionsSet);

        let turns = self.turns();
        let mut signer = Signer::new(connection, &patience, &turns);
        transfer::send(client, self.head, job.inputs, &mut signer, &turns, observer)
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
            signer.start_late(client);
            client.finish_build()
        });
        client.set_log(None);
        client.stream_mut().set_patience(patience);
        stopwatch.lap("build");
        if let Err(error) = built {
            return Err(self.judge(error, client, connection));
        }

        point(Point::BuildEnded);
        self.world.remember_stock(self.machine);

        let wanted = Wanted { derivation, inputs: job.inputs, outputs: job.outputs };
        // The first one stays open for what it protects from the garbage collector.
        let mut second = signer.ready();
        let exporter = second.as_mut().unwrap_or(client);
        let retrieved = transfer::retrieve(exporter, self.head, &wanted, connection.compressed(), &turns, observer)
            .map_err(|error| self.transfer_failed("retrieving outputs", error.is_of_machine(), &error))?;
        if !connection.is_borrowed() {
            self.refresh_status(connection);
        }
        point(Point::Retrieved);
        Ok((retrieved, second))
    }

    /// Tells the daemon of a new connection how to build.
    fn greet(&self, mut reached: Reached) -> Result<Reached, Failure> {
        let patience = Patience::answer(self.machine, self.job.failover.arguments.max_silent_time);
        reached.client.stream_mut().set_patience(patience);
        let mut stopwatch = Stopwatch::start();
        let taken = reached.client.set_options(&self.options());
        stopwatch.lap("options");
        taken.map_err(|error| self.daemon_failed("greeting its daemon", &error))?;
        Ok(reached)
    }

    fn turns(&self) -> Turns<'a> {
        let max_silent_time = self.job.failover.arguments.max_silent_time;
        let say_every = patience::line_every(max_silent_time);
        Turns { state: self.job.state, machine: self.machine, limit: patience::LONGEST_TURN, say_every }
    }

    pub(super) fn options(&self) -> Options {
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
        let free = match self.probe(connection) {
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

    /// How the machine is doing. Where another process has the session, that takes a login, and its turn. The error is a
    /// message.
    fn probe(&self, connection: &Connection) -> Result<Status, String> {
        let own = if connection.is_borrowed() { Some(connect(self.job.state, self.machine)?) } else { None };
        let probed = own.as_ref().unwrap_or(connection).probe(self.job.directories.store.as_str());
        probed.map_err(|error| error.to_string())
    }

    /// Measures again, so that the next decision finds a fresh record. Not worth a failure. Where it takes a login, one
    /// process at a time does it.
    fn refresh_status(&self, connection: &Connection) {
        let Ok(record) = HealthRecord::of(self.job.state, self.machine) else { return };
        let is_fresh = || {
            let record = record.read();
            record.trouble.is_none() && record.age(health::now()).is_some_and(|age| age < FRESH / 2)
        };
        if is_fresh() {
            return;
        }
        let asking = if connection.is_borrowed() { record.try_ask().unwrap_or(None) } else { None };
        if connection.is_borrowed() && (asking.is_none() || is_fresh() || self.is_crowded()) {
            return;
        }
        match connection.probe(self.job.directories.store.as_str()) {
            Ok(status) => remember_success(self.job.state, self.machine, status),
            Err(error) => debug!("no status after the build: {error}"),
        }
    }

    /// Whether others are logging in to the machine.
    fn is_crowded(&self) -> bool {
        Logins::of(self.job.state, self.machine).and_then(|logins| logins.is_crowded(None)).unwrap_or(true)
    }

    /// `phase` is what was going on.
    fn daemon_failed(&self, phase: &str, error: &daemon::Error) -> Failure {
        self.failed(daemon_failed(phase, error))
    }

    fn transfer_failed(&self, phase: &str, is_of_machine: bool, error: &dyn Error) -> Failure {
        let cause = with_causes(error);
        if is_of_machine { self.failed(format!("{phase}: {cause}")) } else { Failure::Head(cause) }
    }

    /// The machine is at fault.
    fn failed(&self, cause: String) -> Failure {
        self.blame.set(Some(cause.clone()));
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
