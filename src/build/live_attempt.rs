//! A build, and the steps of an attempt on a real machine.

use log::debug;

use super::attempt::{AttemptSteps, attempt};
use super::attempt_error::{AttemptError, StreamEnd};
use super::classify_failure::BuildReport;
use super::limits::Limits;
use super::open_sessions::OpenSessions;
use super::reach::{MachineLink, reach};
use super::rebuild::delete_outputs;
use super::record_health::{record_failure, record_success, refresh_status};
use super::watch::BuildWatch;
use super::{Build, Chosen, LiveEnvironment};
use crate::cancel;
use crate::daemon::{self, Client};
use crate::error::{Failure, with_causes, with_hint};
use crate::events::{Event, Observer};
use crate::failpoints::{Failpoint, failpoint};
use crate::hook::BuildLog;
use crate::hook::descriptors::LINE_PREFIX;
use crate::local::{LOG_FULL_HINT, LocalStore, LogReserve};
use crate::machine::Machine;
use crate::remote::{Connection, DaemonStream, timeouts};
use crate::scheduler::{Choice, Environment};
use crate::state::health::{self, Availability};
use crate::state::{PowerRecord, QueueTicket, StateDirectory};
use crate::status::MachineStatus;
use crate::store::path::StorePath;
use crate::timing::{self, Stopwatch};
use crate::transfer::download::Expected;
use crate::transfer::{self, Downloaded, SigningConnection, TransferLimiter};

/// Records that a build on a machine on demand has ended: its idle time begins.
fn record_use(state: &StateDirectory, machine: &Machine) {
    if machine.on_demand.is_none() {
        return;
    }
    let used = PowerRecord::of(state, machine).and_then(|record| record.change(|power| power.used = health::now()));
    if let Err(error) = used {
        debug!("cannot record the use of '{}': {error}", machine.name);
    }
}

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
        let Build { state, expectations, ignores_drains, user, on_demand, shared, .. } = self;
        let (sessions, on_demand) = (self.sessions(), (*on_demand).clone());
        let env = LiveEnvironment::new(
            state,
            expectations,
            user.clone(),
            sessions,
            *ignores_drains,
            on_demand,
            shared.clone(),
        );
        let mut attempt = |choice: Chosen, observer: &mut dyn Observer| {
            let machine = self.failover.machines[choice.machine];
            let result = self.attempt(choice, &env, log, observer);
            record_use(state, machine);
            result
        };
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
        timing::set_subject(derivation.as_str(), Some(&machine.name));
        observer.observe(&Event::Offloading {
            derivation,
            machine: &machine.name,
            port: machine.port,
            slot: slot.number(),
        });
        let local_store = LocalStore::open(self.directories).map_err(|error| Failure::Head(with_causes(&error)))?;
        failpoint(Failpoint::LocalStoreOpened);
        let limits = Limits::new(self.failover.arguments, machine);
        let limiter = TransferLimiter {
            state: self.state,
            machine,
            limit: timeouts::TRANSFER_WAIT_MAX,
            report_interval: limits.report_interval,
        };
        let mut steps = LiveAttempt {
            build: self,
            machine,
            env,
            local_store: &local_store,
            limits,
            limiter: &limiter,
            sessions: self.sessions(),
            log,
            observer,
            signing_connection: None,
            second: None,
        };
        attempt(&mut steps, slot, link)?;
        observer.observe(&Event::Done { derivation, machine: &machine.name });
        Ok(())
    }

    /// Returns the sessions that builds with these arguments share.
    fn sessions(&self) -> Option<OpenSessions> {
        let sessions = || OpenSessions::new(self.state, self.directories, self.failover.arguments, self.daemon);
        self.persists_connections.then(sessions)
    }
}

/// An attempt on one machine.
struct LiveAttempt<'a> {
    build: &'a Build<'a>,
    machine: &'a Machine,
    env: &'a LiveEnvironment,
    local_store: &'a LocalStore<'a>,
    limits: Limits,
    limiter: &'a TransferLimiter<'a>,
    /// The sessions that earlier builds left open; none if connections are not kept.
    sessions: Option<OpenSessions>,
    log: &'a BuildLog,
    observer: &'a mut dyn Observer,
    /// The second connection to the daemon, until the build has ended.
    signing_connection: Option<SigningConnection<'a>>,
    /// The client over which the outputs came, if that is the second one.
    second: Option<Client<DaemonStream>>,
}

impl<'a> AttemptSteps for LiveAttempt<'a> {
    type Link = MachineLink;
    type Connection = Connection;
    type Outputs = Downloaded<'a>;

    fn derivation(&self) -> &StorePath {
        &self.build.failover.request.derivation
    }

    fn machine(&self) -> &Machine {
        self.machine
    }

    fn is_cancelled(&self) -> bool {
        cancel::is_cancelled()
    }

    fn back_off(&mut self) -> Option<String> {
        match self.env.health(self.machine).availability(self.env.now()) {
            Availability::BackingOff { error, .. } => Some(error),
            _ => None,
        }
    }

    fn open(&mut self) -> Result<MachineLink, String> {
        self.env.connect(self.machine)
    }

    fn has_options(&self, link: &MachineLink) -> bool {
        link.has_options
    }

    fn connect(&mut self) -> Result<MachineLink, String> {
        reach(self.build.state, self.machine, &self.build.directories.store)
    }

    fn send_options(&mut self, link: &mut MachineLink) -> Result<(), AttemptError> {
        link.client.stream_mut().set_silence_policy(self.limits.answer.clone());
        let mut stopwatch = Stopwatch::start();
        let taken = link.client.set_options(&self.limits.options);
        stopwatch.lap("options");
        taken.map_err(|error| failed("greeting its daemon", &error, link))
    }

    fn keep(&mut self, link: &MachineLink) {
        failpoint(Failpoint::OptionsSet);
        let (machine, is_reused) = (&self.machine.name, link.connection.is_reused());
        self.observer.observe(&Event::Connected { machine, is_reused });
        if let Some(sessions) = &self.sessions {
            sessions.keep(self.machine, &link.connection);
        }
    }

    fn check_signing_key(&mut self, link: &mut MachineLink) -> Result<(), AttemptError> {
        let client = &mut link.client;
        client.stream_mut().set_silence_policy(self.limits.answer.clone());
        transfer::check_signing_key(client, self.build.directories, self.build.state, self.machine)
            .map_err(|error| AttemptError::of_signing_key(&error, StreamEnd::of(client.stream_mut())))
    }

    fn upload(&mut self, link: &mut MachineLink) -> Result<(), AttemptError> {
        link.client.stream_mut().set_silence_policy(self.limits.answer.clone());
        if self.build.destination.wants_rebuild() {
            self.delete_outputs(link)?;
        }
        let MachineLink { client, connection, .. } = link;
        let signing_connection = SigningConnection::new(connection, &self.limits.answer, self.limiter);
        let signing_connection = self.signing_connection.insert(signing_connection);
        let (inputs, observer) = (self.build.inputs, &mut *self.observer);
        transfer::upload(client, self.local_store, inputs, signing_connection, self.limiter, observer)
            .map_err(|error| AttemptError::of_upload(&error, StreamEnd::of(client.stream_mut())))?;
        failpoint(Failpoint::InputsProtected);
        Ok(())
    }

    fn build(&mut self, link: &mut MachineLink) -> Result<Option<BuildReport>, AttemptError> {
        let build = self.build;
        let derivation = &build.failover.request.derivation;
        let client = &mut link.client;
        self.observer.observe(&Event::Building { derivation, machine: &self.machine.name });
        let mut stopwatch = Stopwatch::start();
        let mut sink = self.log.sink().map_err(|error| AttemptError::Head(format!("no build log: {error}")))?;
        sink(first_line(derivation, &self.machine.name).as_bytes());
        let watch = BuildWatch::new(derivation, build.outputs, client.stream_mut().progress());
        let reserve = build.destination.has_log_file().then(|| LogReserve::new(&build.directories.log));
        client.set_build_log(watch.log(sink, reserve), watch.sink());
        client.stream_mut().set_silence_policy(self.limits.build.clone());
        let built = client.start_build(&[derivation.clone()].into()).and_then(|()| {
            failpoint(Failpoint::BuildStarted);
            if let Some(signing_connection) = &mut self.signing_connection {
                signing_connection.start_deferred(client);
            }
            client.finish_build()
        });
        client.set_log(None);
        client.stream_mut().set_silence_policy(self.limits.answer.clone());
        stopwatch.lap("build");
        if let Some(full) = watch.log_full() {
            return Err(AttemptError::Head(with_hint(&full, Some(LOG_FULL_HINT.to_owned()))));
        }
        match built {
            Ok(()) => {
                failpoint(Failpoint::BuildEnded);
                self.observer.observe(&Event::Built { derivation, machine: &self.machine.name });
                Ok(None)
            }
            Err(daemon::Error::Daemon { status, message, .. }) => Ok(Some(BuildReport { status, message, watch })),
            Err(error) => Err(failed("building", &error, link)),
        }
    }

    fn count_missing_inputs(&mut self, link: &mut MachineLink) -> Result<usize, AttemptError> {
        let inputs = self.build.inputs;
        match link.client.query_valid_paths(inputs) {
            Ok(present) => Ok(inputs.len() - present.len()),
            Err(error) => Err(failed("classifying the failed build", &error, link)),
        }
    }

    fn probe(&mut self, link: &MachineLink) -> Option<MachineStatus> {
        let status = link.connection.probe(self.build.directories.store.as_str());
        status.inspect_err(|error| debug!("no status after a failed build: {error}")).ok()
    }

    fn download(&mut self, link: &mut MachineLink) -> Result<Downloaded<'a>, AttemptError> {
        let Build { failover, inputs, outputs, destination, .. } = self.build;
        let staging = destination.staging().unwrap_or(&self.local_store.store);
        let expected = Expected { derivation: &failover.request.derivation, inputs, outputs };
        // The first connection stays open, because it protects items from the garbage collector.
        let MachineLink { client, connection, .. } = link;
        self.second = self.signing_connection.take().and_then(SigningConnection::ready);
        let (exporter, other) = match &mut self.second {
            Some(second) => (second, Some(client)),
            None => (client, None),
        };
        let (compressed, observer) = (connection.compressed(), &mut *self.observer);
        let downloaded =
            transfer::download(exporter, self.local_store, staging, &expected, compressed, self.limiter, observer);
        downloaded.map_err(|error| {
            let end = match (StreamEnd::of(exporter.stream_mut()), other) {
                (StreamEnd::Other, Some(client)) => StreamEnd::of(client.stream_mut()),
                (end, _) => end,
            };
            AttemptError::of_download(&error, end)
        })
    }

    fn is_reused(&self, link: &MachineLink) -> bool {
        link.connection.is_reused()
    }

    fn retire(&mut self, link: &MachineLink) {
        link.connection.retire();
    }

    fn release(&mut self, link: MachineLink) -> Connection {
        failpoint(Failpoint::Downloaded);
        let MachineLink { client, connection, .. } = link;
        // The daemon has signed over the second one.
        let client = self.second.take().unwrap_or(client);
        if let Some(sessions) = &self.sessions {
            sessions.release(client);
        }
        failpoint(Failpoint::ConnectionPersisted);
        connection
    }

    fn record_success(&mut self, status: MachineStatus) {
        record_success(self.build.state, self.machine, status);
    }

    fn record_failure(&mut self, cause: &str) {
        record_failure(self.build.state, self.machine, cause);
    }

    fn record_outputs(&mut self) {
        self.env.record_outputs(self.machine);
    }

    fn refresh_status(&mut self, connection: &Connection) {
        refresh_status(self.build.state, self.machine, &self.build.directories.store, connection);
    }

    fn place(&mut self, outputs: Downloaded<'a>) -> Result<(), String> {
        failpoint(Failpoint::SlotReleased);
        let mut stopwatch = Stopwatch::start();
        self.build.destination.place(outputs)?;
        stopwatch.lap("place");
        Ok(())
    }
}

impl LiveAttempt<'_> {
    /// Deletes the outputs from the machine, which has to build them again.
    fn delete_outputs(&self, link: &mut MachineLink) -> Result<(), AttemptError> {
        let obstacle = delete_outputs(&mut link.client, self.build.outputs, self.machine, self.build.state);
        match obstacle.map_err(|error| failed("deleting its outputs", &error, link))? {
            None => Ok(()),
            Some(cause) => {
                let hint = "`guix gc --referrers` and `guix gc --list-roots` there show why; or name another machine";
                let cause = with_hint(&cause, Some(hint.to_owned()));
                Err(AttemptError::Reported(Failure::Refused { machine: self.machine.name.clone(), cause }))
            }
        }
    }
}

/// Returns the error of the daemon behind `link`, which failed in `phase`.
fn failed(phase: &str, error: &daemon::Error, link: &mut MachineLink) -> AttemptError {
    AttemptError::of_daemon(phase, error, StreamEnd::of(link.client.stream_mut()))
}

/// Returns the first line of the build log, which names the machine.
fn first_line(derivation: &StorePath, machine: &str) -> String {
    format!("{LINE_PREFIX}building '{derivation}' on '{machine}'\n")
}
