//! A build, and each attempt at it on one machine: connect, upload, build, download.

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
use crate::error::{Failure, with_causes, with_hint};
use crate::events::{Event, Observer};
use crate::failpoints::{Failpoint, failpoint};
use crate::hook::BuildLog;
use crate::hook::descriptors::LINE_PREFIX;
use crate::local::{LOG_FULL_HINT, LocalStore, LogReserve};
use crate::machine::Machine;
use crate::remote::{Connection, DaemonStream, SilencePolicy, timeouts};
use crate::scheduler::{self, Choice};
use crate::state::{QueueTicket, Slot};
use crate::store::path::StorePath;
use crate::timing::Stopwatch;
use crate::transfer::download::Expected;
use crate::transfer::{self, Downloaded, SigningConnection, TransferLimiter};

impl Build<'_> {
    /// Builds. `first` is the machine chosen before the request was accepted; without one the build waits in the queue
    /// with `ticket`.
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

    /// Builds on the chosen machine, and moves the outputs into the store.
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
        let options = persist::options(self.failover.arguments);
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
            // No build waits for this probe.
            refresh_status(self.state, machine, &self.directories.store, &connection);
        }
        observer.observe(&Event::Done { derivation, machine: &machine.name });
        Ok(())
    }

    /// Returns the sessions that builds with these arguments share.
    fn sessions(&self) -> OpenSessions {
        OpenSessions::new(self.state, self.directories, self.failover.arguments, self.daemon)
    }
}

/// The result of a build, with the second connection to the daemon if there is one.
type Built<'a> = (Downloaded<'a>, Option<Client<DaemonStream>>);

/// A build on one machine.
struct Attempt<'a> {
    build: &'a Build<'a>,
    machine: &'a Machine,
    env: &'a LiveEnvironment,
    local_store: &'a LocalStore<'a>,
    options: &'a Options,
    /// The sessions that earlier builds left open; none if this machine keeps no connection.
    sessions: Option<OpenSessions>,
    /// The failure that counts against the machine.
    machine_fault: Cell<Option<String>>,
    /// Whether a key that is not authorized made a signature that came over a reused connection.
    has_wrong_signature: Cell<bool>,
    /// Whether the process that owns the session has ended.
    has_lost_owner: Cell<bool>,
    /// The connection, if it was open before the build.
    reused: Cell<Option<Connection>>,
}

impl<'a> Attempt<'a> {
    /// Does all the work that needs the machine. The slot is freed at its end.
    fn build(
        &self,
        _slot: Slot,
        link: Option<MachineLink>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Downloaded<'a>, Failure> {
        let result = self.build_with_fallback(link, log, observer);
        if let Some(cause) = self.machine_fault.take() {
            // Other builds skip the machine, so they need not find out for themselves.
            record_failure(self.build.state, self.machine, &cause);
        }
        result
    }

    /// Builds over the connection of the probe, else over a persistent one, else over a new one.
    fn build_with_fallback(
        &self,
        link: Option<MachineLink>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Downloaded<'a>, Failure> {
        let mut link = match link {
            Some(link) => self.greet(link)?,
            None => self.connect()?,
        };
        let mut result = self.build_over(&mut link, log, observer);
        let has_lost_owner = self.has_lost_owner.take() || link.client.stream_mut().has_lost_owner();
        // In that case the machine is not at fault.
        let why = if result.is_err() && has_lost_owner { self.machine_fault.take() } else { self.old_signature() };
        if let Some(why) = why {
            // An owner that is only stopped may continue: no other build is to use it.
            link.connection.retire();
            warn!("{why}; retrying over a new connection");
            link = self.connect()?;
            result = self.build_over(&mut link, log, observer);
        }
        Ok(self.persist_best(result?, link))
    }

    /// Connects to the machine over an open session, else over a new one.
    fn connect(&self) -> Result<MachineLink, Failure> {
        let link = scheduler::connect(self.machine, self.env).map_err(|cause| self.failure(cause))?;
        self.greet(link)
    }

    /// Returns the reason why an unauthorized signature over a reused connection does not count against the machine:
    /// its daemon still uses the key that it had when the connection was opened.
    fn old_signature(&self) -> Option<String> {
        self.has_wrong_signature.take().then(|| {
            self.machine_fault.take();
            "an output over a persistent connection is signed with a key that is not authorized here".to_owned()
        })
    }

    /// Leaves the stream to the daemon that is most useful to another build with the owner of the session.
    fn persist_best(&self, (downloaded, second): Built<'a>, link: MachineLink) -> Downloaded<'a> {
        if let Some(sessions) = &self.sessions {
            sessions.release(second.unwrap_or(link.client));
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
        let result = self.build_and_fetch(link, log, observer);
        match result {
            // It would close the channel of this build again. Other builds have more to say.
            Err(Failure::Machine { machine, cause }) if link.client.stream_mut().is_channel_timeout() => {
                self.machine_fault.take();
                Err(Failure::Refused { machine, cause })
            }
            result => result,
        }
    }

    fn build_and_fetch(
        &self,
        link: &mut MachineLink,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<Built<'a>, Failure> {
        let build = self.build;
        let MachineLink { client, connection, .. } = link;
        let max_silent_time = build.failover.arguments.max_silent_time;
        let silence_policy = SilencePolicy::answer(self.machine, max_silent_time);
        client.stream_mut().set_silence_policy(silence_policy.clone());
        failpoint(Failpoint::OptionsSet);
        if let Some(sessions) = &self.sessions {
            sessions.keep(self.machine, connection);
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
        client.set_build_log(watch.log(sink, LogReserve::new(&build.directories.log)), watch.sink());
        client.stream_mut().set_silence_policy(SilencePolicy::build(self.machine, max_silent_time));
        let built = client.start_build(&[derivation.clone()].into()).and_then(|()| {
            failpoint(Failpoint::BuildStarted);
            signing_connection.start_deferred(client);
            client.finish_build()
        });
        client.set_log(None);
        client.stream_mut().set_silence_policy(silence_policy);
        stopwatch.lap("build");
        if let Some(full) = watch.log_full() {
            return Err(Failure::Head(with_hint(&full, Some(LOG_FULL_HINT.to_owned()))));
        }
        if let Err(error) = built {
            return Err(classify_failure(build, self.machine, &error, &watch, client, connection)
                .unwrap_or_else(|cause| self.failed(cause)));
        }

        failpoint(Failpoint::BuildEnded);
        self.env.record_outputs(self.machine);

        let expected = Expected { derivation, inputs: build.inputs, outputs: build.outputs };
        // The first connection stays open, because it protects items from the garbage collector.
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

    /// Sends the options of the build to the daemon of a new connection.
    fn greet(&self, mut link: MachineLink) -> Result<MachineLink, Failure> {
        if link.has_options {
            return Ok(link);
        }
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

    /// Returns the failure of the daemon in `phase`.
    fn daemon_failed(&self, phase: &str, error: &daemon::Error) -> Failure {
        self.failed(daemon_failed(phase, error))
    }

    fn transfer_failed(&self, phase: &str, is_of_machine: bool, error: &dyn Error) -> Failure {
        let cause = with_causes(error);
        if is_of_machine { self.failed(format!("{phase}: {cause}")) } else { Failure::Head(cause) }
    }

    /// Returns a failure that counts against the machine.
    fn failed(&self, cause: String) -> Failure {
        self.machine_fault.set(Some(cause.clone()));
        self.failure(cause)
    }

    fn failure(&self, cause: String) -> Failure {
        Failure::Machine { machine: self.machine.name.clone(), cause }
    }
}

/// Returns the first line of the build log, which names the machine.
fn first_line(derivation: &StorePath, machine: &str) -> String {
    format!("{LINE_PREFIX}building '{derivation}' on '{machine}'\n")
}
