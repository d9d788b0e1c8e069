//! Events of a pool: failures of builds, machines that cannot be reached any more or again, machines on demand.
//!
//! Each event comes from one place in one process. Machines go down and come up where their health record changes, under
//! the lock of the record ([`HealthRecord`](crate::state::HealthRecord)); so of many processes that see the same, one
//! has the event. The machine file's `on_event` and programs that embed the engine get the same events.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest reason, in characters.
const MAX_REASON: usize = 1000;

macro_rules! kinds {
    ($($(#[$about:meta])* $name:ident = $word:literal,)*) => {
        /// What has happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum PoolEventKind {
            $($(#[$about])* $name,)*
        }

        impl PoolEventKind {
            /// All kinds.
            pub const ALL: &[PoolEventKind] = &[$(PoolEventKind::$name,)*];

            /// Returns its word, as in machine files and JSON.
            pub fn word(self) -> &'static str {
                match self {
                    $(PoolEventKind::$name => $word,)*
                }
            }
        }
    };
}

kinds! {
    /// An accepted build has failed: its builder, a time limit, or all attempts.
    BuildFailed = "build_failed",
    /// An attempt has failed because of the machine. Another attempt follows, if one is left.
    AttemptFailed = "attempt_failed",
    /// A machine cannot be reached, or fails builds, since now.
    MachineDown = "machine_down",
    /// A machine that was down responds again.
    MachineUp = "machine_up",
    /// A machine on demand was started and responds.
    MachineStarted = "machine_started",
    /// A machine on demand was stopped.
    MachineStopped = "machine_stopped",
    /// A machine on demand did not start.
    StartFailed = "start_failed",
    /// A machine on demand could not be stopped. It may run, and cost money.
    StopFailed = "stop_failed",
}

/// An event of a pool. Fields that do not apply are `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolEvent {
    /// What has happened.
    #[serde(rename = "type")]
    pub kind: PoolEventKind,
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// The machine, with its port if that is not 22.
    pub machine: Option<String>,
    /// Why, in words.
    pub reason: Option<String>,
    /// The file name of the derivation in the store.
    pub derivation: Option<String>,
    /// The name of the derivation, without directory, hash and `.drv`.
    pub name: Option<String>,
    /// The system type of the derivation.
    pub system: Option<String>,
    /// The user whose command requested the build, if known.
    pub user: Option<String>,
    /// The number of the attempt, from 1.
    pub attempt: Option<u32>,
    /// How long the machine took to start, or was on before it was stopped, in seconds.
    pub seconds: Option<f64>,
}

impl PoolEvent {
    /// Returns an event without further fields.
    pub(crate) fn new(kind: PoolEventKind, time: u64) -> PoolEvent {
        PoolEvent {
            kind,
            time,
            machine: None,
            reason: None,
            derivation: None,
            name: None,
            system: None,
            user: None,
            attempt: None,
            seconds: None,
        }
    }

    /// Returns an event about a machine.
    pub(crate) fn of_machine(kind: PoolEventKind, time: u64, machine: String) -> PoolEvent {
        PoolEvent { machine: Some(machine), ..PoolEvent::new(kind, time) }
    }

    /// Returns the event with this reason, shortened.
    pub(crate) fn because(self, reason: &str) -> PoolEvent {
        PoolEvent { reason: Some(reason.chars().take(MAX_REASON).collect()), ..self }
    }
}

impl fmt::Display for PoolEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let build = self.derivation.as_deref().unwrap_or("a build");
        let machine = self.machine.as_deref().unwrap_or("a machine");
        let within = |f: &mut fmt::Formatter<'_>, word| match self.seconds {
            Some(seconds) => write!(f, " {word} {seconds:.0} s"),
            None => Ok(()),
        };
        match self.kind {
            PoolEventKind::BuildFailed => write!(f, "'{build}' has failed")?,
            PoolEventKind::AttemptFailed => write!(f, "'{build}' could not be built on '{machine}'")?,
            PoolEventKind::MachineDown => write!(f, "'{machine}' is down")?,
            PoolEventKind::MachineUp => write!(f, "'{machine}' is up again")?,
            PoolEventKind::MachineStarted => {
                write!(f, "'{machine}' was started").and_then(|()| within(f, "within"))?;
            }
            PoolEventKind::MachineStopped => {
                write!(f, "'{machine}' was stopped").and_then(|()| within(f, "after"))?;
            }
            PoolEventKind::StartFailed => write!(f, "'{machine}' did not start")?,
            PoolEventKind::StopFailed => write!(f, "'{machine}' could not be stopped")?,
        }
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// Receives the events of a pool, on any thread. It must return at once.
#[derive(Clone)]
pub struct PoolListener(Arc<dyn Fn(&PoolEvent) + Send + Sync>);

impl PoolListener {
    /// Returns a listener that calls `receive`.
    pub fn new(receive: impl Fn(&PoolEvent) + Send + Sync + 'static) -> PoolListener {
        PoolListener(Arc::new(receive))
    }

    /// Passes an event on.
    pub fn receive(&self, event: &PoolEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for PoolListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolListener")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_word_of_its_json_and_a_sentence() {
        for &kind in PoolEventKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.word()));
            let event = PoolEvent::of_machine(kind, 1, "b1".to_owned()).because("no\nway");
            assert!(event.to_string().ends_with(": no\nway"), "{event}");
        }
        let event = PoolEvent::of_machine(PoolEventKind::MachineStarted, 1, "b1".to_owned());
        assert_eq!(PoolEvent { seconds: Some(12.4), ..event }.to_string(), "'b1' was started within 12 s");
        assert_eq!(
            PoolEvent::new(PoolEventKind::BuildFailed, 1).because(&"é".repeat(2000)).reason.map(|reason| reason.len()),
            Some(2 * MAX_REASON)
        );
    }
}
