//! Repeated output: on a terminal in place, elsewhere one after the other.
//!
//! On a terminal the alternate screen is used, so that nothing remains on the screen; lines that do not fit are cut off
//! with a note. SIGINT and SIGTERM end the process at once, with the status 0, even during probes.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::commands::terminal::Terminal;

/// Alternate screen on, cursor hidden; and back.
const ENTER_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE_SCREEN: &str = "\x1b[?25h\x1b[?1049l";

/// To the top left; to the end of the line, and of the screen.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

/// Prints the output of `write`, every `interval`, until a signal ends the process; it returns only if printing fails.
/// With `is_in_place`, on a terminal, each output replaces the last.
pub fn run(
    interval: Duration,
    is_in_place: bool,
    mut write: impl FnMut(Terminal, &mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let is_in_place = is_in_place && io::stdout().is_terminal();
    end_on_signals(is_in_place)?;
    if is_in_place {
        print(ENTER_SCREEN.as_bytes())?;
    }
    loop {
        let start = Instant::now();
        let terminal = Terminal::of_stdout();
        let mut text = Vec::new();
        write(terminal, &mut text)?;
        if is_in_place {
            text = screen(&String::from_utf8_lossy(&text), interval, terminal.height).into_bytes();
        }
        print(&text)?;
        thread::sleep(interval.saturating_sub(start.elapsed()));
    }
}

fn end_on_signals(is_in_place: bool) -> io::Result<()> {
    let (mut reader, writer) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        pipe::register(signal, writer.try_clone()?)?;
    }
    thread::spawn(move || {
        if reader.read(&mut [0]).is_ok() {
            if is_in_place {
                // The standard output of this library is not used, because its lock may be held.
                let _ = rustix::io::write(rustix::stdio::stdout(), LEAVE_SCREEN.as_bytes());
            }
            process::exit(0);
        }
    });
    Ok(())
}

/// Prints all in one write, so that a screen is never half drawn.
fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// Returns `text` in the form that replaces the screen.
fn screen(text: &str, interval: Duration, height: Option<usize>) -> String {
    let heading = format!("offload status, every {} s; Ctrl-C ends it", interval.as_secs());
    let lines: Vec<&str> = [heading.as_str(), ""].into_iter().chain(text.lines()).collect();
    // The last line stays free, so that the screen does not scroll.
    let room = height.map_or(lines.len(), |height| height.saturating_sub(1)).max(2);
    let mut screen = HOME.to_owned();
    let more = format!("… {} more lines", (lines.len() + 1).saturating_sub(room));
    let (shown, rest) = if lines.len() > room { (&lines[..room - 1], Some(more.as_str())) } else { (&lines[..], None) };
    for line in shown.iter().copied().chain(rest) {
        screen.extend([line, CLEAR_LINE, "\n"]);
    }
    screen + CLEAR_REST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_never_longer_than_the_terminal() {
        let text: String = (0..40).map(|i| format!("line {i}\n")).collect();
        let screen = screen(&text, Duration::from_secs(5), Some(24));
        assert_eq!(screen.lines().count(), 24);
        assert!(screen.ends_with("line 19\x1b[K\n… 20 more lines\x1b[K\n\x1b[J"), "{screen:?}");
        assert!(screen.starts_with("\x1b[Hoffload status, every 5 s; Ctrl-C ends it\x1b[K\n\x1b[K\n"), "{screen:?}");
    }

    #[test]
    fn a_short_one_is_whole() {
        assert_eq!(screen("a\n", Duration::from_secs(1), None).matches("\x1b[K\n").count(), 3);
    }
}
