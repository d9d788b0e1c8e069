//! `offload add HOST`: prints an entry for the machine file, from the data of the machine, or adds it to the file.
//!
//! It fetches the SSH server's host key and prints its fingerprint on standard error. Only a comparison with the
//! machine's own fingerprint protects the entry against a man in the middle. Then it tries to log in with that key, as
//! the user that guix-daemon runs as, and queries the machine's system type and processors. The entry goes to standard
//! output, and nothing is changed, unless `--write` is given. The status is 0 if the host key was fetched, even without
//! a login, 3 if the machine file cannot be extended, else 1.

mod entry;
mod login;
mod write;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::daemon_user;
use super::failure::{CommandError, CommandResult};
use super::machines::machine_file;
use super::output_file::Replaced;
use super::terminal::{self, Terminal, plain};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::{HostKey, Machine, NameFault, check_name};
use crate::shell::quote;
use crate::ssh::Session;
pub(super) use login::{Facts, LoginError, log_in};
use write::Written;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) host: Host,
    /// Add the entry to the machine file, which is made if it does not exist; the old file is kept as a backup.
    #[arg(long)]
    write: bool,
    /// The machine file, if it is not the default one.
    #[arg(long, value_name = "FILE", requires = "write")]
    machine_file: Option<PathBuf>,
    /// Log in with one of these host keys, and print the machine's data in JSON.
    #[arg(long, hide = true, value_name = "HOST-KEY", value_parser = host_key)]
    facts: Vec<HostKey>,
    /// The words of the program that carries that connection.
    #[arg(long, hide = true, value_name = "WORD", requires = "facts")]
    proxy_word: Vec<String>,
}

/// A machine that need not be in the machine file.
#[derive(Clone, Debug, clap::Args)]
pub struct Host {
    /// The machine's name or address.
    #[arg(value_parser = host)]
    pub host: String,
    /// The port of its SSH server.
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The account to log in as.
    #[arg(long, default_value = "offload")]
    pub user: String,
    /// The private key for the account, if it is not the default one.
    #[arg(long, value_name = "FILE")]
    pub private_key: Option<PathBuf>,
    /// The fingerprint that its host key must have, as `ssh-keygen -l` prints it.
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    pub fingerprint: Option<String>,
}

impl Args {
    /// Returns the machine file that the command changes, if it does; `Some(None)` is the default one.
    pub fn changed_file(&self) -> Option<Option<&Path>> {
        self.write.then_some(self.machine_file.as_deref())
    }
}

impl Host {
    /// Returns the machine, without host keys and systems.
    pub fn machine(&self) -> Result<Machine, CommandError> {
        let mut machine = Machine::new(&self.host, &self.user, Vec::new(), Vec::new());
        machine.port = self.port;
        let private_key = self.private_key.as_deref().map(std::path::absolute).transpose();
        machine.private_key = private_key.map_err(|error| CommandError::failure(format!("--private-key: {error}")))?;
        Ok(machine)
    }

    /// Returns its name for other commands.
    pub fn name(&self) -> String {
        if self.port == 22 { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Prints an entry for the machine, or adds it to the machine file.
pub fn run(args: &Args, engine: &Engine, output: &mut dyn Write, messages: &mut dyn Write) -> CommandResult {
    let unprinted = |error: io::Error| CommandError::output("the entry", &error);
    let mut machine = args.host.machine()?;
    if !args.facts.is_empty() {
        machine.host_keys = args.facts.clone();
        machine.proxy_command = (!args.proxy_word.is_empty()).then(|| args.proxy_word.clone());
        let found = login::query(&machine, &engine.directories.store);
        return match terminal::write_json(&found, false, output) {
            Ok(()) => Ok(ExitStatus::Success),
            Err(error) => Err(unprinted(error)),
        };
    }
    let key = fetch_host_key(&machine)?;
    match &args.host.fingerprint {
        Some(expected) => check_fingerprint(&machine, &key, expected)?,
        None => messages.write_all(shown_key(&machine, &key).as_bytes()).map_err(unprinted)?,
    }
    machine.host_keys = vec![key.clone()];
    let facts = log_in(&machine, daemon_user::for_checks(&engine.directories).as_ref(), engine);
    if let Err(LoginError { message, hint, .. }) = &facts {
        let hint = hint.as_ref().map_or(String::new(), |hint| format!("\n  hint: {hint}"));
        let message = Terminal::of(&io::stderr()).wrap(2, &format!("No login yet: {message}"));
        writeln!(messages, "{message}{hint}").map_err(unprinted)?;
    }
    let entry = entry::entry(&machine, &key, facts.ok().as_ref());
    let name = quote(&args.host.name());
    if !args.write {
        output.write_all(entry.as_bytes()).map_err(unprinted)?;
        writeln!(messages, "Put the entry into the machine file, then: offload authorize {name}").map_err(unprinted)?;
        return Ok(ExitStatus::Success);
    }
    let file = machine_file(args.machine_file.as_deref(), &engine.directories);
    let said = match write::write(&file, &entry, &machine, engine)? {
        Written::Known => format!("'{}' has {} already", file.display(), machine.address()),
        Written::File(Replaced::Created) => format!("wrote '{}' with {}", file.display(), machine.address()),
        Written::File(replaced) => format!("added {}: {}", machine.address(), replaced.report(&file)),
    };
    writeln!(messages, "{said}\nNext: offload authorize {name}").map_err(unprinted)?;
    Ok(ExitStatus::Success)
}

/// Fetches the host key of the machine's SSH server.
pub(super) fn fetch_host_key(machine: &Machine) -> Result<HostKey, CommandError> {
    Session::host_key(machine).map_err(|error| {
        CommandError::failure(plain(&error.to_string())).with_hint(error.hint().map(|hint| plain(&hint).into_owned()))
    })
}

/// Returns whether the key has this fingerprint.
pub(super) fn has_fingerprint(key: &HostKey, expected: &str) -> bool {
    key.fingerprint().trim_end_matches('=') == expected.trim_end_matches('=')
}

/// Returns an error unless the key has this fingerprint.
pub(super) fn check_fingerprint(machine: &Machine, key: &HostKey, expected: &str) -> Result<(), CommandError> {
    if has_fingerprint(key, expected) {
        return Ok(());
    }
    let message = format!("{} shows the host key {}, not {expected}", machine.address(), key.fingerprint());
    let hint = "compare with `cat /etc/ssh/ssh_host_*_key.pub | ssh-keygen -lf -` on the machine itself: an Ed25519 key \
                is used where there is one; if the machine has no such key, another one answers in its place";
    Err(CommandError::failure(message).with_hint(Some(hint.to_owned())))
}

/// Returns the lines that ask for a comparison of the key.
pub(super) fn shown_key(machine: &Machine, key: &HostKey) -> String {
    let key = format!("{} shows the host key {}", machine.address(), key.fingerprint());
    format!(
        "{}\n\
         Compare it with what this prints on the machine itself:\n  \
         cat /etc/ssh/ssh_host_*_key.pub | ssh-keygen -lf -\n",
        Terminal::of(&io::stderr()).wrap(2, &key)
    )
}

/// Parses a name for the machine file.
pub(super) fn host(text: &str) -> Result<String, String> {
    match check_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(NameFault::Port("")) => Err("no port follows the colon; it is an option: --port PORT".to_owned()),
        Err(NameFault::Port(port)) => Err(format!("the port is an option: --port {port}")),
        Err(NameFault::Account(user)) => Err(format!("the account is an option: --user {user}")),
        Err(NameFault::Brackets) => Err("an IPv6 address has no brackets here".to_owned()),
        Err(NameFault::Other) => Err("not a host name or address".to_owned()),
    }
}

fn host_key(text: &str) -> Result<HostKey, String> {
    HostKey::parse(text).map_err(|error| error.to_string())
}

pub(super) fn fingerprint(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("SHA256:").map(|digits| digits.trim_end_matches('='));
    match digits {
        Some(digits) if digits.len() == 43 => Ok(text.to_owned()),
        _ => Err("expected SHA256: and 43 characters, as `ssh-keygen -l` prints it".to_owned()),
    }
}
