//! Probes the status of a build machine, with one command of the POSIX shell.
//!
//! The command prints lines of a word and its values, between two marker lines. Any line may be missing, for example
//! with another kernel, with BusyBox, or without /proc. The output of a login shell around it is skipped. The login
//! shell must know `exec` and must not interpret text in single quotes. sh, csh and fish satisfy this if the text has
//! no backslash, no exclamation mark and no line break.
//!
//! | line | values | from |
//! |---|---|---|
//! | `load` | load averages of 1, 5 and 15 minutes, … | /proc/loadavg |
//! | `cores` | processors in use | nproc, getconf |
//! | `pressure` | `cpu`, `memory` or `io`, `some avg10=…` | /proc/pressure (Linux 4.20) |
//! | `memory` | available, KiB | `MemAvailable` of /proc/meminfo |
//! | `uptime` | seconds, … | /proc/uptime |
//! | `store`, `build` | free blocks, block size, inodes, free inodes, with colons | `stat -f` |
//! | `store-kib`, `build-kib` | the line of the file system | `df -kP` |
//! | `clock` | seconds since 1970 | date |
//! | `uname` | kernel, host name, release, machine | uname |

use crate::status::MachineStatus;
use crate::text::printable;

/// The longest output, in bytes.
pub const OUTPUT_MAX: usize = 64 << 10;

/// The longest text that is recorded, in bytes; the rest is cut off. The record of a host has room for 64 KiB.
const TEXT_MAX: usize = 128;

const BEGIN_MARK: &str = "offload-probe-begin";
const END_MARK: &str = "offload-probe-end";

/// Returns the command of the probe. It does not report the space of `store` if a shell could interpret a character of
/// that path.
pub fn command(store: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    let store = if store.starts_with('/') && store.chars().all(is_plain) { store } else { "" };
    [
        "exec /bin/sh -c 'echo; echo ",
        BEGIN_MARK,
        "; exec 2>/dev/null; ",
        "if read -r a < /proc/loadavg; then echo \"load $a\"; fi; ",
        "if read -r a < /proc/uptime; then echo \"uptime $a\"; fi; ",
        "for p in cpu memory io; do if read -r a < /proc/pressure/$p; then echo \"pressure $p $a\"; fi; done; ",
        "while read -r k v u; do if test $k = MemAvailable:; then echo \"memory $v\"; break; fi; done < /proc/meminfo; ",
        "echo \"cores $(nproc || getconf _NPROCESSORS_ONLN)\"; ",
        "echo \"clock $(date +%s)\"; ",
        "echo \"uname $(uname -snrm)\"; ",
        "s() { a=$(stat -f -c %a:%S:%c:%d \"$2\") && echo \"$1 $a\" || { df -kP \"$2\" | while read -r a; do echo \"$1-kib $a\"; done; }; }; ",
        "s store \"",
        store,
        "\"; s build \"${TMPDIR:-/tmp}\"; echo ",
        END_MARK,
        "'",
    ]
    .concat()
}

/// Parses the output of the command. A missing or invalid line leaves its fields `None`.
pub fn parse(output: &[u8]) -> MachineStatus {
    let output = String::from_utf8_lossy(&output[..output.len().min(OUTPUT_MAX)]);
    let mut status = MachineStatus::default();
    let lines = output.lines().map(str::trim_end).skip_while(|line| *line != BEGIN_MARK).skip(1);
    for line in lines.take_while(|line| *line != END_MARK) {
        let mut words = line.split_ascii_whitespace();
        let Some(word) = words.next() else { continue };
        let values: Vec<&str> = words.collect();
        match word {
            "load" => {
                [status.load1, status.load5, status.load15] =
                    [0, 1, 2].map(|i| values.get(i).and_then(|load| parse_amount(load)));
            }
            "uptime" => status.uptime = values.first().and_then(|time| parse_amount(time)).map(|time| time as u64),
            "pressure" => match values.first() {
                Some(&"cpu") => status.pressure_cpu = parse_pressure(&values),
                Some(&"memory") => status.pressure_memory = parse_pressure(&values),
                Some(&"io") => status.pressure_io = parse_pressure(&values),
                _ => {}
            },
            "memory" => status.free_memory = values.first().and_then(|kib| kib.parse().ok()).and_then(bytes_of_kib),
            "cores" => status.cores = values.first().and_then(|cores| cores.parse().ok()).filter(|cores| *cores > 0),
            "clock" => status.clock = values.first().and_then(|clock| clock.parse().ok()),
            "uname" => {
                if let [system, host, .., machine] = values[..] {
                    status.host_name = Some(printable(host, TEXT_MAX));
                    status.architecture = Some(printable(machine, TEXT_MAX));
                    let kernel = [&[system], &values[2..values.len() - 1]].concat().join(" ");
                    status.kernel = Some(printable(&kernel, TEXT_MAX));
                }
            }
            "store" => {
                let space = values.first().and_then(|values| Space::parse(values));
                status.free_disk = space.as_ref().map(|space| space.bytes);
                status.free_inodes = space.and_then(|space| space.inodes);
            }
            "build" => {
                status.build_free = values.first().and_then(|values| Space::parse(values)).map(|space| space.bytes)
            }
            "store-kib" => status.free_disk = df_available(&values).or(status.free_disk),
            "build-kib" => status.build_free = df_available(&values).or(status.build_free),
            _ => {}
        }
    }
    status
}

/// Returns a finite number that is not negative.
fn parse_amount(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

/// Returns the value of `avg10=` in a line that begins with `some`.
fn parse_pressure(values: &[&str]) -> Option<f64> {
    if values.get(1) != Some(&"some") {
        return None;
    }
    values.iter().find_map(|value| value.strip_prefix("avg10=")).and_then(parse_amount)
}

fn bytes_of_kib(kib: u64) -> Option<u64> {
    kib.checked_mul(1024)
}

/// The free space of a file system.
struct Space {
    bytes: u64,
    /// The number of free inodes; `None` if the file system has no limit.
    inodes: Option<u64>,
}

impl Space {
    /// Parses the output of `stat -f`.
    fn parse(values: &str) -> Option<Space> {
        let numbers: Vec<u64> = values.split(':').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        match numbers[..] {
            [blocks, size, inodes, free_inodes] => {
                Some(Space { bytes: blocks.checked_mul(size)?, inodes: (inodes > 0).then_some(free_inodes) })
            }
            _ => None,
        }
    }
}

/// Returns the available bytes of a line of `df -kP`, from the number before the percentage. The heading line has none.
fn df_available(values: &[&str]) -> Option<u64> {
    let at = values
        .iter()
        .position(|value| value.strip_suffix('%').is_some_and(|percent| percent.parse::<u32>().is_ok()))?;
    values.get(at.checked_sub(1)?)?.parse().ok().and_then(bytes_of_kib)
}

#[cfg(test)]
mod tests;
