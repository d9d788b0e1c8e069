//! `offload init [HOST]`: sets up the head and one build machine, step by step.
//!
//! The steps: the head's signing key, the user key, the machine's host key, the account, the entry in the machine file,
//! the authorization of both signing keys, the test. Each says whether it is done already, so the command can be run
//! again. The command prints the commands that root has to run on the machine. On a terminal it asks, and waits until
//! the user has run them; otherwise it stops there, and the next run continues.
//!
//! The last three steps are `offload add --write`, `offload authorize` and `offload test`, each started as a process of
//! its own, since each chooses the user that it runs as. The login is tried as the user that guix-daemon runs as.
//!
//! The status is that of `offload test`; 1 if a step has still to be done; 3 if the machine file cannot be used.

mod account;
mod child;
mod console;
mod keys;

use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::add::{self, Host};
use super::failure::{CommandError, CommandResult};
use super::machines::machine_file;
use super::{as_user, daemon_user};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::{HostKey, Machine};
use crate::shell::quote;
use crate::ssh::USER_KEY;
use child::Offload;
use console::Console;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The build machine's name or address. Without it, the command makes only the keys of this machine; on a
    /// terminal, it asks for the name.
    #[arg(value_parser = add::host)]
    host: Option<String>,
    /// The port of its SSH server.
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The account to log in as.
    #[arg(long, default_value = "offload", value_parser = account::account)]
    user: String,
    /// The private key for the account, which is made if it does not exist [default: offload_ed25519 in /etc/guix].
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// The fingerprint that the machine's host key must have, as `ssh-keygen -l` prints it.
    #[arg(long, value_name = "FINGERPRINT", value_parser = add::fingerprint)]
    fingerprint: Option<String>,
    /// Answer yes to the questions of `offload authorize`.
    #[arg(long, short)]
    yes: bool,
    /// The machine file, if it is not the default one.
    #[arg(long, value_name = "FILE")]
    machine_file: Option<PathBuf>,
}

/// Walks through the steps.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    if !geteuid().is_root() {
        let hint = "run this command as root: it makes keys for guix-daemon".to_owned();
        return Err(CommandError::failure("only root can set up a machine").with_hint(Some(hint)));
    }
    let console = Console::new();
    let file = machine_file(args.machine_file.as_deref(), &engine.directories);
    let offload = Offload { machine_file: args.machine_file.as_deref() };
    let signing_key = keys::signing_key(&console, &engine.directories)?;
    let Some(host) = host(args, &console)? else {
        keys::user_key(&console, &user_key(args, engine)?, &engine.directories)?;
        console.say("Next: offload init HOST");
        return Ok(ExitStatus::Success);
    };
    let known = if file.exists() { offload.entry(&host.machine()?)? } else { None };
    let mut machine = match &known {
        Some(entry) => entry.clone(),
        None => host.machine()?,
    };
    if known.is_none() {
        machine.private_key = Some(user_key(args, engine)?);
    }
    let public_key = match &machine.private_key {
        Some(key) => Some(keys::user_key(&console, key, &engine.directories)?),
        None => None,
    };
    match &known {
        Some(entry) => check_entry(entry, args, &file)?,
        None => machine.host_keys = vec![confirmed_host_key(&console, &machine, args)?],
    }
    let fingerprint = if known.is_none() { machine.host_keys.first().map(HostKey::fingerprint) } else { None };
    let again = again(args, &host.host, fingerprint.as_deref());
    let commands = account::commands(&machine.user, public_key.as_deref(), &signing_key);
    // The proxy command of an entry runs as the user who can write the machine file.
    let writer = if known.is_some() { as_user::for_machine_file(&file, engine.state.path())? } else { None };
    let user = writer.or_else(|| daemon_user::for_checks(&engine.directories));
    account::log_in(&console, &machine, &commands, &again, || add::log_in(&machine, user.as_ref(), engine))?;
    match (&known, machine.host_keys.first()) {
        (None, Some(key)) => add_entry(&console, &offload, &machine, key, &file)?,
        _ => console.done("entry", &format!("in '{}'", file.display())),
    }
    // The host may have another entry, with another port.
    let name = machine.address();
    console.begin("authorization", "of both signing keys");
    let yes: &[&str] = if args.yes { &["--yes"] } else { &[] };
    loop {
        match offload.run(&[&["authorize", &name], yes].concat())? {
            ExitStatus::Success => break,
            ExitStatus::Failure => console.wait_for_user(&again)?,
            // The user can do nothing about it elsewhere.
            status => return Ok(status),
        }
    }
    console.begin("test", &format!("of {}", machine.address()));
    let status = offload.run(&["test", &name])?;
    if status == ExitStatus::Success {
        console.say(&format!("{} is ready. Next: offload status", machine.address()));
    }
    Ok(status)
}

/// Returns the machine to set up; on a terminal it asks for the name.
fn host(args: &Args, console: &Console) -> Result<Option<Host>, CommandError> {
    let host = match &args.host {
        Some(host) => Some(host.clone()),
        None => match console.ask("Name or address of the build machine (empty: none now):")? {
            Some(answer) if !answer.is_empty() => {
                Some(add::host(&answer).map_err(|error| CommandError::new(ExitStatus::Usage, error))?)
            }
            _ => None,
        },
    };
    let Args { port, ref user, ref private_key, .. } = *args;
    Ok(host.map(|host| Host { host, port, user: user.clone(), private_key: private_key.clone(), fingerprint: None }))
}

fn user_key(args: &Args, engine: &Engine) -> Result<PathBuf, CommandError> {
    match &args.private_key {
        Some(file) => {
            std::path::absolute(file).map_err(|error| CommandError::failure(format!("--private-key: {error}")))
        }
        None => Ok(engine.directories.configuration.join(USER_KEY)),
    }
}

/// Returns an error if the entry in the machine file has no host key with the given fingerprint.
fn check_entry(entry: &Machine, args: &Args, file: &Path) -> Result<(), CommandError> {
    let Some(expected) = &args.fingerprint else { return Ok(()) };
    if entry.host_keys.iter().any(|key| add::has_fingerprint(key, expected)) {
        return Ok(());
    }
    let keys: Vec<String> = entry.host_keys.iter().map(HostKey::fingerprint).collect();
    let (file, address) = (file.display(), entry.address());
    let message = format!("'{file}' has the host keys {} for {address}, not {expected}", keys.join(", "));
    let hint = "compare the keys on the machine itself, then change 'host_key' in the file by hand".to_owned();
    Err(CommandError::failure(message).with_hint(Some(hint)))
}

/// Fetches the host key. It has the given fingerprint, or somebody at the terminal has compared it.
fn confirmed_host_key(console: &Console, machine: &Machine, args: &Args) -> Result<HostKey, CommandError> {
    let key = add::fetch_host_key(machine)?;
    match &args.fingerprint {
        Some(expected) => add::check_fingerprint(machine, &key, expected)?,
        None => {
            console.say(add::shown_key(machine, &key).trim_end());
            match console.ask("Is it the same? [y/N]")?.as_deref() {
                Some("y" | "Y" | "yes") => {}
                answer => {
                    let message = format!("the host key of {} was not confirmed", machine.address());
                    let again = format!("if it is the same: {}", again(args, &machine.name, Some(&key.fingerprint())));
                    return Err(CommandError::failure(message).with_hint(answer.is_none().then_some(again)));
                }
            }
        }
    }
    console.done("host key", &key.fingerprint());
    Ok(key)
}

fn add_entry(
    console: &Console,
    offload: &Offload<'_>,
    machine: &Machine,
    key: &HostKey,
    file: &Path,
) -> Result<(), CommandError> {
    let (port, fingerprint) = (machine.port.to_string(), key.fingerprint());
    let mut words = vec!["add", &machine.name, "--port", &port, "--user", &machine.user, "--fingerprint", &fingerprint];
    let private_key = machine.private_key.as_deref().map(Path::to_string_lossy);
    if let Some(private_key) = &private_key {
        words.extend(["--private-key", private_key]);
    }
    words.push("--write");
    let (status, messages) = offload.output(&words)?;
    if status != ExitStatus::Success {
        return Err(CommandError::report(status, messages.trim_end()));
    }
    console.made("entry", &format!("in '{}': parallel_builds and other settings can be added there", file.display()));
    Ok(())
}

/// Returns the command line with which the user continues, as far as it is known.
fn again(args: &Args, host: &str, fingerprint: Option<&str>) -> String {
    let mut words = vec!["offload".to_owned(), "init".to_owned(), quote(host)];
    let mut option = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("{name} {}", quote(&value))));
    };
    let file = |file: &Option<PathBuf>| file.as_ref().map(|file| file.to_string_lossy().into_owned());
    option("--port", (args.port != 22).then(|| args.port.to_string()));
    option("--user", (args.user != "offload").then(|| args.user.clone()));
    option("--private-key", file(&args.private_key));
    option("--fingerprint", fingerprint.map(str::to_owned));
    option("--machine-file", file(&args.machine_file));
    if args.yes {
        words.push("--yes".to_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_continue_has_the_same_options() {
        let mut args = Args {
            host: None,
            port: 22,
            user: "offload".to_owned(),
            private_key: None,
            fingerprint: None,
            yes: false,
            machine_file: None,
        };
        assert_eq!(again(&args, "b1", None), "offload init b1");
        args.port = 2022;
        args.user = "root".to_owned();
        args.private_key = Some("/a key".into());
        args.machine_file = Some("x.lua".into());
        args.yes = true;
        assert_eq!(
            again(&args, "b1", Some("SHA256:x")),
            "offload init b1 --port 2022 --user root --private-key '/a key' --fingerprint SHA256:x --machine-file x.lua --yes"
        );
    }
}
