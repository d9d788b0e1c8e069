//! `offload ssh NAME [COMMAND…]` opens a session with a build machine by means of OpenSSH's `ssh`, with what the machine's
//! entry says: account, port, private key, proxy command, and host keys. As for the hook, the configuration files of
//! `ssh` do not count, and no other host key is accepted.
//!
//! The program replaces itself by `ssh`, so that the exit status is that of `ssh`. The host keys are passed in
//! `KnownHostsCommand`, which OpenSSH has since 8.5: so no file has to be removed afterwards.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::failure::{CommandError, CommandResult};
use super::machines::{MachineFileArgs, load};
use super::selection::find_one;
use super::started::trusted;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::Machine;
use crate::shell::quote;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine: its name, or NAME:PORT.
    name: String,
    /// The command to run there, instead of a login shell.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
    #[command(flatten)]
    file: MachineFileArgs,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.file.named()
    }
}

/// Replaces this program by `ssh`. Returns only an error.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let (_, pool) = load(args.machine_file(), engine)?;
    let machine = &*trusted(engine, find_one(&pool, &args.name)?)?;
    let cause = Command::new("ssh").args(options(machine)).arg(&machine.name).args(&args.command).exec();
    let hint = "install the client of OpenSSH, 8.5 or newer".to_owned();
    Err(CommandError::new(ExitStatus::Failure, format!("cannot run 'ssh': {cause}")).with_hint(Some(hint)))
}

/// Returns the options for `ssh` that mean the entry of the machine.
pub fn options(machine: &Machine) -> Vec<String> {
    let mut options = vec!["-F".to_owned(), "none".to_owned()];
    let mut set = |name: &str, value: String| options.extend(["-o".to_owned(), format!("{name}={value}")]);
    set("User", machine.user.clone());
    let (host, port) = machine.contact();
    if host != machine.name {
        // OpenSSH replaces what follows a percent sign, which a zone begins with.
        set("HostName", host.replace('%', "%%"));
    }
    set("Port", port.to_string());
    set("ConnectTimeout", machine.connect_timeout.as_secs().max(1).to_string());
    if let Some(key) = &machine.private_key {
        set("IdentityFile", in_option(&key.to_string_lossy()));
        set("IdentitiesOnly", "yes".to_owned());
    }
    if let Some(program) = &machine.proxy_command {
        // `ssh` replaces %h and %p as the hook does, and has a shell run the command.
        set("ProxyCommand", program.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "));
    }
    set("StrictHostKeyChecking", "yes".to_owned());
    set("UserKnownHostsFile", "/dev/null".to_owned());
    set("GlobalKnownHostsFile", "/dev/null".to_owned());
    set("HostKeyAlias", ALIAS.to_owned());
    set("KnownHostsCommand", known_hosts_command(machine));
    options
}

/// The name of every machine for `ssh` when it looks for host keys.
const ALIAS: &str = "offload-build-machine";

/// Returns the command that prints the host keys of the machine.
fn known_hosts_command(machine: &Machine) -> String {
    let lines = machine.host_keys.iter().map(|key| format!("echo {ALIAS} {}", key.to_openssh()));
    format!("/bin/sh -c \"{}\"", lines.collect::<Vec<_>>().join("; "))
}

/// Returns a file name as an option has it: in quotes, and `%` begins a token.
fn in_option(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine::HostKey;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn the_options_are_those_of_the_entry() {
        let machine = Machine {
            port: 2022,
            private_key: Some("/etc/guix/a key 100%".into()),
            proxy_command: Some(["nc", "a b", "%h"].map(str::to_owned).into()),
            connect_timeout: Duration::from_secs(7),
            ..Machine::new("b1", "builder", Vec::new(), vec![HostKey::parse(KEY).unwrap(); 2])
        };
        let options = options(&machine).join("\n");
        for option in [
            "-F\nnone\n",
            "User=builder\n",
            "Port=2022\n",
            "ConnectTimeout=7\n",
            "IdentityFile=\"/etc/guix/a key 100%%\"\n",
            "ProxyCommand=nc 'a b' %h\n",
        ] {
            assert!(options.contains(option), "{option}: {options}");
        }
        let keys = format!("echo {ALIAS} {KEY}; echo {ALIAS} {KEY}\"");
        assert!(options.ends_with(&keys), "{options}");
        // Without a key in the entry `ssh` tries the usual ones, as the hook does.
        let none = Machine::new("b1", "builder", Vec::new(), Vec::new());
        assert!(!super::options(&none).iter().any(|option| option.starts_with("Identit")));
    }
}
