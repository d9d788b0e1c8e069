//! Connecting to a machine, with a limit on simultaneous logins.
//!
//! Few processes log in at the same time ([`Logins`]). None connects to a machine that another process has found to
//! fail while it waited. If the server drops a connection because too many processes log in, the process retries.
//! OpenSSH sends "Not allowed at this time" both then and, since 9.8, to an address that it has banned for a while
//! (`PerSourcePenalties`). If no other process of this head was logging in, the message counts as a ban, which is
//! recorded so that all processes wait until it ends ([`Health::after_ban`](crate::state::Health::after_ban)).

use std::fs::File;
use std::process;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{debug, warn};

use super::record_health::record_ban;
use crate::cancel;
use crate::error::with_hint;
use crate::machine::{Compressed, Machine};
use crate::remote::{self, Connection};
use crate::ssh::Cause;
use crate::state::logins::{Login, Logins};
use crate::state::{HealthRecord, StateDirectory, StateError, ThroughputRecord, as_started, health};
use crate::transfer::compression;

/// The number of retries after a dropped connection.
const MAX_LOGIN_RETRIES: u32 = 6;

/// The pause before the first retry. Each pause is twice as long as the one before, and up to half as long again.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);

/// How often the first of the waiting processes checks whether it may log in.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How often a process that waits for the session of another one checks whether there is one.
const SESSION_INTERVAL: Duration = Duration::from_secs(1);

/// Connects and logs in. The error is a message, with a hint if there is one.
pub fn connect(state: &StateDirectory, machine: &Machine) -> Result<Connection, String> {
    let machine = &*as_started(state, machine);
    let logins = Logins::of(state, machine);
    let crowd = Crowd::new(state, machine, &logins);
    let login = crowd.wait(Logins::try_take)?;
    let compressed = compressed(state, machine);
    let mut retries = 0..MAX_LOGIN_RETRIES;
    loop {
        let error = match Connection::open_compressed(machine, compressed) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let retry = retries.next().filter(|_| crowd.is_blamed(&error, login.as_ref()));
        let Some(retry) = retry else {
            let message = unreachable(&error);
            if matches!(&error, remote::Error::Ssh(error) if matches!(error.cause, Cause::TemporarilyRefused)) {
                record_ban(state, machine, &message);
            }
            return Err(message);
        };
        debug!("{error}; trying again");
        let _again = crowd.wait(Logins::try_again)?;
        cancel::sleep(pause(retry));
        crowd.check()?;
    }
}

/// The result of [`wait_for_session`].
pub(super) enum SessionWait<T> {
    /// Another process has made a session, over which this was found.
    Found(T),
    /// This process is to log in, and the others wait for it as long as the lock is held. There is no lock if it cannot be
    /// taken.
    LogIn(Option<File>),
}

/// Waits until `find` finds something over a session of another process, or until no other process logs in to the machine
/// for all. So processes that start at the same time need one login.
pub(super) fn wait_for_session<T>(
    state: &StateDirectory,
    machine: &Machine,
    find: impl Fn() -> Option<T>,
) -> Result<SessionWait<T>, String> {
    let logins = Logins::of(state, machine);
    let crowd = Crowd::new(state, machine, &logins);
    let mut login = None;
    // All that wait are woken at the same time, when the process that logs in has made its session.
    let wait = crowd.repeat(|logins| {
        if let Some(found) = find() {
            return Ok(Some(SessionWait::Found(found)));
        }
        if let Some(lock) = logins.try_for_all()? {
            // The process that had the lock may have made a session meanwhile.
            return Ok(Some(find().map_or(SessionWait::LogIn(Some(lock)), SessionWait::Found)));
        }
        let wait = match login.take() {
            Some(wait) => wait,
            None => logins.wait_for_all()?,
        };
        if wait.wait(crowd.until.min(Instant::now() + SESSION_INTERVAL))?.is_none() {
            login = Some(wait);
        }
        Ok(None)
    })?;
    Ok(wait.unwrap_or(SessionWait::LogIn(None)))
}

/// Returns the message about a machine that cannot be reached.
pub fn unreachable(error: &remote::Error) -> String {
    with_hint(error, error.hint())
}

/// Returns the directions that a new connection compresses.
pub(super) fn compressed(state: &StateDirectory, machine: &Machine) -> Compressed {
    machine.compression.directions(|| experience(state, machine))
}

/// Returns the directions in which compression has paid, for machines with `compression = "auto"`.
fn experience(state: &StateDirectory, machine: &Machine) -> Compressed {
    match ThroughputRecord::of(state, machine) {
        Ok(record) => compression::choose(&record.read(), health::now()),
        Err(error) => {
            debug!("cannot read the throughput of '{}': {error}", machine.name);
            Compressed::default()
        }
    }
}

/// The processes that log in to a machine.
struct Crowd<'a> {
    state: &'a StateDirectory,
    machine: &'a Machine,
    logins: Result<&'a Logins, &'a StateError>,
    until: Instant,
}

impl<'a> Crowd<'a> {
    fn new(state: &'a StateDirectory, machine: &'a Machine, logins: &'a Result<Logins, StateError>) -> Crowd<'a> {
        if let Err(error) = logins {
            warn!("cannot limit the logins to '{}': {error}", machine.name);
        }
        Crowd { state, machine, logins: logins.as_ref(), until: Instant::now() + machine.stall_timeout }
    }

    /// Waits until `take` returns a value, or until the time limit: the limit of logins is a courtesy, and no build
    /// fails because of it. An error if the machine was found to fail meanwhile.
    fn wait<T>(&self, take: impl Fn(&Logins) -> Result<Option<T>, StateError>) -> Result<Option<T>, String> {
        let mut turn = None;
        self.repeat(|logins| {
            let taken = take(logins)?;
            if taken.is_none() {
                turn.get_or_insert_with(|| logins.turn()).wait(POLL_INTERVAL, self.until)?;
            }
            Ok(taken)
        })
    }

    /// Repeats `step`, which waits, until it returns a value, or until the time limit. An error if the machine was found to
    /// fail meanwhile.
    fn repeat<T>(&self, mut step: impl FnMut(&Logins) -> Result<Option<T>, StateError>) -> Result<Option<T>, String> {
        loop {
            let done = self.logins.map_or(Ok(None), &mut step);
            self.check()?;
            match done {
                Ok(None) if self.logins.is_ok() && Instant::now() < self.until => {}
                Ok(done) => return Ok(done),
                Err(error) => {
                    warn!("cannot wait for a login to '{}': {error}", self.machine.name);
                    return Ok(None);
                }
            }
        }
    }

    /// Returns an error if the machine is in a back-off, or the build is cancelled.
    fn check(&self) -> Result<(), String> {
        cancel::check().map_err(|error| error.to_string())?;
        let health = HealthRecord::of(self.state, self.machine).map(|record| record.read()).unwrap_or_default();
        match health.failures.filter(|failures| !failures.is_over(health::now())) {
            Some(failures) => Err(failures.error),
            None => Ok(()),
        }
    }

    /// Returns whether a connection may have failed because too many processes logged in, or without a fault of the
    /// machine.
    fn is_blamed(&self, error: &remote::Error, login: Option<&Login>) -> bool {
        let error = match error {
            remote::Error::Ssh(error) => error,
            // Somebody killed the owner of the session.
            remote::Error::OwnerEnded { .. } => return true,
            _ => return false,
        };
        match error.cause {
            Cause::Dropped { .. } => true,
            Cause::TemporarilyRefused => self.logins.is_ok_and(|logins| logins.is_crowded(login).unwrap_or(false)),
            _ => false,
        }
    }
}

/// Returns a pause that differs between processes.
fn pause(retry: u32) -> Duration {
    let time = RETRY_PAUSE_MIN * (1 << retry.min(MAX_LOGIN_RETRIES));
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let chance = (nanos ^ process::id().wrapping_mul(2_654_435_761)) % 1000;
    time + time / 2000 * chance
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::thread;

    use super::*;
    use crate::cancel::Cancel;
    use crate::machine::HostKey;

    /// Processes that a server has dropped do not all come back at once: each pauses while it has the turn.
    #[test]
    fn a_retry_has_its_turn_during_its_pause() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
        assert!(made.success());
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        thread::spawn(move || server.incoming().for_each(drop));
        let host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        let host_keys = vec![HostKey::parse(host_key).unwrap()];
        let machine = Machine::new("127.0.0.1", "root", Vec::new(), host_keys);
        let machine = Machine { port, private_key: Some(key), ..machine };
        let state = StateDirectory::new(directory.path().join("state"));
        let logins = Logins::of(&state, &machine).unwrap();
        let cancel = Cancel::default();
        thread::scope(|scope| {
            let login = scope.spawn(|| cancel.scope(|| connect(&state, &machine).map(drop)));
            // To take the lock and to return it is a matter of microseconds.
            let mut times_taken = 0;
            while times_taken < 10 {
                assert!(!login.is_finished(), "{:?}", login.join());
                times_taken = if logins.try_again().unwrap().is_none() { times_taken + 1 } else { 0 };
                thread::sleep(Duration::from_millis(1));
            }
            cancel.cancel();
            assert!(login.join().unwrap().is_err());
        });
    }

    #[test]
    fn pauses_grow_and_vary_within_bounds() {
        for retry in 0..MAX_LOGIN_RETRIES {
            let shortest = RETRY_PAUSE_MIN * (1 << retry);
            let pause = pause(retry);
            assert!(pause >= shortest && pause < shortest + shortest / 2, "{pause:?}");
        }
    }
}
