//! The remedy of a permission problem. Root may paste its command without a check.
//!
//! No command loosens the rights of a home directory or of what is in it, or gives a user's file to another user. A
//! private key in a home directory is copied instead. A command is only for the daemon's user: the files of the daemon
//! must not be given to a person who has run a command of this program.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::passwd::accounts;
use super::{Need, PermissionProblem, User, below};
use crate::shell::in_quotes;

/// The directory for what the daemon's user has to read.
const SHARED: &str = "/etc/guix";

/// The numbers of accounts of people.
const PEOPLE: std::ops::Range<u32> = 1000..65534;

/// The remedy of a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A command for root. A comment may follow.
    Command(String),
    /// Instructions.
    Advice(String),
}

impl Remedy {
    /// Returns the end of a sentence that has the remedy.
    pub fn as_hint(&self) -> String {
        match self {
            Remedy::Command(command) => match command.split_once("  # ") {
                Some((command, comment)) => format!("as root: `{command}`, {comment}"),
                None => format!("as root: `{command}`"),
            },
            Remedy::Advice(advice) => advice.clone(),
        }
    }
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Remedy::Command(text) | Remedy::Advice(text)) = self;
        f.write_str(text)
    }
}

impl PermissionProblem {
    /// Returns the remedy. `root` is the root directory of the accounts.
    pub fn remedy(&self, root: &Path) -> Remedy {
        let PermissionProblem { user, mode, wanted, owner, .. } = self;
        let [quoted, path] = [wanted, &self.path].map(|path| in_quotes(&path.to_string_lossy()));
        let home = home_around(root, wanted, user);
        let command = match self.need {
            Need::Own if self.is_above() && mode & 0o001 != 0 => format!("install -d -o {user} -m 700 {quoted}"),
            Need::ReadSecret if home.as_ref().is_some_and(|home| home.uid == 0) => copy_of_key(user, wanted),
            Need::ReadSecret if home.is_some() || !matches!(owner.as_str(), "root") && !self.is_above() => {
                return Remedy::Advice(format!(
                    "it is a key of another user: give {user} a key of its own in {SHARED}"
                ));
            }
            _ if home.is_some() => {
                return Remedy::Advice(format!("move it out of the home directory, for example to {SHARED}"));
            }
            _ if self.is_above() => format!("chmod a+x {path}"),
            Need::Read => format!("chmod a+r {quoted}"),
            Need::Run => format!("chmod a+rx {quoted}"),
            Need::ReadSecret => format!("chown {user}: {quoted}"),
            Need::Own => format!("chown -R {user}: {quoted}"),
        };
        Remedy::Command(command)
    }

    /// Returns whether the file is in the home directory of root or of a person other than the user.
    pub fn is_in_home(&self, root: &Path) -> bool {
        home_around(root, &self.wanted, &self.user).is_some()
    }
}

/// Returns the command for root that gives `user` a copy of root's key, and a comment that says how to use the copy.
pub fn copy_of_key(user: &str, key: &Path) -> String {
    let copy = Path::new(SHARED).join(key.file_name().unwrap_or_default());
    let (copy, quoted) = (copy.to_string_lossy(), in_quotes(&key.to_string_lossy()));
    let into = in_quotes(&copy);
    format!(
        "test -e {into} || install -o {user} -m 400 {quoted} {into}  # then private_key = \"{copy}\" in the machine file"
    )
}

struct Home {
    uid: u32,
}

/// Returns the home directory of root or of another person that contains `path`.
fn home_around(root: &Path, path: &Path, user: &str) -> Option<Home> {
    let mut people = accounts(root).into_iter().filter(|account| account.uid == 0 || PEOPLE.contains(&account.uid));
    people
        .find(|account| account.name != user && account.home.parent().is_some() && path.starts_with(&account.home))
        .map(|account| Home { uid: account.uid })
}

/// Returns whether `user` is root, or the owner of the daemon's state below `root`, as whom the daemon runs. Every user
/// may be, if there is no state.
pub fn is_daemons_user(root: &Path, user: &User) -> bool {
    let state = std::env::var_os("GUIX_STATE_DIRECTORY").map_or_else(|| PathBuf::from("/var/guix"), PathBuf::from);
    user.uid == 0 || fs::metadata(below(root, &state)).map_or(true, |state| state.uid() == user.uid)
}

/// Returns a hint line to follow the message about an error, if this process lacks a permission; otherwise an empty
/// text.
pub fn hint(path: &Path, need: Need, error: &io::Error) -> String {
    hint_for(&User::effective(), path, need, error)
}

/// Works like [`hint`], for a process that has acted as `user`.
pub fn hint_for(user: &User, path: &Path, need: Need, error: &io::Error) -> String {
    advice_for(user, path, need, error).map_or(String::new(), |advice| format!("\n  hint: {advice}"))
}

/// Works like [`hint`], for callers with a separate place for hints.
pub fn advice(path: &Path, need: Need, error: &io::Error) -> Option<String> {
    advice_for(&User::effective(), path, need, error)
}

fn advice_for(user: &User, path: &Path, need: Need, error: &io::Error) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let root = Path::new("/");
    let problem = PermissionProblem::find(user, root, path, need)?;
    Some(match is_daemons_user(root, user) {
        true => format!("{problem}; {}", problem.remedy(root).as_hint()),
        false => format!("{problem}; run this command as root"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(need: Need, wanted: &str, path: &str, owner: &str) -> Remedy {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let accounts =
            "root:x:0:0::/root:\nann:x:1000:100::/home/ann:\nguix-daemon:x:990:990::/var/guix:\nd:x:1:1::/:\n";
        fs::write(root.path().join("etc/passwd"), accounts).unwrap();
        let (wanted, path, owner) = (wanted.into(), path.into(), owner.to_owned());
        let problem = PermissionProblem { user: "guix-daemon".to_owned(), need, wanted, path, owner, mode: 0o700 };
        problem.remedy(root.path())
    }

    #[test]
    fn a_home_directory_stays_closed_and_keys_stay_with_their_users() {
        let command = |text: &str| Remedy::Command(text.to_owned());
        let advice = |text: &str| Remedy::Advice(text.to_owned());
        let key = "/root/.ssh/id_rsa";
        let copied = "test -e '/etc/guix/id_rsa' || install -o guix-daemon -m 400 '/root/.ssh/id_rsa' '/etc/guix/id_rsa'  \
                      # then private_key = \"/etc/guix/id_rsa\" in the machine file";
        assert_eq!(remedy(Need::ReadSecret, key, "/root", "root"), command(copied));
        assert_eq!(remedy(Need::ReadSecret, key, key, "root"), command(copied));
        assert!(
            command(copied)
                .as_hint()
                .ends_with("'/etc/guix/id_rsa'`, then private_key = \"/etc/guix/id_rsa\" in the machine file")
        );
        let other = advice("it is a key of another user: give guix-daemon a key of its own in /etc/guix");
        assert_eq!(remedy(Need::ReadSecret, "/home/ann/k", "/home/ann", "ann"), other);
        assert_eq!(remedy(Need::ReadSecret, "/srv/k", "/srv/k", "ann"), other);
        let moved = advice("move it out of the home directory, for example to /etc/guix");
        assert_eq!(remedy(Need::Read, "/root/machines.lua", "/root", "root"), moved);
        assert_eq!(remedy(Need::Run, "/home/ann/bin/offload", "/home/ann", "ann"), moved);
        // Other places, and the user's own home.
        assert_eq!(
            remedy(Need::ReadSecret, "/etc/guix/k", "/etc/guix/k", "root"),
            command("chown guix-daemon: '/etc/guix/k'")
        );
        assert_eq!(remedy(Need::ReadSecret, "/etc/guix/k", "/etc/guix", "root"), command("chmod a+x '/etc/guix'"));
        assert_eq!(
            remedy(Need::Own, "/var/guix/offload", "/var/guix/offload", "root"),
            command("chown -R guix-daemon: '/var/guix/offload'")
        );
    }

    #[test]
    fn the_owner_of_the_state_is_the_daemons_user() {
        let root = tempfile::tempdir().unwrap();
        let user = |uid| User { name: "x".to_owned(), uid, groups: vec![uid] };
        assert!(is_daemons_user(root.path(), &user(65534)));
        fs::create_dir_all(root.path().join("var/guix")).unwrap();
        std::os::unix::fs::chown(root.path().join("var/guix"), Some(990), None).unwrap();
        assert_eq!([0, 990, 65534].map(|uid| is_daemons_user(root.path(), &user(uid))), [true, true, false]);
    }
}
