//! A build, and each try at it on one machine: connect, send, build, retrieve.

use std::cell::Cell;
use std::error::Error;

use log::warn;

use super::classify_failure::classify_failure;
use super::persist::{self, OpenSessions};
use super::reach::{MachineLink, daemon_failed};
use super::record_health::{record_failure, refresh_status};
use super::watch::BuildWatch;
use super::{Build, Chosen, LiveEnvironment};
use crate::daemon::{self, Client, Options};
use crate::error::{Failure, with_causes};
use crate::events::{Event, Observer};
use crate::failpoints::{Failpoint, failpoint};
use crate::hook::BuildLog;
use crate::hook::descriptors::PREFIX;
use crate::local::LocalStore;
use crate::machine::Machine;
use crate::remote::{Connection, DaemonStream, SilencePolicy, timeouts};
use crate::scheduler::{self, Choice, Environment};
use crate::state::health::Availability;
use crate::state::{QueueTicket, Slot};
use crate::store::path::StorePath;
use crate::timing::Stopwatch;
use crate::transfer::download::Expected;
use crate::transfer::{self, Downloaded, SigningConnection, TransferLimiter};

impl Build<'_> {
    /// Builds. `first` is the machine chosen before the request was accepted; without one the build waits, at `ticket`
    /// in the line.
    pub fn run(
        &self,
        first: Option<Chosen>,
        ticket: Option<QueueTicket>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let sessions = self.persists_connections.then(|| self.sessions());
        let env = LiveEnvironment::new(self.state, &self.directories.store, self.failover.request, sessions);
        let mut attempt = |choice: Chosen, observer: &mut dyn Observer| self.attempt(choice, &env, log, observer);
        self.failover.run(first, ticket, &env, &mut attempt, observer)
    }

    /// Builds on the machine that was chosen, and puts the outputs in their places.
    fn attempt(
        &self,
        choice: Chosen,
        env: &LiveEnvironment,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let Choice { machine, slot, link } = choice;
        let machine = self.failover.machines[machine];
        let derivation = &self.failover.request.derivation;
        observer.observe(&Event::Offloading { derivation, machine: &machine.name });
        let local_store = LocalStore::open(self.directories).map_err(|error| Failure::Head(with_causes(&error)))?;
        failpoint(Failpoint::LocalStoreOpened);
        let options = persist::options(self.failover.arguments, machine);
        let attempt = Attempt {
            build: self,
            machine,
            env,
            local_store: &local_store,
            options: &options,
            sessions: self.persists_connections.then(|| self.sessions()),
            machine_fault: Cell::default(),
            has_wrong_signature: Cell::default(),
            has_lost_owner: Cell::default(),
            reused: Cell::default(),
        };
        let downloaded = attempt.build(slot, link, log, observer)?;
        failpoint(Failpoint::SlotReleased);
        let mut stopwatch = Stopwatch::start();
        downloaded.place().map_err(|error| Failure::Head(with_causes(&error)))?;
        stopwatch.lap("place");
        if let Some(connection) = attempt.reused.take() {
            // Nothing is to wait for it.
            refresh_status(self.state, machine, &self.directories.store, &connection);
        }
        observer.observe(&Event::Done { derivation, machine: &machine.name });
        Ok(())
    }

    fn sessions(&self) -> OpenSessions {
        OpenSessions::new(self.state, self.directories, self.failover.arguments)
    }
}

/// What a build gives, with the second connection to the daemon if there is one.
type Built<'a> = (Downloaded<'a>, Option<Client<DaemonStream>>);

/// A job on one machine.
struct Attempt<'a> {
    build: &'a Build<'a>,
    machine: &'a Machine,
    env: &'a LiveEnvironment,
    local_store: &'a LocalStore<'a>,
    options: &'a Options,
    /// Where connections are kept.
    sessions: Option<OpenSessions>,
    /// What the machine is at fault for.
    machine_fault: Cell<Option<String>>,
    /// Whether a signature that came over a connection from before is not by an authorized key.
    has_wrong_signature: Cell<bool>,
    /// Whether the process that owns the connection has ended.
    has_lost_owner: Cell<bool>,
    /// The connection, if it was there before the build.
    reused: Cell<Option<Connection>>,
}

impl<'a> Attempt<'a> {
    /// All that needs the machine. The slot is given back when that is done.
    fn build(
        &self,
        _slot: Slot,
        link: Option<MachineLink>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Downloaded<'a>, Failure> {
        let result = self.build_with_fallback(link, log, observer);
        if let Some(cause) = self.machine_fault.take() {
            // Other builds need not find out for themselves.
            record_failure(self.build.state, self.machine, &cause);
        }
        result
    }

    /// Builds over the connection over which the machine was asked, else over one that was kept, else over a new one.
    fn build_with_fallback(
        &self,
        link: Option<MachineLink>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Downloaded<'a>, Failure> {
        let mut link = match link {
            Some(link) => self.greet(link)?,
            None => match self.open_session() {
                Some(link) => link,
                None => self.connect()?,
            },
        };
        let mut result = self.build_over(&mut link, log, observer);
        let has_lost_owner = self.has_lost_owner.take() || link.client.stream_mut().has_lost_owner();
        // Then it is not the machine that is to blame.
        let why = if result.is_err() && has_lost_owner { self.machine_fault.take() } else { self.old_signature() };
        if let Some(why) = why {
            // An owner that is only stopped is of no more use when it goes on.
            link.connection.retire();
            warn!("{why}; building over a new connection");
            link = self.connect()?;
            result = self.build_over(&mut link, log, observer);
        }
        Ok(self.persist_best(result?, link))
    }

    /// A session that an earlier build has kept. A machine that is left alone is left alone in this way, too.
    fn open_session(&self) -> Option<MachineLink> {
        match self.env.health(self.machine).availability(self.env.now()) {
            Availability::BackingOff { .. } => None,
            _ => self.sessions.as_ref()?.reach(self.machine),
        }
    }

    fn connect(&self) -> Result<MachineLink, Failure> {
        let link = scheduler::connect(self.machine, self.env).map_err(|cause| self.failure(cause))?;
        self.greet(link)
    }

    /// Why the machine is not to blame for a signature that came over a connection from before: its daemon goes on with
    /// the key that it had then.
    fn old_signature(&self) -> Option<String> {
        self.has_wrong_signature.take().then(|| {
            self.machine_fault.take();
            "an output is signed with a key that is not authorized here, over a connection that was kept".to_owned()
        })
    }

    /// Keeps the stream to the daemon that is of most use to another build.
    fn persist_best(&self, (downloaded, second): Built<'a>, link: MachineLink) -> Downloaded<'a> {
        if let Some(sessions) = &self.sessions {
            sessions.release(self.machine, second.unwrap_or(link.client));
        }
        failpoint(Failpoint::ConnectionPersisted);
        self.reused.set(link.connection.is_reused().then_some(link.connection));
        downloaded
    }

    fn build_over(
        &self,
        link: &mut MachineLink,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Built<'a>, Failure> {
        let build = self.build;
        let MachineLink { client, connection } = link;
        let max_silent_time = build.failover.arguments.max_silent_time;
        let silence_policy = SilencePolicy::answer(self.machine, max_silent_time);
        client.stream_mut().set_silence_policy(silence_policy.clone());
        failpoint(Failpoint::OptionsSet);
        if let Some(sessions) = &self.sessions {
            sessions.keep(self.machine, connection, build.daemon);
        }

        let limiter = self.limiter();
        let mut signing_connection = SigningConnection::new(connection, &silence_policy, &limiter);
        transfer::upload(client, self.local_store, build.inputs, &mut signing_connection, &limiter, observer)
            .map_err(|error| self.transfer_failed("sending inputs", error.is_of_machine(), &error))?;

        failpoint(Failpoint::InputsProtected);
        let derivation = &build.failover.request.derivation;
        observer.observe(&Event::Building { derivation, machine: &self.machine.name });
        let mut stopwatch = Stopwatch::start();
        let mut sink = log.sink().map_err(|error| Failure::Head(format!("no build log: {error}")))?;
        sink(first_line(derivation, &self.machine.name).as_bytes());
        let watch = BuildWatch::new(derivation, build.outputs, client.stream_mut().progress());
        client.set_build_log(watch.log(sink), watch.sink());
        client.stream_mut().set_silence_policy(SilencePolicy::build(self.machine, max_silent_time));
        let built = client.start_build(&[derivation.clone()].into()).and_then(|()| {
            failpoint(Failpoint::BuildStarted);
            signing_connection.start_deferred(client);
            client.finish_build()
        });
        client.set_log(None);
        client.stream_mut().set_silence_policy(silence_policy);
        stopwatch.lap("build");
        if let Err(error) = built {
            return Err(classify_failure(build, self.machine, &error, &watch, client, connection)
                .unwrap_or_else(|cause| self.failed(cause)));
        }

        failpoint(Failpoint::BuildEnded);
        self.env.record_outputs(self.machine);

        let expected = Expected { derivation, inputs: build.inputs, outputs: build.outputs };
        // The first one stays open for what it protects from the garbage collector.
        let mut second = signing_connection.ready();
        let exporter = second.as_mut().unwrap_or(client);
        let downloaded =
            transfer::download(exporter, self.local_store, &expected, connection.compressed(), &limiter, observer);
        let downloaded = downloaded.map_err(|error| {
            self.has_wrong_signature.set(connection.is_reused() && error.is_of_key());
            self.has_lost_owner.set(exporter.stream_mut().has_lost_owner());
            self.transfer_failed("retrieving outputs", error.is_of_machine(), &error)
        })?;
        if !connection.is_reused() {
            refresh_status(build.state, self.machine, &build.directories.store, connection);
        }
        failpoint(Failpoint::Downloaded);
        Ok((downloaded, second))
    }

    /// Tells the daemon of a new connection how to build.
    fn greet(&self, mut link: MachineLink) -> Result<MachineLink, Failure> {
        let silence_policy = SilencePolicy::answer(self.machine, self.build.failover.arguments.max_silent_time);
        link.client.stream_mut().set_silence_policy(silence_policy);
        let mut stopwatch = Stopwatch::start();
        let taken = link.client.set_options(self.options);
        stopwatch.lap("options");
        taken.map_err(|error| self.daemon_failed("greeting its daemon", &error))?;
        Ok(link)
    }

    fn limiter(&self) -> TransferLimiter<'a> {
        let max_silent_time = self.build.failover.arguments.max_silent_time;
        let report_interval = timeouts::report_interval(max_silent_time);
        TransferLimiter {
            state: self.build.state,
            machine: self.machine,
            limit: timeouts::TRANSFER_WAIT_MAX,
            report_interval,
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

    /// The machine is at fault.
    fn failed(&self, cause: String) -> Failure {
        self.machine_fault.set(Some(cause.clone()));
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
