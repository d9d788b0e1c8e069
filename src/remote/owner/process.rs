//! The set-up of an owner process: its descriptors, its name and its log.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use rustix::fs::Mode;

use super::message::{StartReply, send};
use super::{COMM, PROCESS_NAME};

/// Separates the process from the hook and from the daemon: its descriptors, its session and its umask. Returns the
/// socket that was its standard input.
pub(super) fn detach() -> io::Result<UnixStream> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin().as_fd(), 3)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::thread::set_name(COMM)?;
    debug_assert!(COMM.to_bytes() == PROCESS_NAME.as_bytes());
    rustix::process::setsid()?;
    // Only the same user may use its socket.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    Ok(control.into())
}

/// The log of this process, which a hook writes.
static HOOK_LOG: HookLog = HookLog(Mutex::new(None));

/// Sends the log messages of this process to the hook at the other end of `control`, up to this level, a number.
pub(super) fn log_to_hook(control: &UnixStream, level: usize) -> io::Result<()> {
    *HOOK_LOG.lock() = Some(control.try_clone()?);
    // This fails only if the logger is already set.
    let _ = log::set_logger(&HOOK_LOG);
    let level = LevelFilter::iter().find(|known| *known as usize == level);
    log::set_max_level(level.unwrap_or(LevelFilter::Off));
    Ok(())
}

/// Stops the log, because the hook does not read further messages.
pub(super) fn stop_logging() {
    log::set_max_level(LevelFilter::Off);
    *HOOK_LOG.lock() = None;
}

/// A log that sends its messages over a socket.
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
        // After an error the hook has ended.
        if hook.as_ref().is_some_and(|hook| send(hook, &line, &[]).is_err()) {
            *hook = None;
        }
    }

    fn flush(&self) {}
}

/// Logs a message that the owner of a session has sent, if this process logs its level.
pub(super) fn log_line(level: usize, target: &str, text: &str) {
    let Some(level) = log::Level::iter().find(|known| *known as usize == level) else { return };
    if level <= log::max_level() {
        let text = format_args!("{text}").to_string();
        log::logger().log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    }
}
