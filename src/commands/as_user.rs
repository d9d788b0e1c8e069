//! Runs a command of root's as another user, who could have written the file that the command evaluates.
//!
//! With an unprivileged daemon the machine file may belong to the daemon's user, as the state does: the manual of Guix
//! gives that user `/etc/guix`. Root must not evaluate a file that this user can write. So root's command starts itself
//! again, as `offload as-user UID:GID[,GID…] ARGUMENT…`, and the new process becomes the user ([`become_user`]) before
//! it does anything else. The first process only forwards signals, and waits. (Root always changes the state as the
//! state's owner: `permissions/files.rs`.)
//!
//! The user cannot abuse anything of root's. The process has a session of its own, and so no controlling terminal to
//! inject input into (`TIOCSTI`). Its input is empty, unless the command asks a question. It inherits only the first
//! three descriptors, and of the environment only the variables for paths and output.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus as ProcessStatus, Stdio};

use log::debug;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, geteuid, kill_process, set_parent_process_death_signal, setsid};
use signal_hook::consts::SIGCHLD;
use signal_hook::low_level::{emulate_default_handler, pipe};

use super::failure::CommandError;
use crate::exit::ExitStatus;
use crate::own_executable;
use crate::permissions::ownership::{Control, control};
use crate::permissions::{User, identity, read_bounded};

/// The first argument of such a process.
const SUBCOMMAND: &str = "as-user";

/// Signals that end the first process, which forwards them to the other one.
const FORWARDED_SIGNALS: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The longest output of such a process that another one reads, in bytes.
const MAX_OUTPUT: u64 = 64 << 20;

/// Names of variables that are kept, and prefixes, up to the first `_`, of others that are.
const KEPT_VARIABLES: [&str; 8] = ["PATH", "TERM", "COLUMNS", "LINES", "NO_COLOR", "LANG", "LANGUAGE", "TZ"];
const KEPT_PREFIXES: [&str; 4] = ["LC", "GUIX", "NIX", "OFFLOAD"];

/// The reason why a command cannot be run as another user.
#[derive(Debug, thiserror::Error)]
pub enum AsUserError {
    #[error("cannot determine the owner of '{path}': {cause}")]
    Unknown { path: String, cause: io::Error },
    #[error("other users can write to '{path}', and root does not run a program that anybody can change")]
    Others { path: String },
    #[error("cannot run this as the user {user}: {cause}")]
    Run { user: String, cause: io::Error },
}

impl From<AsUserError> for CommandError {
    fn from(error: AsUserError) -> CommandError {
        CommandError::failure(error)
    }
}

/// Returns the user as whom root's command has to evaluate the machine file `file`: the owner of the state, if that
/// user can write this file.
pub fn for_machine_file(file: &Path, state: &Path) -> Result<Option<User>, AsUserError> {
    Ok(match (control_of(file)?, control_of(state)?) {
        (Control::User { uid, gid, .. }, Control::User { uid: owner, .. }) if uid == owner => Some(numbered(uid, gid)),
        _ => None,
    })
}

/// Returns the user as whom root's command has to run the program in `file`.
pub fn for_program(file: &Path) -> Result<Option<User>, AsUserError> {
    match control_of(file)? {
        Control::Root => Ok(None),
        Control::User { uid, gid, .. } => Ok(Some(numbered(uid, gid))),
        Control::Others { path } => Err(AsUserError::Others { path: path.display().to_string() }),
    }
}

/// Returns the user as whom root's command has to read the state, which is a database: its owner.
pub fn for_state(state: &Path) -> Result<Option<User>, AsUserError> {
    for_program(state)
}

/// Returns who controls a path. If this process is not root's, that does not matter.
fn control_of(path: &Path) -> Result<Control, AsUserError> {
    if !geteuid().is_root() {
        return Ok(Control::Root);
    }
    control(path).map_err(|cause| AsUserError::Unknown { path: path.display().to_string(), cause })
}

fn numbered(uid: u32, gid: u32) -> User {
    User::numbered(Path::new("/"), uid, gid)
}

/// Runs the program with these arguments as `user`, with the standard input `input`, and waits for its end.
pub fn run(user: &User, arguments: &[OsString], input: Stdio) -> Result<ExitStatus, AsUserError> {
    debug!("this runs as {}, who can write what is evaluated", user.name);
    let ended = start_and_wait(command(user).args(arguments).stdin(input));
    let ended = ended.map_err(|cause| AsUserError::Run { user: user.name.clone(), cause })?;
    if let Some(signal) = ended.signal() {
        // A shell that waits for this process should see the same end.
        let _ = emulate_default_handler(signal);
    }
    Ok(ExitStatus::from_code(ended.code()))
}

/// Returns a command of this program as `user`, without input; the caller adds arguments. The descriptors that this
/// process has above 2 are closed in it, and from now on in all other programs that this process starts.
pub fn command(user: &User) -> Command {
    close_fds::set_fds_cloexec(3, &[]);
    let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
    let is_kept = |name: &OsStr| {
        let group = name.to_str().and_then(|name| name.split_once('_')).map(|(group, _)| group);
        KEPT_VARIABLES.iter().any(|kept| name == *kept) || group.is_some_and(|group| KEPT_PREFIXES.contains(&group))
    };
    // Another version may have replaced this one.
    let mut command = own_executable::command("offload");
    command.arg(SUBCOMMAND).arg(format!("{}:{}", user.uid, groups.join(","))).stdin(Stdio::null());
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| is_kept(name)));
    if let Some(home) = user.home(Path::new("/")) {
        command.env("HOME", home);
    }
    command
}

/// Runs a command to its end. Returns its status and what it prints on standard output, up to a limit: the user could
/// have a machine file print indefinitely.
pub fn output(command: &mut Command) -> io::Result<(ProcessStatus, Vec<u8>)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let read = child.stdout.take().map(|output| read_bounded(output, MAX_OUTPUT)).transpose();
    // One that prints more ends, since nobody reads that.
    let status = child.wait()?;
    Ok((status, read?.unwrap_or_default()))
}

/// Has `command`, which starts another program, run that program as this user, without the descriptors above 2.
pub fn set_user(command: &mut Command, uid: u32, gid: u32) {
    close_fds::set_fds_cloexec(3, &[]);
    command.uid(uid).gid(gid);
}

fn start_and_wait(command: &mut Command) -> io::Result<ProcessStatus> {
    let signals = FORWARDED_SIGNALS.map(|signal| signal_stream(signal.as_raw()).map(|stream| (signal, stream)));
    let signals = signals.into_iter().collect::<io::Result<Vec<_>>>()?;
    let ends = signal_stream(SIGCHLD)?;
    let mut child = command.spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let mut wanted: Vec<PollFd<'_>> = signals
            .iter()
            .map(|(_, stream)| stream)
            .chain([&ends])
            .map(|stream| PollFd::new(stream, PollFlags::IN))
            .collect();
        match poll(&mut wanted, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (signal, stream) in &signals {
            if is_due(stream) {
                forward(&child, *signal);
            }
        }
        is_due(&ends);
    }
}

/// Returns a stream from which a byte can be read when the signal has arrived.
fn signal_stream(signal: i32) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    pipe::register(signal, writer)?;
    Ok(reader)
}

fn is_due(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0; 64]), Ok(1..))
}

/// Sends a signal to the process. It was not waited for, so its number is still its own.
fn forward(child: &Child, signal: Signal) {
    let _ = kill_process(Pid::from_child(child), signal);
}

/// Returns whether the arguments are those of a process that has to become another user.
pub fn is_wanted(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|word| word == SUBCOMMAND)
}

/// Becomes the user in the arguments, and removes the user from them.
pub fn become_user(arguments: &mut Vec<OsString>) -> Result<(), AsUserError> {
    let user = arguments.get(1).map_or_else(String::new, |user| user.to_string_lossy().into_owned());
    assume(&user).map_err(|cause| AsUserError::Run { user, cause })?;
    arguments.drain(..2);
    Ok(())
}

fn assume(user: &str) -> io::Result<()> {
    let (uid, groups) = numbers(user).ok_or(io::ErrorKind::InvalidInput)?;
    setsid()?;
    identity::assume(uid, &groups)?;
    // The kernel clears it when the user changes.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    Ok(())
}

/// Parses the numbers in `UID:GID[,GID…]`.
fn numbers(user: &str) -> Option<(u32, Vec<u32>)> {
    let (uid, groups) = user.split_once(':')?;
    let groups = groups.split(',').map(|group| group.parse().ok()).collect::<Option<Vec<u32>>>()?;
    Some((uid.parse().ok()?, groups))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    #[test]
    fn a_user_is_a_number_and_its_groups() {
        assert_eq!(numbers("995:990,109"), Some((995, vec![990, 109])));
        for nonsense in ["", "995", "995:", ":990", "995:990,", "guix-daemon:990", "-1:0"] {
            assert_eq!(numbers(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn few_variables_of_the_environment_are_kept() {
        let user = User { name: "x".into(), uid: 995, groups: vec![990] };
        let command = command(&user);
        assert!(command.get_envs().all(|(name, _)| name != "CARGO_MANIFEST_DIR"));
        assert!(command.get_envs().any(|(name, _)| name == "PATH"));
    }

    #[test]
    fn an_output_without_an_end_is_an_error() {
        let run = |script: &str| output(Command::new("sh").args(["-c", script]));
        let (status, printed) = run("echo printed; exit 3").unwrap();
        assert_eq!((status.code(), printed.as_slice()), (Some(3), b"printed\n".as_slice()));
        assert_eq!(run("cat /dev/zero").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_program_of_another_user_has_no_descriptors_of_root() {
        let inherited = rustix::fs::open("/etc/passwd", OFlags::RDONLY, Mode::empty()).unwrap();
        let number = inherited.as_raw_fd();
        let mut list = Command::new("sh");
        list.args(["-c", &format!("id -u; test -e /proc/$$/fd/0 && test ! -e /proc/$$/fd/{number} && echo closed")]);
        set_user(&mut list, 995, 990);
        assert_eq!(String::from_utf8(list.output().unwrap().stdout).unwrap(), "995\nclosed\n");
    }
}
