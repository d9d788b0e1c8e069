//! `offload authorize NAME`: makes this machine and a build machine accept each other's signatures.
//!
//! All data go over the connection whose host key the machine file pins. The machine's key is the one with which its
//! daemon really signs: that of a small item which it exports. Existing authorizations are not changed. For the others
//! it asks, one direction after the other, and runs `guix archive --authorize`, here and on the machine. The account on
//! the machine may lack the right to change the list of keys; then the command for root is printed. At the end both
//! directions are tested.
//!
//! The status is 0 if both directions work, 1 if not, 5 if no machine has that name.

use std::io::{self, BufRead, Write};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use std::path::Path;

use super::contact;
use super::failure::{CommandError, CommandResult};
use super::guix_wrapper::real_guix;
use super::machines::load;
use super::selection::Selection;
use super::started::trusted;
use super::terminal::{Terminal, plain};
use crate::daemon::Client;
use crate::engine::Engine;
use crate::error::with_causes;
use crate::exit::ExitStatus;
use crate::gcrypt::{SigningKey, VerifyError};
use crate::local::{AclError, load_acl};
use crate::machine::Machine;
use crate::remote::{Connection, DaemonStream};
use crate::shell::quote;
use crate::store::signature::{Acl, PublicKey};
use crate::transfer::signature_test::{self, SignatureTestError};
use crate::transfer::{self, RejectedOutput};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Answer yes to all questions.
    #[arg(long, short)]
    yes: bool,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.selection.machine_file()
    }
}

/// Exchanges signing keys.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    args.selection.require_names()?;
    let (_, pool) = load(args.selection.one_machine_file()?, engine)?;
    let [machine] = args.selection.hosts(&pool)?[..] else {
        return Err(CommandError::new(ExitStatus::Usage, "several machines match: name one, as NAME or NAME:PORT"));
    };
    let exchange = Exchange::start(machine, engine)?;

    let there = exchange.there(args.yes)?;
    let here = exchange.here(args.yes)?;
    if !(there && here) {
        return Ok(ExitStatus::Failure);
    }
    // A build that failed for want of a key has made the hooks skip the machine.
    match exchange.connection.probe(engine.directories.store.as_str()) {
        Ok(status) => contact::record_works(engine, machine, status),
        Err(error) => log::debug!("{error}"),
    }
    Ok(ExitStatus::Success)
}

/// The two sides of the exchange.
struct Exchange<'a> {
    machine: &'a Machine,
    engine: &'a Engine,
    connection: Connection,
    own: SigningKey,
}

impl<'a> Exchange<'a> {
    fn start(machine: &'a Machine, engine: &'a Engine) -> Result<Exchange<'a>, CommandError> {
        let own = SigningKey::load(&engine.directories.signing_key()).map_err(|error| {
            CommandError::failure(with_causes(&error))
                .with_hint(Some("as root: `guix archive --generate-key`".to_owned()))
        })?;
        let connection = Connection::open(&*trusted(engine, machine)?)
            .map_err(|error| CommandError::failure(&error).with_hint(error.hint()))?;
        Ok(Exchange { machine, engine, connection, own })
    }

    /// Makes the machine authorize this one's key. Returns whether it is authorized.
    fn there(&self, yes: bool) -> Result<bool, CommandError> {
        let name = &self.machine.name;
        if self.is_trusted_there()? {
            print_sentence(&format!("{name} has already authorized this machine's key."));
            return Ok(true);
        }
        let key = self.own.public_key().to_string();
        print_sentence(&format!("{name} has not authorized this machine's signing key"));
        print_line(&key);
        print_sentence(&format!(
            "If it authorizes the key, anyone with the secret half of that key can put any item into the store of {name}."
        ));
        if !confirm(&format!("Authorize it on {name}?"), yes)? {
            return Ok(false);
        }
        let limit = self.machine.stall_timeout;
        let command = "guix archive --authorize";
        let problem = match self.connection.run(command, key.as_bytes(), limit) {
            Ok(output) if output.status == Some(0) => None,
            Ok(output) => Some(last_line(&output.stderr)),
            Err(error) => Some(error.to_string()),
        };
        if problem.is_none() && self.is_trusted_there()? {
            print_sentence(&format!("{name} has authorized this machine's key."));
            return Ok(true);
        }
        let problem = problem.unwrap_or_else(|| "it still does not accept the key".to_owned());
        print_sentence(&format!(
            "The account '{}' cannot authorize it on {name}: {}",
            self.machine.user,
            plain(&problem)
        ));
        print_sentence(&format!("As root on {name}:"));
        print_line(&format!("echo {} | {command}", quote(&key)));
        Ok(false)
    }

    /// Makes this machine authorize the other one's key. Returns whether it is authorized.
    fn here(&self, yes: bool) -> Result<bool, CommandError> {
        let name = &self.machine.name;
        let Some(key) = self.unauthorized_key()? else {
            print_sentence(&format!("This machine has already authorized the key of {name}."));
            return Ok(true);
        };
        print_sentence(&format!("This machine has not authorized the signing key of {name}"));
        print_line(&key.to_string());
        print_sentence(
            "If this machine authorizes the key, anyone with the secret half of that key can put any item into its store.",
        );
        if !confirm("Authorize it?", yes)? {
            return Ok(false);
        }
        let problem = match authorize_here(&key.to_string()) {
            Ok(problem) => problem,
            Err(error) => Some(error),
        };
        if problem.is_none() && self.unauthorized_key()?.is_none() {
            print_sentence(&format!("This machine has authorized the key of {name}."));
            return Ok(true);
        }
        print_sentence(&format!(
            "This machine cannot authorize it: {}",
            plain(&problem.unwrap_or_else(|| "the key is still refused".to_owned()))
        ));
        print_sentence("As root on this machine:");
        print_line(&format!("echo {} | guix archive --authorize", quote(&key.to_string())));
        Ok(false)
    }

    fn is_trusted_there(&self) -> Result<bool, CommandError> {
        let mut client = self.client()?;
        match signature_test::upload(&mut client, &self.engine.directories.store, &self.own, &trial_text("sent")) {
            Ok(_) => Ok(true),
            Err(error) if error.is_unauthorized() => Ok(false),
            Err(error) => Err(CommandError::failure(format!("{}: {}", self.machine.address(), with_causes(&error)))),
        }
    }

    /// Returns the key with which the machine's daemon signs, if it is not authorized here.
    fn unauthorized_key(&self) -> Result<Option<PublicKey>, CommandError> {
        let directories = &self.engine.directories;
        let acl = match load_acl(&directories.acl()) {
            Ok(acl) => acl,
            Err(AclError::Missing { .. }) => Acl::default(),
            Err(error) => return Err(CommandError::failure(with_causes(&error))),
        };
        let mut client = self.client()?;
        match signature_test::sign(&mut client, &directories.store, &acl, &trial_text("made")) {
            Ok(key) => {
                transfer::remember(&self.engine.state, self.machine, &key);
                Ok(None)
            }
            Err(SignatureTestError::Refused(RejectedOutput::Signature(VerifyError::Unauthorized { key }))) => {
                Ok(Some(key))
            }
            Err(error) => {
                let hint = format!(
                    "on {}, as root, if it has no signing key: `guix archive --generate-key`",
                    self.machine.name
                );
                let message = format!("{}: {}", self.machine.address(), with_causes(&error));
                Err(CommandError::failure(message).with_hint(Some(hint)))
            }
        }
    }

    /// Opens a new connection each time, because a daemon caches its list.
    fn client(&self) -> Result<Client<DaemonStream>, CommandError> {
        let stream = self.connection.daemon().map_err(|error| CommandError::failure(&error).with_hint(error.hint()))?;
        let client = stream.greet(self.engine.directories.store.clone());
        client.map_err(|error| CommandError::failure(format!("{}: {}", self.machine.address(), with_causes(&error))))
    }
}

/// Returns the text of a trial item. Each is new, because a present item is not verified.
fn trial_text(what: &str) -> String {
    format!("{what} to exchange keys at {:?}\n", SystemTime::now().duration_since(UNIX_EPOCH))
}

/// Runs `guix archive --authorize` here. Returns its error message, if it fails.
fn authorize_here(key: &str) -> Result<Option<String>, String> {
    let guix = real_guix().map_err(|error| error.to_string())?;
    let failed = |error: io::Error| format!("cannot run '{}': {error}", guix.display());
    let mut command = Command::new(&guix);
    command.args(["archive", "--authorize"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(key.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    Ok((!output.status.success()).then(|| last_line(&output.stderr)))
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    last.unwrap_or("it printed nothing").to_owned()
}

/// Prints a sentence, wrapped for the terminal.
fn print_sentence(sentence: &str) {
    eprintln!("{}", Terminal::of(&io::stderr()).wrap(0, sentence));
}

/// Prints a key or a command to copy, without wrapping.
fn print_line(line: &str) {
    eprintln!("  {}", plain(line));
}

/// Asks for confirmation; no answer means no.
fn confirm(question: &str, yes: bool) -> Result<bool, CommandError> {
    if yes {
        return Ok(true);
    }
    let mut answer = String::new();
    eprint!("{question} [y/N] ");
    io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer)).map_err(CommandError::failure)?;
    if answer.is_empty() {
        eprintln!();
    }
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
