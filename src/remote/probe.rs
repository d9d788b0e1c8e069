//! How a build machine is doing, asked with one command of the POSIX shell.
//!
//! The command prints, between two marker lines, lines of a word and its values. Every part may be missing: another
//! kernel, BusyBox, no /proc. What a login shell prints around it is skipped. The login shell may be anything that
//! knows `exec` and takes what stands between single quotes as it is (sh, csh and fish do, as long as there is neither
//! a backslash, an exclamation mark nor a line break in between).
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

/// What is read of the output at most, in bytes.
pub const MAX_OUTPUT: usize = 64 << 10;

/// What is kept of a text, in bytes: the record of a host has room for 64 KiB.
const MAX_TEXT: usize = 128;

const BEGIN_MARK: &str = "offload-probe-begin";
const END_MARK: &str = "offload-probe-end";

/// The command that asks. `store` is left out if a shell could mistake a character of it.
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

/// Reads what the command printed. What is missing or strange is left out.
pub fn parse(output: &[u8]) -> MachineStatus {
    let output = String::from_utf8_lossy(&output[..output.len().min(MAX_OUTPUT)]);
    let mut status = MachineStatus::default();
    let lines = output.lines().map(str::trim_end).skip_while(|line| *line != BEGIN_MARK).skip(1);
    for line in lines.take_while(|line| *line != END_MARK) {
        let mut words = line.split_ascii_whitespace();
        let Some(word) = words.next() else { continue };
        let values: Vec<&str> = words.collect();
        match word {
            "load" => {
                [status.load1, status.load5, status.load15] =
                    [0, 1, 2].map(|i| values.get(i).and_then(|load| amount(load)));
            }
            "uptime" => status.uptime = values.first().and_then(|time| amount(time)).map(|time| time as u64),
            "pressure" => match values.first() {
                Some(&"cpu") => status.pressure_cpu = pressure(&values),
                Some(&"memory") => status.pressure_memory = pressure(&values),
                Some(&"io") => status.pressure_io = pressure(&values),
                _ => {}
            },
            "memory" => status.free_memory = values.first().and_then(|kib| kib.parse().ok()).and_then(kibibytes),
            "cores" => status.cores = values.first().and_then(|cores| cores.parse().ok()).filter(|cores| *cores > 0),
            "clock" => status.clock = values.first().and_then(|clock| clock.parse().ok()),
            "uname" => {
                if let [system, host, .., machine] = values[..] {
                    status.host_name = Some(printable(host, MAX_TEXT));
                    status.architecture = Some(printable(machine, MAX_TEXT));
                    let kernel = [&[system], &values[2..values.len() - 1]].concat().join(" ");
                    status.kernel = Some(printable(&kernel, MAX_TEXT));
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
            "store-kib" => status.free_disk = available(&values).or(status.free_disk),
            "build-kib" => status.build_free = available(&values).or(status.build_free),
            _ => {}
        }
    }
    status
}

fn amount(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

/// The value of `avg10=` in the line that begins with `some`.
fn pressure(values: &[&str]) -> Option<f64> {
    if values.get(1) != Some(&"some") {
        return None;
    }
    values.iter().find_map(|value| value.strip_prefix("avg10=")).and_then(amount)
}

fn kibibytes(kib: u64) -> Option<u64> {
    kib.checked_mul(1024)
}

struct Space {
    bytes: u64,
    inodes: Option<u64>,
}

impl Space {
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

/// The available KiB in a line of `df -kP`: the number before the percentage. The heading has none.
fn available(values: &[&str]) -> Option<u64> {
    let at = values
        .iter()
        .position(|value| value.strip_suffix('%').is_some_and(|percent| percent.parse::<u32>().is_ok()))?;
    values.get(at.checked_sub(1)?)?.parse().ok().and_then(kibibytes)
}

#[cfg(test)]
mod tests;
