//! The resources that a hook uses: the benchmark's own program, instead of the daemon's `guix`, runs the hook and records
//! its usage, including that of the processes that it waited for.
//!
//! It adds a few milliseconds to each hook, the same to all. A hook that is killed while it waits for a request is not
//! counted.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::lab::{Host, processes};

const DIRECTORY: &str = "/opt/bench";
const RECORDS: &str = "/opt/bench/usage";
/// The variable that names the hook, in the environment of the daemon.
const PROGRAM: &str = "BENCH_PROGRAM";

/// What hooks used between two calls of [`take`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time of all hooks and their children.
    pub time: Duration,
    /// Largest resident memory of one process, in bytes.
    pub memory: u64,
    /// When the last of them ended.
    pub end: Option<SystemTime>,
}

/// The daemon's environment that puts this program between it and the hook `program`.
pub fn environment(program: &str) -> [(&'static str, String); 2] {
    [("GUIX", format!("{DIRECTORY}/guix")), (PROGRAM, program.to_owned())]
}

/// Puts this program into a host.
pub fn install(host: &Host) {
    let directory = host.path(DIRECTORY);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), directory.join("bench")).unwrap();
    symlink("bench", directory.join("guix")).unwrap();
}

/// Whether this process is the daemon's `guix`.
pub fn is_called_as_guix() -> bool {
    std::env::args().next().is_some_and(|name| name.ends_with("/guix"))
}

/// Serves as the daemon's `guix`.
pub fn run_as_guix() -> ExitCode {
    let mut command = Command::new(std::env::var_os(PROGRAM).unwrap());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    command.args(&arguments);
    if arguments.first().is_none_or(|word| word != "offload") {
        panic!("{}", command.exec());
    }
    let status = command.status().unwrap();
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let time = usage.user_time() + usage.system_time();
    let line = format!("{} {} {}\n", time.num_microseconds(), usage.max_rss(), end.as_micros());
    // One write, so that the lines of several hooks do not mix.
    OpenOptions::new().append(true).create(true).open(RECORDS).unwrap().write_all(line.as_bytes()).unwrap();
    ExitCode::from(status.code().unwrap_or(1) as u8)
}

/// Returns the usage of the hooks of `host` that ended since the last call.
pub fn take(host: &Host) -> Usage {
    let records = std::fs::read_to_string(host.path(RECORDS)).unwrap_or_default();
    let _ = std::fs::remove_file(host.path(RECORDS));
    let mut usage = Usage::default();
    for line in records.lines() {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [microseconds, kib, end] = numbers[..] else { panic!("{line}") };
        usage.time += Duration::from_micros(microseconds);
        usage.memory = usage.memory.max(kib << 10);
        usage.end = usage.end.max(Some(UNIX_EPOCH + Duration::from_micros(end)));
    }
    usage
}

/// The processor time of everything that has run in a host so far and whose parents are still there, to some tens of
/// milliseconds.
pub fn processor_time(host: &Host) -> Duration {
    // User and system time, own and of children waited for, in hundredths of a second.
    let ticks = |pid: u32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum()
    };
    let sum = processes(host.root()).iter().map(|process| ticks(process.pid)).sum::<u64>();
    Duration::from_millis(sum * 10)
}
