//! The keys of the head: the one that signs store items, and the one that logs in to the machines.
//!
//! Both belong to the user that guix-daemon runs as. Files are made with the rights of the user who controls the
//! directory: root does not work on names that another user could exchange.

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
use crate::permissions::{Need, PermissionProblem, User};

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

fn make_directory(directory: &Path) -> Result<(), CommandError> {
    match directory.exists() {
        true => Ok(()),
        false => fs::create_dir_all(directory)
            .map_err(|error| CommandError::failure(format!("cannot make '{}': {error}", directory.display()))),
    }
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

fn public_half(key: &Path) -> Result<String, CommandError> {
    let output = Command::new("ssh-keygen").arg("-y").arg("-f").arg(key).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(CommandError::failure(format!("'{}' has no public half: {message}", key.display())))
        }
        Err(error) => Err(CommandError::failure(format!("cannot run `ssh-keygen`: {error}"))),
    }
}

fn read(file: &Path) -> Result<String, CommandError> {
    fs::read_to_string(file)
        .map_err(|error| CommandError::failure(format!("cannot read '{}': {error}", file.display())))
}
