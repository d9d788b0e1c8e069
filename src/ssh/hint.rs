//! The hints for errors of connections. Users may paste the commands in them without a check.

use std::io;
use std::path::Path;

use super::error::{Cause, Error, list};
use super::host_key;
use super::suggested::{USER_KEY, make_key};
use crate::machine::{HostKey, HostKeyError, HostKeyKind};
use crate::permissions::{Need, PermissionProblem, User, remedy};
use crate::shell::quote;

impl Error {
    /// Returns the remedy, in the imperative, if there is one.
    pub fn hint(&self) -> Option<String> {
        let name = self.machine.rsplit_once(':').map_or(self.machine.as_str(), |(name, _)| name);
        let port = self.machine.rsplit_once(':').map_or("22", |(_, port)| port);
        let hint = match &self.cause {
            Cause::NoPrivateKey { .. } | Cause::NoHome => {
                "create a key with `ssh-keygen -t ed25519 -N \"\" -f FILE` and name it in 'private_key'".to_owned()
            }
            Cause::PrivateKeyMissing { path } => {
                format!(
                    "correct 'private_key'. If the key exists, guix-daemon does not see it (`ProtectHome=` in its unit): move it \
                     to /etc/guix. If there is none, create it: `{}`",
                    make_key(path, None)
                )
            }
            Cause::PrivateKeyHidden { .. } => "do not create it again. guix-daemon has a mount name space of its own, in which \
                something covers the directory: `ProtectHome=`, `PrivateTmp=` or `InaccessiblePaths=` in its unit \
                (`systemctl cat guix-daemon`). Move the key to /etc/guix and correct 'private_key'"
                .to_owned(),
            Cause::PrivateKeyUnreadable { path, error } => separate_key_hint(path, error)
                .or_else(|| remedy::advice(path, Need::ReadSecret, error))
                .unwrap_or_else(|| {
                    format!("the file '{}' must be readable by the user that runs guix-daemon", path.display())
                }),
            Cause::PrivateKeyExposed { path, .. } => format!("`chmod 600 {}`", quote(&path.to_string_lossy())),
            Cause::NotAPrivateKey { .. } => {
                "'private_key' must name a private key in OpenSSH or PEM form, such as ssh-keygen writes".to_owned()
            }
            Cause::PrivateKeyEncrypted { path } => format!(
                "use a separate key without passphrase (`ssh-keygen -t ed25519 -N \"\" -f FILE`), or remove the passphrase: \
                 `ssh-keygen -p -N \"\" -f {}`",
                quote(&path.to_string_lossy())
            ),
            Cause::PrivateKeyUnsupported { .. } => "use an Ed25519, ECDSA or RSA key".to_owned(),
            Cause::NameNotResolved(_) => format!("check 'name', and what `getent hosts {name}` prints on this machine"),
            Cause::ConnectionRefused { .. } => {
                format!("start the SSH server on {name}, or correct 'port' ({port} was tried)")
            }
            Cause::NoConnection { .. } => "check 'name' and 'port', the network and the firewalls".to_owned(),
            Cause::Proxy { .. } => "run the 'proxy_command' by hand: it must print the server's \"SSH-2.0-…\"".to_owned(),
            Cause::TimedOut(_) => {
                "check that the machine is up and that no firewall drops packets; 'connect_timeout' is the limit".to_owned()
            }
            Cause::TemporarilyRefused => {
                "wait: this ends within ten minutes; in its sshd_config, `PerSourcePenaltyExemptList` exempts this host, and \
                 `MaxStartups` may be too low"
                    .to_owned()
            }
            Cause::Dropped { .. } => "raise `MaxStartups` in its sshd_config, and check the log of its sshd".to_owned(),
            Cause::NotSsh(_) => format!("correct 'port': {port} is another service"),
            Cause::NoCommonHostKeyType { offered, .. } if is_any_supported(offered) => {
                let host = quote(name);
                format!("`offload add --port {port} {host}` prints a key of another type for 'host_key'; compare it on {name}")
            }
            Cause::NoCommonHostKeyType { .. } => format!(
                "none of these types is supported: in the sshd_config of {name}, configure an Ed25519 key (`HostKey \
                 /etc/ssh/ssh_host_ed25519_key`, `HostKeyAlgorithms`); as root there, `ssh-keygen -A` creates it"
            ),
            Cause::NoCommonAlgorithm { algorithm, known, .. } => {
                let setting = algorithm.setting();
                format!("in the sshd_config of {name}, `{setting}` must allow one of {}", list(known))
            }
            Cause::HostKeyDiffers { offered, .. } => match HostKey::parse(offered) {
                Ok(_) => format!(
                    "if the machine's key has changed and you have compared the fingerprint on the machine itself: host_key = \
                     \"{offered}\""
                ),
                Err(error) => return unusable_host_key(&error),
            },
            Cause::BadHostKey(error) => return unusable_host_key(error),
            Cause::UserKeyRefused { user, public_key, .. } => format!(
                "{}. If the key is in ~{user}/.ssh/authorized_keys already, do not add it again: its options there (from=, \
                 expiry-time=), a home directory or file that others can write to, a locked account, or `AllowUsers` or \
                 `PubkeyAcceptedAlgorithms` in sshd_config keep it out. If it is not, add this line to \
                 ~{user}/.ssh/authorized_keys on {name}: {public_key}",
                server_log(name)
            ),
            Cause::LoginRefused { user, .. } => {
                let root = if user == "root" { "`PermitRootLogin`" } else { "an account that has expired" };
                format!("{}. Likely: {root}, or `AuthenticationMethods` with more than one key", server_log(name))
            }
            Cause::MoreMethodsRequired { user, .. } => format!(
                "in the sshd_config of {name}, set `AuthenticationMethods publickey` for user {user} (in a block `Match User \
                 {user}`), because this program can only log in with a key"
            ),
            Cause::KeyLoginDisabled { user, .. } => format!(
                "in the sshd_config of {name}, set `PubkeyAuthentication yes`, and `AuthenticationMethods publickey` for user \
                 {user}"
            ),
            Cause::Disconnected(_) => server_log(name),
            Cause::MessageInvalid => {
                format!("shorten the text that `Banner` in the sshd_config of {name} names, or remove the setting")
            }
            Cause::CannotSign { .. } => "use another key, such as one of `ssh-keygen -t ed25519 -N \"\" -f FILE`".to_owned(),
            Cause::SocketRefused { .. } => {
                "check that guix-daemon runs there, that 'daemon_socket' is its socket, and that sshd_config has \
                 `AllowStreamLocalForwarding yes`"
                    .to_owned()
            }
            Cause::CommandRefused(_) => {
                "the account needs a login shell and no `ForceCommand`, or `AllowStreamLocalForwarding yes`".to_owned()
            }
            Cause::LinkDead(_) => {
                "the machine or the network to it stopped answering; 'stall_timeout' is the limit".to_owned()
            }
            Cause::TooMuchBeforeLogin(_) => {
                format!("check what listens on port {port} of {name}: a usual SSH server does not do this")
            }
            Cause::TooMuchUnrequested => {
                "a usual SSH server does not do this: inspect the machine before you use it again".to_owned()
            }
            Cause::Closed
            | Cause::ChannelClosed
            | Cause::Deadline
            | Cause::Unusable
            | Cause::TooMuchOutput(_)
            | Cause::Ssh { .. }
            | Cause::Io(_) => return None,
        };
        Some(hint)
    }
}

/// Returns the hint for a key in a directory that this user cannot enter, such as the home directory of another user.
/// The hint suggests a separate key and does not open the directory.
fn separate_key_hint(path: &Path, error: &io::Error) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let user = User::effective();
    let problem = PermissionProblem::find(&user, Path::new("/"), path, Need::ReadSecret)?;
    let key = Path::new("/etc/guix").join(USER_KEY);
    let is_daemons = remedy::is_daemons_user(Path::new("/"), &user);
    (is_daemons && (problem.is_above() || problem.is_in_home(Path::new("/")))).then(|| {
        format!(
            "{problem}. Do not change that. Give that user a separate key: as root `{}`, private_key = \"{}\", and the .pub \
             file in authorized_keys on the machine",
            make_key(&key, Some(&user.name)),
            key.display()
        )
    })
}

/// Returns the hint for a host key of a server that `host_key` does not accept.
fn unusable_host_key(error: &HostKeyError) -> Option<String> {
    let hint = error.hint().map_or(String::new(), |hint| format!("; {hint}"));
    Some(format!("'host_key' cannot hold this key: {error}{hint}"))
}

/// Returns whether a server has a key of a type that can be pinned.
fn is_any_supported(offered: &[String]) -> bool {
    let any = HostKeyKind::ALL.map(|kind| HostKey { kind, blob: Vec::new() });
    host_key::offers_any(offered, &any)
}

/// Returns where the log of a server is, which has the reason that the server does not send to a refused client.
fn server_log(name: &str) -> String {
    format!(
        "the log of sshd on {name} has the reason: `journalctl -t sshd -t sshd-session`, or /var/log/messages on Guix System"
    )
}
