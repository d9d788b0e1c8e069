//! The output of builders on standard error, with a prefix if there are several of them.

use std::io::{self, IsTerminal, Write};

use super::escape::Escaper;
use super::terminal::Terminal;

/// Copies the output of builders to standard error. With a prefix it copies whole lines. On a terminal the text is made
/// safe.
pub struct PrefixedLog {
    prefix: String,
    line: Vec<u8>,
    /// `None` where standard error is not a terminal.
    escaper: Option<Escaper>,
}

/// The longest line that is kept together, in bytes.
const MAX_LINE: usize = 16 << 10;

impl PrefixedLog {
    /// Returns a log whose lines begin with `prefix`.
    pub fn new(prefix: String) -> PrefixedLog {
        let messages = io::stderr();
        // The colours of one builder would pass to the lines of others.
        let has_colours = prefix.is_empty() && Terminal::of(&messages).has_colours;
        let escaper = messages.is_terminal().then(|| Escaper::new(has_colours));
        PrefixedLog { prefix, line: Vec::new(), escaper }
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.prefix.is_empty() {
            return io::stderr().write_all(bytes);
        }
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line()?,
                _ => self.line.push(byte),
            }
            if self.line.len() >= MAX_LINE {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line = [self.prefix.as_bytes(), &std::mem::take(&mut self.line), b"\n"].concat();
        io::stderr().write_all(&line)
    }
}

impl Write for PrefixedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.escaper {
            Some(escaper) => {
                let text = escaper.next(bytes);
                self.print(text.as_bytes())?;
            }
            None => self.print(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PrefixedLog {
    fn drop(&mut self) {
        let rest = self.escaper.take().map(Escaper::finish).unwrap_or_default();
        let _ = self.print(rest.as_bytes());
        if !self.line.is_empty() {
            let _ = self.end_line();
        }
    }
}
