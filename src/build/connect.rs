//! Connecting to a machine, with regard for the others that do.
//!
//! Few connect at a time ([`Logins`]), and none connects to a machine that another has found to be out of order while
//! it waited for its turn. A connection that the server dropped because too many were logging in is tried again.
//! OpenSSH says "Not allowed at this time" both for that and, since 9.8, to an address that it has banned for a while
//! (`PerSourcePenalties`); when nobody else of this head was logging in it is taken for a ban, which is remembered and
//! waited out by all ([`Health::after_ban`](crate::state::Health::after_ban)).

use std::process;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{debug, warn};

use super::record_health::record_ban;
use crate::error::with_hint;
use crate::machine::{Compressed, Machine};
use crate::remote::{self, Connection};
use crate::ssh::Cause;
use crate::state::logins::{Login, Logins};
use crate::state::{HealthRecord, StateDirectory, StateError, ThroughputRecord, health};
use crate::transfer::compression;

/// How often a connection that was dropped is tried again.
const RETRIES: u32 = 6;

/// The pause before the first of these; each is twice as long as the one before, and up to half as long again.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);

/// How often a waiting process checks whether it may log in.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Connects and logs in. The error is a message, with a remedy where there is one.
pub fn connect(state: &StateDirectory, machine: &Machine) -> Result<Connection, String> {
    let logins = Logins::of(state, machine);
    let crowd = Crowd { state, machine, logins: logins.as_ref(), until: Instant::now() + machine.stall_timeout };
    if let Err(error) = &logins {
        warn!("cannot tell who connects to '{}': {error}", machine.name);
    }
    let login = crowd.wait(Logins::try_take)?;
    let compressed = compressed(state, machine);
    let mut retries = 0..RETRIES;
    loop {
        let error = match Connection::open_compressed(machine, compressed) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let retry = retries.next().filter(|_| crowd.is_blamed(&error, login.as_ref()));
        let Some(retry) = retry else {
            let message = unreachable(&error);
            if matches!(&error, remote::Error::Ssh(error) if matches!(error.cause, Cause::NotAllowedNow)) {
                record_ban(state, machine, &message);
            }
            return Err(message);
        };
        debug!("{error}; trying again");
        let _again = crowd.wait(Logins::try_again)?;
        thread::sleep(pause(retry));
        crowd.check()?;
    }
}

/// What to say of a machine that cannot be reached.
pub fn unreachable(error: &remote::Error) -> String {
    with_hint(error, error.hint())
}

/// The directions that a new connection compresses.
pub(super) fn compressed(state: &StateDirectory, machine: &Machine) -> Compressed {
    machine.compression.directions(|| experience(state, machine))
}

/// What has been found to pay, for the machines whose compression is left to that.
fn experience(state: &StateDirectory, machine: &Machine) -> Compressed {
    match ThroughputRecord::of(state, machine) {
        Ok(record) => compression::choose(&record.read(), health::now()),
        Err(error) => {
            debug!("what is known of the line to '{}': {error}", machine.name);
            Compressed::default()
        }
    }
}

/// Those who connect to a machine.
struct Crowd<'a> {
    state: &'a StateDirectory,
    machine: &'a Machine,
    logins: Result<&'a Logins, &'a StateError>,
    until: Instant,
}

impl Crowd<'_> {
    /// Waits until `take` gives something, or for long enough: this is courtesy, and no build fails for it. An error if
    /// the machine was found to be out of order meanwhile.
    fn wait<T>(&self, take: impl Fn(&Logins) -> Result<Option<T>, StateError>) -> Result<Option<T>, String> {
        loop {
            let taken = self.logins.map_or(Ok(None), &take);
            self.check()?;
            match taken {
                Ok(None) if self.logins.is_ok() && Instant::now() < self.until => thread::sleep(POLL_INTERVAL),
                Ok(taken) => return Ok(taken),
                Err(error) => {
                    warn!("cannot wait for a turn to connect to '{}': {error}", self.machine.name);
                    return Ok(None);
                }
            }
        }
    }

    /// An error if the machine is being left alone.
    fn check(&self) -> Result<(), String> {
        let health = HealthRecord::of(self.state, self.machine).map(|record| record.read()).unwrap_or_default();
        match health.failures.filter(|failures| !failures.is_over(health::now())) {
            Some(failures) => Err(failures.error),
            None => Ok(()),
        }
    }

    /// Whether a connection may have failed because there were too many, or for no fault of the machine.
    fn is_blamed(&self, error: &remote::Error, login: Option<&Login>) -> bool {
        let error = match error {
            remote::Error::Ssh(error) => error,
            // Somebody has killed it. The machine has nothing to do with that.
            remote::Error::OwnerEnded { .. } => return true,
            _ => return false,
        };
        match error.cause {
            Cause::Dropped { .. } => true,
            Cause::NotAllowedNow => self.logins.is_ok_and(|logins| logins.is_crowded(login).unwrap_or(false)),
            _ => false,
        }
    }
}

/// A pause that differs from process to process.
fn pause(retry: u32) -> Duration {
    let time = RETRY_PAUSE_MIN * (1 << retry.min(RETRIES));
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let chance = (nanos ^ process::id().wrapping_mul(2_654_435_761)) % 1000;
    time + time / 2000 * chance
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_vary_within_bounds() {
        for retry in 0..RETRIES {
            let shortest = RETRY_PAUSE_MIN * (1 << retry);
            let pause = pause(retry);
            assert!(pause >= shortest && pause < shortest + shortest / 2, "{pause:?}");
        }
    }
}
