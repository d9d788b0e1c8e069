//! The checks of one machine, in the order in which an offloaded build would meet what they check.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use super::finding::{Finding, Outcome, Remedy, RemedyPlace, Step};
use super::{remedies, substitutes};
use crate::build::{OWN_STORE, OWN_STORE_HINT};
use crate::daemon::Client;
use crate::engine::Engine;
use crate::error::with_causes;
use crate::events::iec;
use crate::gcrypt::{SigningKey, VerifyError};
use crate::local::{AclError, Directories, load_acl};
use crate::machine::Machine;
use crate::remote::{Connection, DaemonStream, Error, SilencePolicy};
use crate::ssh::Phase;
use crate::state::power::Phase as Power;
use crate::state::{AcceptedKeys, Drain, PowerRecord, Slots, StateDirectory, as_started, health};
use crate::status::MachineStatus;
use crate::store::signature::Acl;
use crate::transfer::signature_test::{self, SignatureTestError};
use crate::transfer::trial_build;
use crate::transfer::{self, RejectedOutput};

/// A clock that differs by more than this many seconds causes a warning.
const CLOCK_TOLERANCE: f64 = 60.0;

/// Checks one machine. A quick check uses an open connection, if there is one, and has nothing built. Returns the findings,
/// and its status if it was probed.
pub fn check(machine: &Machine, engine: &Engine, is_quick: bool) -> (Vec<Finding>, Option<MachineStatus>) {
    let Engine { directories, state, .. } = engine;
    let mut findings = Findings { found: Vec::new(), probed: None, machine, directories, state, is_quick };
    if let Some(remedy) = findings.power() {
        findings.warning(Step::Connect, "it is off: builds that need it start it", vec![remedy]);
        return (findings.found, None);
    }
    let started = as_started(state, machine);
    findings.machine = &started;
    let machine = findings.machine;
    let open = if is_quick { engine.sessions().find(machine) } else { None };
    // A connection that was lost shows only now.
    let open = open.filter(|connection| connection.daemon().is_ok());
    match open.map_or_else(|| Connection::open(machine), Ok) {
        Ok(connection) => findings.connected(&connection),
        Err(error) => findings.not_reached(&error, None),
    }
    findings.slots();
    (findings.found, findings.probed)
}

struct Findings<'a> {
    found: Vec<Finding>,
    probed: Option<MachineStatus>,
    machine: &'a Machine,
    directories: &'a Directories,
    state: &'a StateDirectory,
    is_quick: bool,
}

impl Findings<'_> {
    /// Returns the command that starts the machine, if it is on demand and does not run.
    fn power(&self) -> Option<Remedy> {
        self.machine.on_demand.as_ref()?;
        let power = PowerRecord::of(self.state, self.machine).ok()?.read();
        (power.phase != Power::Running).then(|| Remedy::on_head(format_args!("offload start {}", self.machine.name)))
    }

    fn add(&mut self, step: Step, outcome: Outcome, text: impl Display, remedies: Vec<Remedy>) {
        self.found.push(Finding { step, outcome, text: text.to_string(), remedies });
    }

    fn ok(&mut self, step: Step, text: impl Display) {
        self.add(step, Outcome::Ok, text, Vec::new());
    }

    fn warning(&mut self, step: Step, text: impl Display, remedies: Vec<Remedy>) {
        self.add(step, Outcome::Warning, text, remedies);
    }

    fn error(&mut self, step: Step, text: impl Display, remedies: Vec<Remedy>) {
        self.add(step, Outcome::Error, text, remedies);
    }

    fn not_reached(&mut self, error: &Error, connection: Option<&Connection>) {
        let step = match error {
            Error::Ssh(error) => match error.phase {
                Phase::PrivateKey => Step::PrivateKey,
                Phase::Resolve => Step::Resolve,
                Phase::Connect | Phase::Handshake => Step::Connect,
                Phase::HostKey => Step::HostKey,
                Phase::Authenticate => Step::Authenticate,
                Phase::OpenChannel | Phase::Transfer => Step::Channel,
            },
            Error::NoDaemon { .. } | Error::NoRoute { .. } => Step::Channel,
            Error::NotGreeted { .. }
            | Error::Silent { .. }
            | Error::TooSlow { .. }
            | Error::NotStarted { .. }
            | Error::ChannelTimeout { .. }
            | Error::Unresponsive { .. }
            | Error::OwnerEnded { .. }
            | Error::OwnerStopped { .. }
            | Error::OwnerSilent { .. }
            | Error::OwnerBusy { .. }
            | Error::NoOwner { .. } => Step::Daemon,
        };
        if !connection.is_some_and(Connection::is_reused) {
            self.passed(step);
        }
        self.error(
            step,
            without_name(error, self.machine),
            remedies::of_connecting(error, self.machine, self.directories, connection),
        );
    }

    /// Adds a finding for each step of the connection before `step`, which passed.
    fn passed(&mut self, step: Step) {
        let key = self.machine.private_key.as_ref().map_or("can be used".to_owned(), |key| key.display().to_string());
        let steps = [
            (Step::PrivateKey, key),
            (Step::Resolve, format!("'{}' resolves", self.machine.name)),
            (Step::Connect, "an SSH server answers".to_owned()),
            (Step::HostKey, "is the one in the machine file".to_owned()),
            (Step::Authenticate, format!("as '{}'", self.machine.user)),
        ];
        for (passed, text) in steps.into_iter().take_while(|(passed, _)| *passed != step) {
            if !self.found.iter().any(|finding| finding.step == passed) {
                self.ok(passed, text);
            }
        }
    }

    fn connected(&mut self, connection: &Connection) {
        match connection.is_reused() {
            true => self.ok(Step::Connect, "over the connection that an earlier build left open"),
            false => self.passed(Step::Channel),
        }
        match connection.daemon() {
            Ok(stream) => {
                let socket = self.machine.daemon_socket.display();
                if connection.is_relayed() {
                    let text = format!("to '{socket}' through 'guix repl', slowly: the server forwards to no socket");
                    let ways_out = vec![remedies::allow_forwarding(), remedies::allow_tcp_forwarding()];
                    self.warning(Step::Channel, text, ways_out);
                } else {
                    self.ok(Step::Channel, format_args!("to '{socket}'"));
                }
                self.daemon(stream);
                self.substitutes(connection);
            }
            Err(error) => self.not_reached(&error, Some(connection)),
        }
        match connection.probe(self.directories.store.as_str()) {
            Ok(status) => {
                self.status(&status);
                self.probed = Some(status);
            }
            Err(error) => self.not_reached(&error, Some(connection)),
        }
    }

    fn daemon(&mut self, stream: DaemonStream) {
        let mut client = match stream.greet(self.directories.store.clone()) {
            Ok(client) => client,
            Err(error) => return self.error(Step::Daemon, with_causes(&error), remedies::of_greeting(&error)),
        };
        client.stream_mut().set_silence_policy(SilencePolicy::greeting(self.machine.stall_timeout));
        let version = client.version();
        self.ok(Step::Daemon, format_args!("Guix {} (protocol {version})", version.releases()));
        if let Ok(true) = signature_test::is_store_here(&mut client, &self.directories.store) {
            return self.error(Step::Daemon, OWN_STORE, vec![Remedy::advice(RemedyPlace::MachineFile, OWN_STORE_HINT)]);
        }
        self.import_there(&mut client);
        self.import_here(&mut client);
        if !self.is_quick {
            self.builds(&mut client);
        }
    }

    fn import_there(&mut self, client: &mut Client<DaemonStream>) {
        let key = match SigningKey::load(&self.directories.signing_key()) {
            Ok(key) => key,
            Err(error) => {
                return self.error(Step::Import, with_causes(&error), remedies::no_signing_key(self.directories));
            }
        };
        let text = format!("sent to {} at {}\n", self.machine.name, now());
        match signature_test::upload(client, &self.directories.store, &key, &text) {
            Ok(_) => self.ok(Step::Import, "it accepts what this machine signs"),
            Err(error) if error.is_unauthorized() => {
                let text = "it does not trust this machine's signing key, so nothing can be sent there";
                self.error(Step::Import, text, vec![Remedy::on_machine(remedies::authorize(key.public_key()))]);
            }
            Err(error) => self.error(Step::Import, with_causes(&error), Vec::new()),
        }
    }

    fn import_here(&mut self, client: &mut Client<DaemonStream>) {
        if !client.is_usable() {
            return;
        }
        let acl = match load_acl(&self.directories.acl()) {
            Ok(acl) => acl,
            Err(AclError::Missing { .. }) => Acl::default(),
            Err(error) => return self.error(Step::Export, with_causes(&error), Vec::new()),
        };
        let text = format!("made on {} at {}\n", self.machine.name, now());
        match signature_test::sign(client, &self.directories.store, &acl, &text) {
            Ok(key) => {
                transfer::remember(self.state, self.machine, &key);
                self.ok(Step::Export, "this machine accepts what it signs");
            }
            Err(SignatureTestError::Refused(RejectedOutput::Signature(VerifyError::Unauthorized { key })))
                if AcceptedKeys::of(self.state).is_ok_and(|keys| keys.has(&key)) =>
            {
                self.error(Step::Export, RejectedOutput::Revoked(key), Vec::new());
            }
            Err(SignatureTestError::Refused(RejectedOutput::Signature(VerifyError::Unauthorized { key }))) => {
                let text = "its signing key is not authorized here, so nothing it builds would be accepted";
                self.error(Step::Export, text, vec![Remedy::on_head(remedies::authorize(&key))]);
            }
            Err(error) => {
                let remedy = Remedy::on_machine("guix archive --generate-key").provided("if it has no signing key");
                self.error(
                    Step::Export,
                    format_args!("nothing it signs comes back: {}", with_causes(&error)),
                    vec![remedy],
                );
            }
        }
    }

    /// Builds a trivial derivation on the machine for each of its system types.
    fn builds(&mut self, client: &mut Client<DaemonStream>) {
        let (mut built, mut untried) = (Vec::new(), Vec::new());
        for system in &self.machine.systems {
            if !client.is_usable() {
                break;
            }
            match trial_build::build(client, &self.directories.store, system, self.machine.stall_timeout) {
                Ok(true) => built.push(system.as_str()),
                Ok(false) => untried.push(system.as_str()),
                Err(error) if error.is_forbidden() => {
                    let text = "its daemon may build nothing: it was started with '--max-jobs=0'";
                    return self.error(Step::Build, text, vec![remedies::allow_builds()]);
                }
                Err(error) => {
                    let remedies =
                        if error.is_failed_builder() { vec![remedies::other_system(system)] } else { Vec::new() };
                    self.error(Step::Build, format_args!("{system}: {}", with_causes(&error)), remedies);
                }
            }
        }
        if !built.is_empty() {
            self.ok(Step::Build, format_args!("it builds for {}", built.join(", ")));
        }
        if !untried.is_empty() {
            let text = format!("not tried for {}, for which there is no trial builder", untried.join(", "));
            self.warning(Step::Build, text, Vec::new());
        }
    }

    /// Checks the substitute servers of a machine that can be used.
    fn substitutes(&mut self, connection: &Connection) {
        if self.is_quick || self.found.iter().any(|finding| finding.outcome == Outcome::Error) {
            return;
        }
        if let Some((outcome, text, remedies)) =
            substitutes::check(self.machine, self.directories, self.state, connection)
        {
            self.add(Step::Substitutes, outcome, text, remedies);
        }
    }

    fn status(&mut self, status: &MachineStatus) {
        if *status == MachineStatus::default() {
            let text = "the account may run no command, so load, disk and clock are unknown, and are not checked";
            return self.warning(Step::Status, text, Vec::new());
        }
        match status.clock_skew(now()) {
            Some(skew) if skew.abs() > CLOCK_TOLERANCE => {
                self.warning(Step::Clock, format_args!("differs by {skew:.0} s"), vec![remedies::set_clock()]);
            }
            Some(_) => self.ok(Step::Clock, "agrees with this machine's"),
            None => self.warning(Step::Clock, UNKNOWN_STATUS, Vec::new()),
        }
        let wanted = self.machine.minimum_disk_space;
        match status.free_disk {
            Some(free) if free < wanted => {
                let text = format!("{} free in the store, {} wanted", iec(free), iec(wanted));
                self.error(Step::Disk, text, vec![Remedy::on_machine(format_args!("guix gc -F {wanted}"))]);
            }
            Some(free) => self.ok(Step::Disk, format_args!("{} free in the store", iec(free))),
            None => self.warning(Step::Disk, UNKNOWN_STATUS, Vec::new()),
        }
        match (status.load(), self.machine.overload_threshold) {
            (Some(load), Some(threshold)) if load > threshold => {
                let text = format!("{load:.2} per core, above the threshold of {threshold:.2}: not chosen now");
                self.warning(Step::Load, text, Vec::new());
            }
            (Some(load), _) => self.ok(Step::Load, format_args!("{load:.2} per core")),
            (None, _) => self.warning(Step::Load, UNKNOWN_STATUS, Vec::new()),
        }
    }

    fn slots(&mut self) {
        let (machine, state) = (self.machine, self.state);
        let taken = match Slots::of(state, machine).and_then(|slots| slots.taken()) {
            Ok(taken) => format!("{} of {} taken", taken.len(), machine.parallel_builds),
            Err(error) => return self.error(Step::Slots, error, remedies::be_the_daemon()),
        };
        let is_drained = Drain::of(state, machine).is_ok_and(|drain| drain.read(health::now()).is_some());
        match (machine.enabled, is_drained) {
            (false, _) => {
                self.warning(Step::Slots, format!("{taken}; 'enabled' is false: it gets no builds"), Vec::new())
            }
            (true, true) => {
                let remedy = Remedy::on_head(format_args!("offload undrain {}", machine.address()));
                let remedy = remedy.provided("when it may get builds again");
                self.warning(Step::Slots, format!("{taken}; it is drained: it gets no builds"), vec![remedy]);
            }
            (true, false) => self.ok(Step::Slots, taken),
        }
    }
}

/// Returns the message without the machine's name, because the report names the machine and the step.
fn without_name(error: &Error, machine: &Machine) -> String {
    match error {
        Error::Ssh(error) => error.cause.to_string(),
        error => {
            let text = error.to_string();
            text.strip_prefix(&format!("{}: ", machine.address())).map_or(text.clone(), str::to_owned)
        }
    }
}

/// The text for a part of the status that the machine does not report.
const UNKNOWN_STATUS: &str = "unknown: the machine does not report it";

/// Returns the time in seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}
