//! `offload log DRV [--follow]` prints the log of a build: the file that guix-daemon of this machine has, or else the one on
//! the build machine that the history names.
//!
//! guix-daemon writes the log of each build to `LOGDIR/drvs/HH/REST`, where HH are the first two characters of the
//! derivation's file name. The file ends in `.gz`, in `.bz2` or in neither, as `--log-compression` says. A build that is
//! offloaded has its log on both machines. With `--follow`, the command waits until the build begins, and for more until it has
//! ended ([`BuildWatch`]). The daemon compresses what has arrived in blocks, so that the last lines of a running build
//! appear late.
//!
//! Root reads all of this as the owner of the state, and opens no link: logs and history belong to the daemon's user.

mod source;
mod watch;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use log::info;

use self::source::{Compression, Follow, LOCAL_NAMES, POLL_INTERVAL, decoder};
use self::watch::BuildWatch;
use super::escape::Escaper;
use super::failure::{CommandError, CommandResult};
use super::machines::{MachineFileArgs, load};
use super::selection::find_recorded;
use super::ssh;
use super::terminal::Terminal;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::permissions::files;
use crate::shell::quote;
use crate::state::as_started;
use crate::state::history::{Filter, Row};
use crate::store::path::StorePath;

/// The log directory of a build machine: the default of guix-daemon.
const REMOTE_LOGS: &str = "/var/log/guix";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The derivation: its file name, or the name of one in the history, of which the last build counts.
    derivation: String,
    /// Wait for more, until the build has ended.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    file: MachineFileArgs,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.file.named()
    }
}

/// Prints the log.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let derivation = find(&args.derivation, engine)?;
    let name = log_name(&derivation);
    let watch = args.follow.then(|| BuildWatch::new(engine, &derivation));
    let mut is_waiting = false;
    loop {
        if let Some(log) = LocalLog::open(&name, engine)? {
            return log.print(watch.as_ref(), &name, engine);
        }
        match &watch {
            Some(watch) if watch.is_running() || watch.is_possible() => {
                if !std::mem::replace(&mut is_waiting, true) {
                    info!("waiting for the build of '{derivation}' to begin");
                }
                thread::sleep(POLL_INTERVAL);
            }
            _ => return print_remote(args, &derivation, &name, engine),
        }
    }
}

/// A log of this machine.
struct LocalLog {
    file: File,
    path: PathBuf,
    compression: Compression,
}

impl LocalLog {
    /// Opens the log; `None` if there is none.
    fn open(name: &Path, engine: &Engine) -> Result<Option<LocalLog>, CommandError> {
        for (suffix, compression) in LOCAL_NAMES {
            let path = engine.directories.log.join(format!("{}{suffix}", name.display()));
            match files::open(&path) {
                Ok(file) => return Ok(Some(LocalLog { file, path, compression })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(CommandError::failure(format!("cannot read '{}': {error}", path.display()))),
            }
        }
        Ok(None)
    }

    /// Prints the log, and follows it while there is a build to watch. A log that replaces it is printed next.
    fn print(mut self, watch: Option<&BuildWatch<'_>>, name: &Path, engine: &Engine) -> CommandResult {
        let unreadable =
            |path: &Path, error| CommandError::failure(format!("cannot read '{}': {error}", path.display()));
        loop {
            let LocalLog { file, path, compression } = self;
            // Both have the same position.
            let same = file.try_clone().map_err(|error| unreadable(&path, error))?;
            let is_replaced = Cell::new(false);
            let continues = || {
                is_replaced.set(watch.is_some() && is_other(&same, &path));
                !is_replaced.get() && watch.is_some_and(BuildWatch::is_running)
            };
            print(decoder(Follow::new(file, continues), compression), &path.display().to_string())?;
            match LocalLog::open(name, engine)? {
                Some(next) if is_replaced.get() => self = next,
                _ => return Ok(ExitStatus::Success),
            }
        }
    }
}

/// Returns whether the name has another file now, or the file was written again from its beginning.
fn is_other(mut file: &File, path: &Path) -> bool {
    let Ok(data) = file.metadata() else { return false };
    let is_shorter = file.stream_position().is_ok_and(|position| data.len() < position);
    is_shorter
        || files::open(path)
            .and_then(|now| now.metadata())
            .is_ok_and(|now| (now.dev(), now.ino()) != (data.dev(), data.ino()))
}

/// Returns the derivation that a word means: a file name, or the name of one in the history.
fn find(word: &str, engine: &Engine) -> Result<StorePath, CommandError> {
    let store = &engine.directories.store;
    let path = match word.starts_with('/') {
        true => word.to_owned(),
        false => format!("{}/{word}", store.as_str()),
    };
    let invalid = match StorePath::parse(store, path.as_bytes()) {
        Ok(path) if path.is_derivation() => return Ok(path),
        Ok(_) => "it does not end in .drv".to_owned(),
        Err(error) => error.to_string(),
    };
    if word.contains('/') {
        return Err(CommandError::failure(format!("'{word}' is not a derivation: {invalid}")));
    }
    let filter = Filter { name: Some(word.to_owned()), limit: Some(1), ..Filter::default() };
    let rows = engine.history().rows(&filter).map_err(CommandError::failure)?;
    let row = rows.last().and_then(|row| StorePath::parse(store, row.derivation.as_bytes()).ok());
    row.ok_or_else(|| {
        CommandError::new(ExitStatus::NoMatch, format!("the history has no build of '{word}'"))
            .with_hint(Some("a derivation can be given by its file name, too".to_owned()))
    })
}

/// Returns the file of a log without its ending, relative to a log directory.
fn log_name(derivation: &StorePath) -> PathBuf {
    let base = derivation.base_name();
    let (first, rest) = base.split_at_checked(2).unwrap_or((base, ""));
    Path::new("drvs").join(first).join(rest)
}

/// Prints the log from the machine that built the derivation last.
fn print_remote(args: &Args, derivation: &StorePath, log: &Path, engine: &Engine) -> CommandResult {
    let filter = Filter { name: Some(derivation.to_string()), ..Filter::default() };
    let rows = engine.history().rows(&filter).map_err(CommandError::failure)?;
    let missing = |more: &str| {
        let message = format!("no log of '{derivation}' is in '{}'{more}", engine.directories.log.display());
        Err(CommandError::new(ExitStatus::NoMatch, message))
    };
    let Some(name) = rows.iter().rev().find_map(|Row { machine, .. }| machine.clone()) else {
        return missing(", and the history names no machine that has built it");
    };
    let (_, pool) = load(args.machine_file(), engine)?;
    let machine = &*as_started(&engine.state, find_recorded(&pool, &name)?);
    let file = quote(&Path::new(REMOTE_LOGS).join(log).to_string_lossy());
    for (suffix, kind) in LOCAL_NAMES {
        let mut command = Command::new("ssh");
        command.args(ssh::options(machine)).arg(&machine.name).arg(format!("cat {file}{suffix} 2>/dev/null"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|cause| CommandError::failure(format!("cannot run 'ssh': {cause}")))?;
        let mut first = [0; 1];
        let Some(mut output) = child.stdout.take() else { continue };
        let count = output.read(&mut first).unwrap_or(0);
        if count == 1 {
            let what = format!("the log on {name}");
            print(decoder(io::Cursor::new(first).chain(output), kind), &what).inspect_err(|_| drop(child.kill()))?;
            let ended = child.wait().map_err(CommandError::failure)?;
            return match ended.success() {
                true => Ok(ExitStatus::Success),
                false => Err(CommandError::failure(format!("{what} is not complete: ssh ended with {ended}"))),
            };
        }
        // `ssh` has printed why it failed.
        if child.wait().is_ok_and(|status| status.code() == Some(255)) {
            return Err(CommandError::failure(format!("cannot read the log on {name}")));
        }
    }
    missing(&format!(", and none is in {REMOTE_LOGS} on {name}"))
}

/// Copies a log to standard output: as it is, or in a form that is safe for a terminal.
fn print(decoder: Result<Box<dyn Read + '_>, Compression>, name: &str) -> CommandResult {
    let mut log = decoder.map_err(|_| {
        CommandError::failure(format!("{name} is compressed with bzip2"))
            .with_hint(Some("print it with `bzcat`".to_owned()))
    })?;
    let mut out = io::stdout().lock();
    let mut escaper = out.is_terminal().then(|| Escaper::new(Terminal::of_stdout().has_colours));
    let mut write = |text: &[u8]| {
        out.write_all(text).and_then(|()| out.flush()).map_err(|error| CommandError::output("the log", &error))
    };
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = match log.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The daemon has not written the rest yet, or was killed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(CommandError::failure(format!("cannot read {name}: {error}"))),
        };
        let read = piece.get(..count).unwrap_or_default();
        match &mut escaper {
            Some(escaper) => write(escaper.next(read).as_bytes())?,
            None => write(read)?,
        }
    }
    write(escaper.map(Escaper::finish).unwrap_or_default().as_bytes())?;
    Ok(ExitStatus::Success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn a_log_is_in_a_directory_named_by_the_first_two_characters() {
        let drv = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-hello-2.12.1.drv";
        let drv = StorePath::parse(&StoreDir::default(), drv).unwrap();
        assert_eq!(log_name(&drv), Path::new("drvs/0y/jkz5790xvq2z2fnq7s9wbmlrs56imh-hello-2.12.1.drv"));
    }
}
