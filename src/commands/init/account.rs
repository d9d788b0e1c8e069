//! The account on the build machine: the commands that make it, and the login that shows that it exists.

use crate::commands::add::{Facts, LoginError};
use crate::commands::failure::CommandError;
use crate::machine::Machine;
use crate::shell::quote;
use crate::ssh;

use super::console::Console;

/// Parses the name of an account. The shell replaces `~NAME` only if the name is not quoted.
pub fn account(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    match text.starts_with(['-', '.']) || text.is_empty() || !text.chars().all(is_plain) {
        true => Err("not the name of an account".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// Returns the commands for root on the machine: they make the account if it does not exist, let `public_key` in, and
/// authorize the head's signing key. They can be run again.
pub fn commands(user: &str, public_key: Option<&str>, signing_key: &str) -> Vec<String> {
    let mut commands = Vec::new();
    if let Some(key) = public_key {
        commands.extend([
            format!("id -u {user} >/dev/null 2>&1 || useradd --create-home --password '*' {user}"),
            ssh::authorize_key(user, key.trim()),
        ]);
    }
    commands.push(format!("echo {} | guix archive --authorize", quote(signing_key.trim())));
    commands
}

/// Logs in with `try_login`, and explains what to do as long as that fails. `again` is the command with which the user
/// continues.
pub fn log_in(
    console: &Console,
    machine: &Machine,
    commands: &[String],
    again: &str,
    try_login: impl Fn() -> Result<Facts, LoginError>,
) -> Result<(), CommandError> {
    let account = format!("{} on {}", machine.user, machine.address());
    loop {
        let Err(LoginError { message, hint, is_refused }) = try_login() else {
            console.done("account", &account);
            return Ok(());
        };
        console.to_do("account", &account);
        console.explain(&message);
        if is_refused {
            console.explain(&format!("As root on {}, unless its configuration declares accounts:", machine.name));
            commands.iter().for_each(|command| console.say(&format!("  {command}")));
        } else if let Some(hint) = hint {
            console.explain(&format!("hint: {hint}"));
        }
        console.wait_for_user(again)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_needs_no_quotes() {
        for name in ["offload", "root", "b.u_i-ld", "ann@example.org"] {
            assert_eq!(account(name).as_deref(), Ok(name));
        }
        for name in ["", "-a", "a b", "a;b", "$(x)", "a/b", "~", ".a"] {
            assert!(account(name).is_err(), "{name}");
        }
    }

    #[test]
    fn without_a_key_to_add_only_the_signing_key_is_authorized() {
        let both = commands("offload", Some("ssh-ed25519 AAAA it's\n"), "(public-key)\n");
        assert_eq!(both.len(), 3);
        assert!(both[1].contains("~offload") && both[1].contains(r"'ssh-ed25519 AAAA it'\''s'"), "{}", both[1]);
        assert_eq!(commands("offload", None, "(public-key)\n"), ["echo '(public-key)' | guix archive --authorize"]);
    }
}
