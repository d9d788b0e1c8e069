//! The checks of one machine, in the order in which an offloaded build would meet what they check.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::daemon::Client;
use crate::error::with_causes;
use crate::events::Bytes;
use crate::gcrypt::{SigningKey, VerifyError};
use crate::local::{Directories, load_acl};
use crate::machine::Machine;
use crate::remote::{Connection, DaemonStream, Error, Patience};
use crate::ssh::Phase;
use crate::state::{Slots, StateDirectory};
use crate::transfer::retrieve::Refusal;
use crate::transfer::trial::{self, TrialError};

/// A clock that differs by more than this many seconds is worth a word.
const CLOCK_TOLERANCE: f64 = 60.0;

/// What was found in one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub step: Step,
    pub outcome: Outcome,
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Good,
    /// Builds can be offloaded, but something is not as it should be.
    Doubtful,
    Bad,
}

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    PrivateKey,
    Resolve,
    Connect,
    HostKey,
    Authenticate,
    Channel,
    Daemon,
    Import,
    Export,
    Clock,
    Disk,
    Load,
    Slots,
}

impl Step {
    /// The word for it in the report.
    pub fn word(self) -> &'static str {
        match self {
            Step::PrivateKey => "private key",
            Step::Resolve => "name",
            Step::Connect => "connection",
            Step::HostKey => "host key",
            Step::Authenticate => "login",
            Step::Channel => "channel to the daemon",
            Step::Daemon => "daemon",
            Step::Import => "import there",
            Step::Export => "import here",
            Step::Clock => "clock",
            Step::Disk => "disk",
            Step::Load => "load",
            Step::Slots => "build slots",
        }
    }
}

/// Checks one machine.
pub fn check(machine: &Machine, directories: &Directories, state: &StateDirectory) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    findings.slots(machine, state);
    match Connection::open(machine) {
        Ok(connection) => findings.connected(&connection, machine, directories),
        Err(error) => findings.not_reached(&error),
    }
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, step: Step, outcome: Outcome, text: impl Display, remedy: Option<String>) {
        self.0.push(Finding { step, outcome, text: text.to_string(), remedy });
    }

    fn good(&mut self, step: Step, text: impl Display) {
        self.add(step, Outcome::Good, text, None);
    }

    fn bad(&mut self, step: Step, text: impl Display, remedy: Option<String>) {
        self.add(step, Outcome::Bad, text, remedy);
    }

    fn not_reached(&mut self, error: &Error) {
        let step = match error {
            Error::Ssh(error) => match error.phase {
                Phase::PrivateKey => Step::PrivateKey,
                Phase::Resolve => Step::Resolve,
                Phase::Connect | Phase::Handshake => Step::Connect,
                Phase::HostKey => Step::HostKey,
                Phase::Authenticate => Step::Authenticate,
                Phase::OpenChannel | Phase::Transfer => Step::Channel,
            },
            Error::NoDaemon { .. } | Error::NoWay { .. } => Step::Channel,
            Error::NotGreeted { .. } | Error::Silent { .. } | Error::Stopped { .. } => Step::Daemon,
        };
        self.passed(step);
        self.bad(step, error, error.hint());
    }

    /// Notes the steps of connecting that were passed before `step`.
    fn passed(&mut self, step: Step) {
        let steps = [
            (Step::PrivateKey, "readable"),
            (Step::Resolve, "resolves"),
            (Step::Connect, "an SSH server answers"),
            (Step::HostKey, "is the one in the machine file"),
            (Step::Authenticate, "accepted"),
        ];
        for (passed, text) in steps.into_iter().take_while(|(passed, _)| *passed != step) {
            if !self.0.iter().any(|finding| finding.step == passed) {
                self.good(passed, text);
            }
        }
    }

    fn connected(&mut self, connection: &Connection, machine: &Machine, directories: &Directories) {
        self.passed(Step::Channel);
        match connection.daemon() {
            Ok(stream) => {
                self.good(Step::Channel, format_args!("'{}' answers", machine.daemon_socket.display()));
                self.daemon(stream, machine, directories);
            }
            Err(error) => self.not_reached(&error),
        }
        self.status(connection, machine, directories);
    }

    fn daemon(&mut self, stream: DaemonStream, machine: &Machine, directories: &Directories) {
        let mut client = match Client::connect(stream, directories.store.clone()) {
            Ok(client) => client,
            Err(error) => return self.bad(Step::Daemon, with_causes(&error), Some(no_daemon(machine))),
        };
        client.stream_mut().set_patience(Patience { limit: Some(machine.stall_timeout), check: None, say: None });
        self.good(Step::Daemon, format_args!("speaks protocol version {}", client.version()));
        self.import_there(&mut client, machine, directories);
        self.import_here(&mut client, machine, directories);
    }

    fn import_there(&mut self, client: &mut Client<DaemonStream>, machine: &Machine, directories: &Directories) {
        let secret = directories.signing_key().with_extension("sec");
        let key = match SigningKey::load(&secret) {
            Ok(key) => key,
            Err(error) => {
                let remedy = "make the pair on this machine: guix archive --generate-key".to_owned();
                return self.bad(Step::Import, with_causes(&error), Some(remedy));
            }
        };
        let text = format!("sent to {} at {:?}\n", machine.name, SystemTime::now().duration_since(UNIX_EPOCH));
        match trial::send(client, &directories.store, &key, &text) {
            Ok(_) => self.good(Step::Import, "it accepts what this machine signs"),
            Err(error) => {
                let remedy = authorize(&key.public_key().as_sexp().to_advanced());
                self.bad(Step::Import, with_causes(&error), Some(format!("on {}: {remedy}", machine.name)));
            }
        }
    }

    fn import_here(&mut self, client: &mut Client<DaemonStream>, machine: &Machine, directories: &Directories) {
        let acl = match load_acl(&directories.acl()) {
            Ok(acl) => acl,
            Err(error) => return self.bad(Step::Export, with_causes(&error), None),
        };
        let text = format!("made on {} at {:?}\n", machine.name, SystemTime::now().duration_since(UNIX_EPOCH));
        let retrieved = client
            .add_text_to_store("offload-test", text.as_bytes(), &Default::default())
            .map_err(TrialError::from)
            .and_then(|path| trial::retrieve(client, &directories.store, &acl, &path));
        match retrieved {
            Ok(()) => self.good(Step::Export, "this machine accepts what it signs"),
            Err(TrialError::Refused(Refusal::Signature(VerifyError::Unauthorized { key }))) => {
                let remedy = authorize(&key.as_sexp().to_advanced());
                let text = "its signing key is not authorized here, so nothing it builds would be accepted";
                self.bad(Step::Export, text, Some(format!("on this machine: {remedy}")));
            }
            Err(error) => {
                let remedy = format!("on {}: guix archive --generate-key", machine.name);
                self.bad(Step::Export, with_causes(&error), Some(remedy));
            }
        }
    }

    fn status(&mut self, connection: &Connection, machine: &Machine, directories: &Directories) {
        let status = match connection.probe(directories.store.as_str()) {
            Ok(status) => status,
            Err(error) => return self.not_reached(&error),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
        match status.clock.map(|clock| clock as f64 - now) {
            Some(skew) if skew.abs() > CLOCK_TOLERANCE => {
                let remedy = format!("on {}: set the clock, or run an NTP client", machine.name);
                self.add(Step::Clock, Outcome::Doubtful, format_args!("differs by {skew:.0} s"), Some(remedy));
            }
            Some(_) => self.good(Step::Clock, "agrees with this machine's"),
            None => self.add(Step::Clock, Outcome::Doubtful, UNKNOWN, None),
        }
        match status.store_free {
            Some(free) if free < machine.minimum_disk_space => {
                let text = format!("{} free in the store, {} wanted", Bytes(free), Bytes(machine.minimum_disk_space));
                self.bad(Step::Disk, text, Some(format!("on {}: guix gc", machine.name)));
            }
            Some(free) => self.good(Step::Disk, format_args!("{} free in the store", Bytes(free))),
            None => self.add(Step::Disk, Outcome::Doubtful, UNKNOWN, None),
        }
        match (status.load(), machine.overload_threshold) {
            (Some(load), Some(threshold)) if load > threshold => {
                let text = format!("{load:.2} per core, above the threshold of {threshold:.2}: not chosen now");
                self.add(Step::Load, Outcome::Doubtful, text, None);
            }
            (Some(load), _) => self.good(Step::Load, format_args!("{load:.2} per core")),
            (None, _) => self.add(Step::Load, Outcome::Doubtful, UNKNOWN, None),
        }
    }

    fn slots(&mut self, machine: &Machine, state: &StateDirectory) {
        match Slots::of(state, machine).and_then(|slots| slots.taken()) {
            Ok(taken) => {
                self.good(Step::Slots, format_args!("{} of {} taken", taken.len(), machine.parallel_builds));
            }
            Err(error) => {
                let remedy = "run this command as the user that guix-daemon runs as".to_owned();
                self.bad(Step::Slots, error, Some(remedy));
            }
        }
    }
}

/// What a machine does not tell; an account that may run no command, for one.
const UNKNOWN: &str = "unknown: the machine does not tell";

fn no_daemon(machine: &Machine) -> String {
    format!("on {}: start guix-daemon, or correct 'daemon_socket' in the machine file", machine.name)
}

/// The command that authorizes a key, ready to be pasted into a shell.
fn authorize(key: &[u8]) -> String {
    format!("guix archive --authorize <<'EOF'\n{}\nEOF", String::from_utf8_lossy(key).trim_end())
}
