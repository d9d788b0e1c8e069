//! The keys of the head: the one that signs store items, and the one that logs in to the machines.
//!
//! Both belong to the user that guix-daemon runs as. Files are made with the rights of the user who controls the
//! directory: root does not work on names that another user could exchange.

use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::fs::lchown;
use std::path::Path;
use std::process::{Command, Stdio};

use super::console::Console;
use crate::commands::failure::CommandError;
use crate::commands::guix_wrapper::real_guix;
use crate::commands::{as_user, daemon_user};
use crate::local::Directories;
use crate::permissions::ownership::{Control, control};
use crate::permissions::{Need, PermissionProblem, User, files, read_bounded};

/// The size of the longest public key that is read, in bytes.
const MAX_PUBLIC_KEY: u64 = 64 << 10;

/// Makes the signing key if there is none. Returns the public half.
pub fn signing_key(console: &Console, directories: &Directories) -> Result<String, CommandError> {
    let secret = directories.signing_key();
    let public = secret.with_extension("pub");
    let user = daemon_user::for_checks(directories);
    if secret.exists() {
        check_access(&secret, user.as_ref())?;
        console.done("signing key", &public.display().to_string());
    } else {
        make_directory(&directories.configuration)?;
        let guix = real_guix().map_err(CommandError::failure)?;
        let mut command = Command::new(guix);
        command.args(["archive", "--generate-key"]).env("GUIX_CONFIGURATION_DIRECTORY", &directories.configuration);
        make_files(command, &[&secret, &public], user.as_ref())?;
        console.made("signing key", &public.display().to_string());
    }
    read(&public)
}

/// Makes the user key if there is none. Returns the line of its public half.
pub fn user_key(console: &Console, key: &Path, directories: &Directories) -> Result<String, CommandError> {
    let user = daemon_user::for_checks(directories);
    let mut public = key.as_os_str().to_owned();
    public.push(".pub");
    let public = Path::new(&public);
    // A directory that the user cannot enter is found before the key is made.
    check_access(key, user.as_ref())?;
    if key.exists() {
        console.done("user key", &key.display().to_string());
        return if public.exists() { read(public) } else { public_half(key) };
    }
    key.parent().map_or(Ok(()), make_directory)?;
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "offload", "-f"]).arg(key);
    make_files(command, &[key, public], user.as_ref())?;
    let whose = user.map_or_else(|| "root".to_owned(), |user| user.name);
    console.made("user key", &format!("{}, of {whose}", key.display()));
    read(public)
}

/// Returns an error with the remedy if `user` cannot read the key.
fn check_access(key: &Path, user: Option<&User>) -> Result<(), CommandError> {
    let root = Path::new("/");
    match user.and_then(|user| PermissionProblem::find(user, root, key, Need::ReadSecret)) {
        None => Ok(()),
        Some(problem) => Err(CommandError::failure(&problem).with_hint(Some(problem.remedy(root).as_hint()))),
    }
}

/// Makes a directory and those above it, as the user who controls it.
fn make_directory(directory: &Path) -> Result<(), CommandError> {
    files::as_owner_of(directory, || match directory.is_dir() {
        true => Ok(()),
        false => fs::create_dir_all(directory),
    })
    .map_err(|error| CommandError::failure(format!("cannot make '{}': {error}", directory.display())))
}

/// Runs a command that makes key files, and gives them to `user`.
fn make_files(mut command: Command, files: &[&Path], user: Option<&User>) -> Result<(), CommandError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |problem: String| CommandError::failure(format!("`{program}` cannot make a key: {problem}"));
    let directory = files[0].parent().unwrap_or(files[0]);
    let control = control(directory).map_err(|error| failed(error.to_string()))?;
    match control {
        Control::Root => {}
        Control::User { uid, gid, .. } => as_user::set_user(&mut command, uid, gid),
        Control::Others { path } => {
            return Err(failed(format!("other users can write to '{}'", path.display())));
        }
    }
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(failed(message.lines().last().unwrap_or("it printed nothing").to_owned()));
    }
    if let (Control::Root, Some(user)) = (control, user) {
        let give = |file: &&Path| lchown(file, Some(user.uid), user.groups.first().copied());
        let given: io::Result<()> = files.iter().try_for_each(give);
        given.map_err(|error| failed(format!("it cannot be given to {}: {error}", user.name)))?;
    }
    files.first().map_or(Ok(()), |key| check_access(key, user))
}

/// Returns the public half of a private key, as the user who controls the key.
fn public_half(key: &Path) -> Result<String, CommandError> {
    let failed =
        |problem: &dyn Display| CommandError::failure(format!("'{}' has no public half: {problem}", key.display()));
    files::open(key).map_err(|error| failed(&error))?;
    let mut command = Command::new("ssh-keygen");
    command.arg("-y").arg("-f").arg(key).stdin(Stdio::null());
    let user = files::user_of(key.parent().unwrap_or(key));
    if user.uid != 0 {
        as_user::set_user(&mut command, user.uid, user.groups.first().copied().unwrap_or(user.uid));
    }
    match command.output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(failed(&String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(CommandError::failure(format!("cannot run `ssh-keygen`: {error}"))),
    }
}

/// Reads a public key, as the user who controls the directory.
fn read(file: &Path) -> Result<String, CommandError> {
    let failed = |problem: &dyn Display| CommandError::failure(format!("cannot read '{}': {problem}", file.display()));
    let text = files::open(file).and_then(|file| read_bounded(file, MAX_PUBLIC_KEY)).map_err(|error| failed(&error))?;
    String::from_utf8(text).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    /// The user "daemon".
    const USER: u32 = 1;

    /// A directory with `theirs`, of a user without rights, and `of-root`.
    fn site() -> (tempfile::TempDir, [PathBuf; 2]) {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let places = ["theirs", "of-root"].map(|name| top.path().join(name));
        places.iter().for_each(|place| fs::create_dir(place).unwrap());
        chown(&places[0], Some(USER), Some(USER)).unwrap();
        (top, places)
    }

    /// Returns the public half of the user key, or the message; fails if that takes long.
    fn public_half_of(key: &Path) -> Result<String, String> {
        let (key, state) = (key.to_owned(), key.ancestors().nth(2).unwrap().to_owned());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let directories = Directories { state, ..Directories::default() };
            let found = user_key(&Console::new(), &key, &directories).map_err(|error| {
                let mut said = Vec::new();
                error.print(&mut said);
                String::from_utf8(said).unwrap()
            });
            sender.send(found).unwrap();
        });
        receiver.recv_timeout(Duration::from_secs(60)).expect("it hangs")
    }

    #[test]
    fn root_makes_no_directory_through_a_link_of_another_user() {
        let (_top, [theirs, of_root]) = site();
        symlink(&of_root, theirs.join("link")).unwrap();
        assert!(public_half_of(&theirs.join("link/new/key")).is_err());
        assert_eq!(of_root.read_dir().unwrap().count(), 0);
        // In a directory of the user's, the user makes it.
        public_half_of(&theirs.join("new/key")).unwrap();
        for path in ["new", "new/key", "new/key.pub"] {
            assert_eq!(std::os::unix::fs::MetadataExt::uid(&theirs.join(path).metadata().unwrap()), USER, "{path}");
        }
    }

    #[test]
    fn a_public_half_is_a_regular_file_of_the_users() {
        let (_top, [theirs, of_root]) = site();
        fs::write(of_root.join("precious"), "of root").unwrap();
        let key = theirs.join("key");
        public_half_of(&key).unwrap();
        let public = theirs.join("key.pub");
        fs::remove_file(&public).unwrap();
        symlink(of_root.join("precious"), &public).unwrap();
        let said = public_half_of(&key).unwrap_err();
        assert!(said.contains("key.pub'") && !said.contains("of root"), "{said}");
        fs::remove_file(&public).unwrap();
        mknodat(CWD, &public, FileType::Fifo, 0o666.into(), 0).unwrap();
        let said = public_half_of(&key).unwrap_err();
        assert!(said.contains("not a regular file"), "{said}");
        fs::remove_file(&public).unwrap();
        fs::write(&public, vec![b'x'; 1 << 20]).unwrap();
        let said = public_half_of(&key).unwrap_err();
        assert!(said.contains("longer than"), "{said}");
        // Without it, the private half has it, unless another user owns that file.
        fs::remove_file(&public).unwrap();
        assert!(public_half_of(&key).unwrap().starts_with("ssh-ed25519 AAAA"));
        let mut made = Command::new("ssh-keygen");
        made.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(of_root.join("key"));
        assert!(made.status().unwrap().success());
        for file in [&key, &theirs.join("fifo")] {
            let _ = fs::remove_file(file);
        }
        symlink(of_root.join("key"), &key).unwrap();
        assert!(public_half_of(&key).is_err());
        mknodat(CWD, theirs.join("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
        chown(theirs.join("fifo"), Some(USER), Some(USER)).unwrap();
        let said = public_half_of(&theirs.join("fifo")).unwrap_err();
        assert!(said.contains("not a regular file"), "{said}");
    }
}
