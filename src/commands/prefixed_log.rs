//! The output of builders on standard error, with a prefix if there are several of them.

use std::io::{self, Write};

/// Copies the output of builders to standard error. With a prefix it copies whole lines.
pub struct PrefixedLog {
    prefix: String,
    line: Vec<u8>,
}

/// The longest line that is kept together, in bytes.
const MAX_LINE: usize = 16 << 10;

impl PrefixedLog {
    /// Returns a log whose lines begin with `prefix`.
    pub fn new(prefix: String) -> PrefixedLog {
        PrefixedLog { prefix, line: Vec::new() }
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line = [self.prefix.as_bytes(), &std::mem::take(&mut self.line), b"\n"].concat();
        io::stderr().write_all(&line)
    }
}

impl Write for PrefixedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.prefix.is_empty() {
            io::stderr().write_all(bytes)?;
            return Ok(bytes.len());
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
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PrefixedLog {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            let _ = self.end_line();
        }
    }
}
