//! The remedies for findings: commands for root's shell, lines for the machine file, or advice where neither is known.
//!
//! A command is for a machine with systemd. If Guix System needs another one, a comment after the command names it. The program
//! does not run these commands: the user decides.

use std::path::Path;
use std::time::Duration;

use super::finding::{Remedy, RemedyPlace};
use crate::daemon;
use crate::local::Directories;
use crate::machine::{HostKey, Machine};
use crate::permissions::{self, User};
use crate::remote::{Connection, Error};
use crate::shell::quote;
use crate::ssh::{self, Cause, Session};
use crate::store::signature::PublicKey;

/// The usual socket of a daemon.
const DEFAULT_SOCKET: &str = "/var/guix/daemon-socket/socket";

/// Time allowed for a machine to report on a file.
const STAT_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the remedies for a machine whose daemon cannot be reached. `connection` is the SSH connection, if there is one.
pub fn of_connecting(
    error: &Error,
    machine: &Machine,
    directories: &Directories,
    connection: Option<&Connection>,
) -> Vec<Remedy> {
    match error {
        Error::Ssh(error) => of_ssh(error, machine, directories),
        Error::NoDaemon { reason, .. } => of_socket(reason, machine, connection),
        Error::NoRoute { .. } => vec![
            start_daemon().provided("if guix-daemon does not run"),
            allow_forwarding().provided("if it runs, and 'daemon_socket' is its socket"),
            allow_tcp_forwarding(),
        ],
        Error::NotGreeted { .. } | Error::Silent { .. } | Error::Unresponsive { .. } => vec![restart_daemon()],
        Error::TooSlow { .. } => {
            error.hint().map(|hint| Remedy::advice(RemedyPlace::Machine, hint)).into_iter().collect()
        }
        // The machine is not at fault.
        Error::OwnerEnded { .. }
        | Error::OwnerStopped { .. }
        | Error::OwnerSilent { .. }
        | Error::OwnerBusy { .. }
        | Error::NoOwner { .. }
        | Error::ChannelTimeout { .. }
        | Error::NotStarted { .. } => Vec::new(),
    }
}

fn of_ssh(error: &ssh::Error, machine: &Machine, directories: &Directories) -> Vec<Remedy> {
    let make_key = |path: &Path| Remedy::on_head(ssh::make_key(path, None));
    let advice = |place| error.hint().map(|hint| Remedy::advice(place, hint)).into_iter().collect();
    match &error.cause {
        Cause::NoPrivateKey { .. } | Cause::NoHome => {
            let path = directories.configuration.join(ssh::USER_KEY);
            vec![make_key(&path), Remedy::in_file(format_args!("private_key = \"{}\"", path.display()))]
        }
        Cause::PrivateKeyMissing { path } => vec![make_key(path).provided("if that is the file you want")],
        Cause::PrivateKeyExposed { path, .. } => {
            vec![Remedy::on_head(format_args!("chmod 600 {}", quote(&path.to_string_lossy())))]
        }
        Cause::PrivateKeyEncrypted { path } => {
            vec![Remedy::on_head(format_args!("ssh-keygen -p -N '' -f {}", quote(&path.to_string_lossy())))]
        }
        Cause::PrivateKeyUnreadable { .. } => advice(RemedyPlace::Head),
        Cause::NotAPrivateKey { .. }
        | Cause::PrivateKeyHidden { .. }
        | Cause::PrivateKeyUnsupported { .. }
        | Cause::CannotSign { .. } => advice(RemedyPlace::MachineFile),
        Cause::NameNotResolved(_) | Cause::NotSsh(_) | Cause::NoConnection { .. } => advice(RemedyPlace::MachineFile),
        Cause::Proxy { .. } | Cause::TimedOut(_) => advice(RemedyPlace::Head),
        Cause::ConnectionRefused { .. } => vec![
            Remedy::on_machine("systemctl start ssh  # Guix System: herd start ssh-daemon")
                .provided(format_args!("if its SSH server should listen on port {}", machine.port)),
        ],
        Cause::HostKeyDiffers { offered, fingerprint } if HostKey::parse(offered).is_ok() => {
            vec![pin(offered, fingerprint, machine)]
        }
        Cause::NoCommonHostKeyType { .. } => match Session::host_key(machine) {
            Ok(key) => vec![pin(&key.to_openssh(), &key.fingerprint(), machine)],
            Err(_) => advice(RemedyPlace::MachineFile),
        },
        Cause::UserKeyRefused { user, public_key, .. } if is_user_name(user) => {
            let authorized = Remedy::on_machine(ssh::authorize_key(user, public_key));
            let unlock = Remedy::on_machine(format_args!("usermod -p '*' {user}"))
                .provided("if the key is there already, and the account is locked ('passwd -S' says L)");
            let log = Remedy::on_machine("journalctl -t sshd -t sshd-session -n 20  # Guix System: /var/log/messages")
                .provided(
                    "if the key is there already: its log has the reason, such as options before the key (from=)",
                );
            vec![authorized, unlock, log]
        }
        _ => advice(RemedyPlace::Machine),
    }
}

/// Returns the remedies for a socket without a daemon. `reason` is the error of connect(2) on the machine.
fn of_socket(reason: &str, machine: &Machine, connection: Option<&Connection>) -> Vec<Remedy> {
    let usual = Path::new(DEFAULT_SOCKET);
    let is_unusual = machine.daemon_socket != usual;
    if is_unusual && connection.is_some_and(|connection| connection.listens(usual)) {
        return vec![Remedy::in_file(format_args!("daemon_socket = \"{DEFAULT_SOCKET}\""))];
    }
    if reason.contains("Permission denied") {
        return connection.and_then(|connection| open_way(machine, connection)).into_iter().collect();
    }
    let start = start_daemon();
    vec![if is_unusual { start.provided("if 'daemon_socket' is its socket") } else { start }]
}

/// Returns the remedy that permits the account to connect to the socket. If a group has the permission, it adds the account to
/// the group.
fn open_way(machine: &Machine, connection: &Connection) -> Option<Remedy> {
    let socket = machine.daemon_socket.to_string_lossy();
    let directory = machine.daemon_socket.parent()?.to_string_lossy();
    // The login shell can be any shell, so the command has no character that one of them would interpret.
    if quote(&socket) != socket {
        return None;
    }
    let command = format!("stat -c '%a %G' {directory} {socket}");
    let output = connection.run(&command, b"", STAT_TIMEOUT).ok()?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut files = output.lines().filter_map(|line| line.split_once(' '));
    let (mode, group) = files.next()?;
    let mode = u32::from_str_radix(mode, 8).ok()?;
    let user = &machine.user;
    let is_shut = mode & 0o001 == 0;
    match group {
        "root" if is_shut => Some(Remedy::on_machine(format_args!("chmod a+x {}", quote(&directory)))),
        group if is_shut && mode & 0o010 != 0 && is_user_name(group) && is_user_name(user) => {
            Some(Remedy::on_machine(format_args!("usermod -a -G {group} {user}")))
        }
        _ => Some(Remedy::on_machine(format_args!("chmod a+rw {}", quote(&socket)))),
    }
}

/// Returns the remedies for a daemon that answered the greeting incorrectly, or not at all.
pub fn of_greeting(error: &daemon::Error) -> Vec<Remedy> {
    match error {
        daemon::Error::OtherVersion { .. } => {
            let command = "guix pull && systemctl restart guix-daemon";
            vec![Remedy::on_machine(format_args!("{command}  # Guix System: guix pull && guix system reconfigure"))]
        }
        daemon::Error::Protocol { .. } => {
            vec![Remedy::advice(RemedyPlace::MachineFile, "correct 'daemon_socket': that is another service")]
        }
        _ => vec![restart_daemon()],
    }
}

/// Returns the command that makes a machine trust items signed with `key`.
pub fn authorize(key: &PublicKey) -> String {
    format!("echo {} | guix archive --authorize", quote(&key.to_string()))
}

/// Returns the remedies for a head without a usable signing key.
pub fn no_signing_key(directories: &Directories) -> Vec<Remedy> {
    if directories.signing_key().exists() {
        return be_the_daemon();
    }
    vec![Remedy::on_head("guix archive --generate-key")]
}

/// Returns the remedy for a file that this user cannot use and the daemon's user may. To the daemon's user the error itself
/// says what to do.
pub fn be_the_daemon() -> Vec<Remedy> {
    match permissions::remedy::is_daemons_user(Path::new("/"), &User::effective()) {
        true => Vec::new(),
        false => vec![Remedy::advice(RemedyPlace::Head, "run this command as root")],
    }
}

pub fn allow_forwarding() -> Remedy {
    Remedy::on_machine(
        "sed -i '1i AllowStreamLocalForwarding yes' /etc/ssh/sshd_config && systemctl reload ssh  # Guix System: \
         extra-content in openssh-configuration",
    )
}

/// Returns the remedy for an sshd that refuses all TCP connections, and sockets with them.
pub fn allow_tcp_forwarding() -> Remedy {
    Remedy::advice(
        RemedyPlace::Machine,
        "in its sshd_config, AllowTcpForwarding no, DisableForwarding yes, or a PermitOpen without the socket forbids sockets too",
    )
    .provided("if that does not help")
}

pub fn allow_builds() -> Remedy {
    Remedy::advice(
        RemedyPlace::Machine,
        "start its guix-daemon without '--max-jobs=0': in its service unit, or 'max-jobs' of guix-configuration in Guix System",
    )
}

pub fn other_system(system: &str) -> Remedy {
    Remedy::advice(RemedyPlace::MachineFile, format_args!("take '{system}' out of 'systems'"))
        .provided("if the machine should not build for it, for example by emulation")
}

pub fn set_clock() -> Remedy {
    Remedy::on_machine("timedatectl set-ntp true  # Guix System: ntp-service-type")
}

fn start_daemon() -> Remedy {
    Remedy::on_machine("systemctl start guix-daemon  # Guix System: herd start guix-daemon")
}

fn restart_daemon() -> Remedy {
    Remedy::on_machine("systemctl restart guix-daemon  # Guix System: herd restart guix-daemon")
}

pub fn pin(key: &str, fingerprint: &str, machine: &Machine) -> Remedy {
    let condition = format!(
        "if 'cat /etc/ssh/ssh_host_*_key.pub | ssh-keygen -lf -' on {} lists {fingerprint} (else somebody may be in between)",
        machine.name
    );
    Remedy::in_file(format_args!("host_key = \"{key}\"")).provided(condition)
}

/// Returns whether a shell expands `~NAME` to the home of that account.
fn is_user_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_plain)
}
