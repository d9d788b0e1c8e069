//! Replies: the only place that writes lines beginning with `# `.
//!
//! The daemon takes the first such line on the hook's standard output or error for the reply, and any line other than
//! the three known ones for a fatal error of the whole request.

use std::io::{self, Write};

/// A reply to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This process builds it.
    Accept,
    /// The daemon should build it locally, if it can.
    Decline,
    /// The daemon should ask again later; it does so after five seconds.
    Postpone,
}

impl Reply {
    /// Returns the word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Reply::Accept => "accept",
            Reply::Decline => "decline",
            Reply::Postpone => "postpone",
        }
    }

    /// Sends the reply.
    pub fn send(self, output: &mut impl Write) -> io::Result<()> {
        output.write_all(format!("# {}\n", self.word()).as_bytes())?;
        output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::Reply;

    #[test]
    fn replies_are_the_three_lines_that_the_daemon_knows() {
        let mut sent = Vec::new();
        for reply in [Reply::Accept, Reply::Decline, Reply::Postpone] {
            reply.send(&mut sent).unwrap();
        }
        assert_eq!(sent, b"# accept\n# decline\n# postpone\n");
    }
}
