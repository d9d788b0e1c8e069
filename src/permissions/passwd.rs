//! Accounts of `/etc/passwd`: seven fields separated by colons (passwd(5)). Lines that are not accounts are skipped.
//!
//! Not read: accounts that only the name service switch knows, such as those of LDAP.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// The longest file that is read, in bytes.
const MAX_PASSWD: u64 = 16 << 20;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// The home directory. It may be empty or relative.
    pub home: PathBuf,
}

/// Returns the accounts in `etc/passwd` below `root`; none if it cannot be read.
pub fn accounts(root: &Path) -> Vec<Account> {
    let mut table = Vec::new();
    if let Ok(file) = File::open(root.join("etc/passwd")) {
        // The lines before an error are valid.
        let _ = file.take(MAX_PASSWD).read_to_end(&mut table);
    }
    String::from_utf8_lossy(&table).lines().filter_map(account).collect()
}

fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some(Account { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
}

/// Returns the home directory of the effective user: that of the account, since `HOME` may be missing or another
/// user's. `HOME` counts only for a user without an account.
pub fn home_directory() -> Option<PathBuf> {
    let uid = geteuid().as_raw();
    let account = accounts(Path::new("/")).into_iter().find(|account| account.uid == uid);
    let home = account.map(|account| account.home).filter(|home| home.is_absolute());
    home.or_else(std::env::home_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_accounts_are_skipped() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(accounts(root.path()), []);
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let table =
            "root:x:0:0:root:/root:/bin/sh\n# comment\nbad\nguix:x:999:998:\u{e9}:/var/lib/guix:/no\nx:x:y:5::/:/no\n";
        std::fs::write(root.path().join("etc/passwd"), table).unwrap();
        let account = |name: &str, uid, gid, home: &str| Account { name: name.into(), uid, gid, home: home.into() };
        assert_eq!(accounts(root.path()), [account("root", 0, 0, "/root"), account("guix", 999, 998, "/var/lib/guix")]);
    }
}
