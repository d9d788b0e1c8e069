//! The login to a machine that need not be in the machine file, as the user whose hook logs in.
//!
//! Root's command starts itself again as that user, with the hidden options `--facts` and `--proxy-word`. The new process
//! prints a JSON object: `Ok` with the facts, or `Err` with the message. Nothing that this user could write is evaluated.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::commands::as_user;
use crate::commands::terminal::plain;
use crate::engine::Engine;
use crate::machine::Machine;
use crate::permissions::User;
use crate::remote::{Connection, Error};
use crate::ssh::Cause;
use crate::store::path::StoreDir;

/// The data from a login.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Facts {
    pub system: Option<String>,
    pub cores: Option<u32>,
}

/// The reason why there was no login.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub struct LoginError {
    pub message: String,
    pub hint: Option<String>,
    /// Whether the server refused the account or the key.
    pub is_refused: bool,
}

impl From<Error> for LoginError {
    fn from(error: Error) -> LoginError {
        let hint = error.hint().map(|hint| plain(&hint).into_owned());
        let is_refused = matches!(&error, Error::Ssh(error) if matches!(error.cause, Cause::UserKeyRefused { .. } | Cause::LoginRefused { .. }));
        LoginError { message: plain(&error.to_string()).into_owned(), hint, is_refused }
    }
}

/// Logs in with the machine's account, host keys and proxy, as `user` if this process is not to do it itself, and queries
/// the machine.
pub fn log_in(machine: &Machine, user: Option<&User>, engine: &Engine) -> Result<Facts, LoginError> {
    match user {
        Some(user) => log_in_through(as_user::command(user), machine),
        None => query(machine, &engine.directories.store),
    }
}

/// Logs in with a process that `command` starts.
fn log_in_through(mut command: Command, machine: &Machine) -> Result<Facts, LoginError> {
    let failed = |message: String| LoginError { message, hint: None, is_refused: false };
    command.args(["add", &machine.name, "--port", &machine.port.to_string(), "--user", &machine.user]);
    if let Some(private_key) = &machine.private_key {
        command.arg("--private-key").arg(private_key);
    }
    command.args(machine.host_keys.iter().map(|key| format!("--facts={}", key.to_openssh())));
    command.args(machine.proxy_command.iter().flatten().map(|word| format!("--proxy-word={word}")));
    command.stderr(Stdio::inherit());
    let ended = as_user::output(&mut command);
    let (status, printed) = ended.map_err(|error| failed(format!("cannot run this as guix-daemon's user: {error}")))?;
    let result: Result<Facts, LoginError> = serde_json::from_slice(&printed)
        .map_err(|_| failed(format!("the login as guix-daemon's user ended with {status}")))?;
    result
}

/// Logs in and queries the machine.
pub fn query(machine: &Machine, store: &StoreDir) -> Result<Facts, LoginError> {
    let status = Connection::open(machine)?.probe(store.as_str())?;
    let kernel = status.kernel.as_deref().and_then(|kernel| kernel.split(' ').next());
    let system =
        status.architecture.as_deref().zip(kernel).and_then(|(architecture, kernel)| system(architecture, kernel));
    Ok(Facts { system, cores: status.cores })
}

/// Returns Guix's name of the system type for these outputs of `uname -m` and `uname -s`.
fn system(architecture: &str, kernel: &str) -> Option<String> {
    let processor = match architecture {
        "x86_64" | "aarch64" | "riscv64" | "mips64el" => architecture,
        "i386" | "i486" | "i586" | "i686" => "i686",
        "i686-AT386" => "i586",
        "ppc64le" => "powerpc64le",
        "ppc" => "powerpc",
        _ if architecture.starts_with("armv7") || architecture == "armv8l" => "armhf",
        _ => return None,
    };
    match kernel {
        "Linux" => Some(format!("{processor}-linux")),
        "GNU" => Some(format!("{processor}-gnu")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_types_are_those_of_guix() {
        for (architecture, kernel, expected) in [
            ("x86_64", "Linux", Some("x86_64-linux")),
            ("ppc64le", "Linux", Some("powerpc64le-linux")),
            ("armv7l", "Linux", Some("armhf-linux")),
            ("i686-AT386", "GNU", Some("i586-gnu")),
            ("x86_64", "Darwin", None),
            ("s390x", "Linux", None),
        ] {
            assert_eq!(system(architecture, kernel).as_deref(), expected);
        }
    }
}
