//! The process that owns a session: what it is made of beside the session.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use rustix::fs::Mode;

use super::message::{StartReply, send};
use super::{NAME, NAME_IN_LISTS};

/// Leaves all behind that belongs to the hook and to the daemon that started it, but for the socket that was standard
/// input.
pub(super) fn detach() -> io::Result<UnixStream> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin().as_fd(), 3)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::thread::set_name(NAME_IN_LISTS)?;
    debug_assert!(NAME_IN_LISTS.to_bytes() == NAME.as_bytes());
    rustix::process::setsid()?;
    // Its socket is for the same user.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    Ok(control.into())
}

/// Who logs what this process does.
static HOOK: HookLog = HookLog(Mutex::new(None));

/// Has the hook at the other end of `control` log what this process does, as far as its level goes.
pub(super) fn log_to(control: &UnixStream, level: usize) -> io::Result<()> {
    *HOOK.lock() = Some(control.try_clone()?);
    // There is none before the first time.
    let _ = log::set_logger(&HOOK);
    let level = LevelFilter::iter().find(|known| *known as usize == level);
    log::set_max_level(level.unwrap_or(LevelFilter::Off));
    Ok(())
}

/// From now on nothing is logged, since the hook reads nothing more.
pub(super) fn log_nothing() {
    log::set_max_level(LevelFilter::Off);
    *HOOK.lock() = None;
}

/// A log that somebody else writes.
struct HookLog(Mutex<Option<UnixStream>>);

impl HookLog {
    fn lock(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for HookLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let target = record.target().to_owned();
        let line = StartReply::Log { level: record.level() as usize, target, text: record.args().to_string() };
        let mut hook = self.lock();
        // Once it is gone nobody reads any more.
        if hook.as_ref().is_some_and(|hook| send(hook, &line, &[]).is_err()) {
            *hook = None;
        }
    }

    fn flush(&self) {}
}

/// Logs what the owner of a session would have logged.
pub(super) fn log_line(level: usize, target: &str, text: &str) {
    let Some(level) = log::Level::iter().find(|known| *known as usize == level) else { return };
    if level <= log::max_level() {
        let text = format_args!("{text}").to_string();
        log::logger().log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    }
}
