//! Commands that messages suggest. Root may paste them without a check, and more than once.

use std::path::Path;

use crate::shell::quote;

/// The name of the user key that is made for guix-daemon's user, in the configuration directory.
pub const USER_KEY: &str = "offload_ed25519";

/// Returns the command that creates a key unless the file exists, and gives a created one to `owner`. This process may not
/// see the file.
pub fn make_key(path: &Path, owner: Option<&str>) -> String {
    let path = quote(&path.to_string_lossy());
    let make = format!("ssh-keygen -q -t ed25519 -N '' -f {path}");
    match owner {
        None => format!("test -e {path} || {make}"),
        Some(owner) => format!("test -e {path} || {{ {make} && chown {}: {path} {path}.pub; }}", quote(owner)),
    }
}

/// Returns the command for root on a build machine that lets the key of the public `line` in to the account `user`, which
/// is the plain name of an account. The user could have put links into the home directory, so the command runs as the user.
pub fn authorize_key(user: &str, line: &str) -> String {
    // A key that has options in this file must not be added without them.
    let key = line.split(' ').nth(1).unwrap_or_default();
    format!(
        "runuser -u {user} -- sh -c 'umask 77 && mkdir -p \"$1\" && cd \"$1\" && {{ grep -qs \"^[^#]*$2\" authorized_keys || \
         echo \"$3\" >>authorized_keys; }} && chmod go-w . authorized_keys' sh ~{user}/.ssh {} {}",
        quote(key),
        quote(line)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::process::{Command, Output};

    use super::*;

    /// An account without rights of its own.
    const USER: (&str, u32) = ("daemon", 1);

    const LINE: &str = "ssh-ed25519 AAAAC3Nza+/x= a & b";

    /// Makes a home directory of `USER`.
    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(home.path(), Some(USER.1), Some(USER.1)).unwrap();
        home
    }

    /// Runs the command for the account, whose home directory is `home`.
    fn authorize(home: &Path) -> Output {
        let command = authorize_key(USER.0, LINE).replace(&format!("~{}", USER.0), home.to_str().unwrap());
        Command::new("sh").args(["-c", &command]).output().unwrap()
    }

    #[test]
    fn a_key_that_exists_is_neither_replaced_nor_given_away() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("a key");
        let run = |owner| Command::new("sh").args(["-c", &make_key(&key, owner)]).status().unwrap().success();
        assert!(run(Some(USER.0)));
        let made = || (fs::read(&key).unwrap(), fs::metadata(&key).unwrap().uid());
        let first = made();
        assert_eq!((first.1, fs::metadata(directory.path().join("a key.pub")).unwrap().uid()), (USER.1, USER.1));
        assert!(run(Some("bin")) && run(None));
        assert_eq!(made(), first);
    }

    #[test]
    fn a_key_is_added_once_and_not_beside_its_own_restriction() {
        for (before, after) in [
            (None, format!("{LINE}\n")),
            (Some(format!("# {LINE}\n")), format!("# {LINE}\n{LINE}\n")),
            (Some(format!("from=\"192.0.2.1\" {LINE} head\n")), format!("from=\"192.0.2.1\" {LINE} head\n")),
            (Some("ssh-ed25519 AAAAC3Nza+/x= other\n".to_owned()), "ssh-ed25519 AAAAC3Nza+/x= other\n".to_owned()),
        ] {
            let home = home();
            let file = home.path().join(".ssh/authorized_keys");
            if let Some(before) = before {
                fs::create_dir(home.path().join(".ssh")).unwrap();
                fs::write(&file, before).unwrap();
                for path in [&file, file.parent().unwrap()] {
                    chown(path, Some(USER.1), Some(USER.1)).unwrap();
                    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
                }
            }
            for _ in 0..2 {
                let output = authorize(home.path());
                assert!(output.status.success(), "{output:?}");
                assert_eq!(fs::read_to_string(&file).unwrap(), after);
            }
            for path in [&file, file.parent().unwrap()] {
                let data = fs::metadata(path).unwrap();
                assert_eq!((data.uid(), data.mode() & 0o022), (USER.1, 0), "{}", path.display());
            }
        }
    }

    #[test]
    fn links_in_the_home_directory_lead_root_nowhere() {
        for name in [".ssh", ".ssh/authorized_keys"] {
            let (home, of_root) = (home(), tempfile::tempdir().unwrap());
            let precious = of_root.path().join("authorized_keys");
            fs::write(&precious, "of root\n").unwrap();
            fs::set_permissions(of_root.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let link = home.path().join(name);
            let target = if name == ".ssh" { of_root.path() } else { &precious };
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, &link).unwrap();
            for path in [&link, link.parent().unwrap()] {
                std::os::unix::fs::lchown(path, Some(USER.1), Some(USER.1)).unwrap();
            }
            let output = authorize(home.path());
            assert!(!output.status.success(), "{name}: {output:?}");
            assert_eq!(fs::read_to_string(&precious).unwrap(), "of root\n", "{name}: {output:?}");
            for path in [of_root.path(), &precious] {
                assert_eq!(fs::metadata(path).unwrap().uid(), 0, "{name}: {}", path.display());
            }
        }
    }
}
