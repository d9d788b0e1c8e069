//! The log of a daemon during a build, split into the output of builders, the daemon's own messages and its build
//! trace.
//!
//! With the options `print_build_trace` and `multiplexed_build_output`, each frame of log text is one of these:
//!
//! | frame | |
//! |---|---|
//! | `@ build-log PID SIZE`, a line feed, SIZE bytes | the output of a builder |
//! | `@ EVENT ARGUMENT …`, a line feed | an event of the build trace |
//! | any other text | a message of the daemon |
//!
//! So no builder can disguise its output as an event. Source: `DerivationGoal::handleChildOutput` and the uses of
//! `printBuildTrace` in the daemon's `libstore/build.cc`.
//!
//! Not checked here: the PID, and whether SIZE is that of the frame.

/// The longest event, or line before the output of a builder, in bytes; a longer one is cut.
const MAX_EVENT: usize = 16 << 10;

const TRACE_PREFIX: &[u8] = b"@ ";
const BUILD_LOG_PREFIX: &[u8] = b"@ build-log ";

/// The message about the directory of a failed build. It is not translated.
const KEPT_PREFIX: &str = "note: keeping build directory `";

/// An event of the trace. Paths and messages are as the daemon wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildEvent {
    /// A builder has been started.
    Started { derivation: String },
    /// A build was attempted and failed, in the builder or after it.
    Failed { derivation: String, message: String },
    /// A fixed output has another hash than that in the derivation, both in the daemon's own notation.
    HashMismatch { output: String, algorithm: String, expected: String, actual: String },
    /// An item is being substituted.
    SubstituterStarted,
    /// The end of a substitution, with success or not.
    SubstituterEnded,
    /// The directory of a failed build was kept. This is a message of the daemon, and part of the log as well.
    Kept { directory: String },
}

/// A function that is called for each event.
pub type TraceSink = Box<dyn FnMut(&BuildEvent) + Send>;

impl BuildEvent {
    /// Parses an event without the mark before it; `None` for an event that is not used here.
    fn parse(text: &str) -> Option<BuildEvent> {
        let (event, arguments) = text.split_once(' ')?;
        match event {
            "build-started" => Some(BuildEvent::Started { derivation: words(arguments).next()?.to_owned() }),
            "build-failed" => {
                // DERIVATION - STATUS MESSAGE
                let mut words = arguments.splitn(4, ' ');
                let derivation = words.next()?.to_owned();
                let message = words.nth(2)?.to_owned();
                Some(BuildEvent::Failed { derivation, message })
            }
            "hash-mismatch" => {
                let mut words = words(arguments).map(str::to_owned);
                let [output, algorithm, expected, actual] = [(); 4].map(|()| words.next());
                Some(BuildEvent::HashMismatch {
                    output: output?,
                    algorithm: algorithm?,
                    expected: expected?,
                    actual: actual?,
                })
            }
            "substituter-started" => Some(BuildEvent::SubstituterStarted),
            "substituter-succeeded" | "substituter-failed" => Some(BuildEvent::SubstituterEnded),
            _ => None,
        }
    }
}

/// Parses the message about a directory that was kept.
fn kept(line: &str) -> Option<BuildEvent> {
    let directory = line.strip_prefix(KEPT_PREFIX)?.strip_suffix('\'')?;
    Some(BuildEvent::Kept { directory: directory.to_owned() })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| !word.is_empty())
}

/// Reads the frames of log text, piece by piece.
#[derive(Default)]
pub(super) struct FrameReader {
    state: TraceState,
    /// The beginning of the frame, unless it is the output of a builder.
    line: Vec<u8>,
}

#[derive(Default, PartialEq)]
enum TraceState {
    /// The first bytes of the frame.
    #[default]
    Start,
    /// The output of a builder, up to the end of the frame.
    Text,
    /// A message of the daemon, up to the end of the frame.
    Message,
}

impl FrameReader {
    /// Begins a frame.
    pub fn begin(&mut self) {
        self.state = TraceState::Start;
        self.line.clear();
    }

    /// Passes log text to `log`.
    pub fn piece(&mut self, bytes: &[u8], log: &mut dyn FnMut(&[u8])) {
        if self.state == TraceState::Text {
            return log(bytes);
        }
        let room = MAX_EVENT.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let length = self.line.len();
        if self.state == TraceState::Message {
            return log(bytes);
        }
        if self.line[..length.min(TRACE_PREFIX.len())] != TRACE_PREFIX[..length.min(TRACE_PREFIX.len())] {
            self.state = TraceState::Message;
            log(&self.line);
            return log(&bytes[bytes.len().min(room)..]);
        }
        if self.line.starts_with(BUILD_LOG_PREFIX)
            && let Some(end) = self.line.iter().position(|&byte| byte == b'\n')
        {
            self.state = TraceState::Text;
            if end + 1 < length {
                log(&self.line[end + 1..]);
            }
        }
    }

    /// Ends the frame. An event is a whole frame, because the messages in it may have line feeds.
    pub fn end(&mut self) -> Option<BuildEvent> {
        match self.state {
            TraceState::Text => return None,
            TraceState::Message => return String::from_utf8_lossy(&self.line).lines().find_map(kept),
            TraceState::Start => {}
        }
        let event = self.line.strip_prefix(TRACE_PREFIX)?;
        BuildEvent::parse(String::from_utf8_lossy(event).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the log text and the event of a frame that arrives in pieces of `size` bytes.
    fn read(frame: &[u8], size: usize) -> (Vec<u8>, Option<BuildEvent>) {
        let (mut reader, mut log) = (FrameReader::default(), Vec::new());
        reader.begin();
        frame.chunks(size).for_each(|piece| reader.piece(piece, &mut |text| log.extend_from_slice(text)));
        let event = reader.end();
        (log, event)
    }

    #[test]
    fn output_of_builders_is_never_an_event() {
        for size in [1, 2, 7, 4096] {
            let frame = b"@ build-log 4711 34\n@ build-started /gnu/store/a.drv - x\n";
            assert_eq!(read(frame, size), (frame[20..].to_vec(), None), "{size}");
            assert_eq!(read(b"@ build-log 4711 0\n", size), (Vec::new(), None), "{size}");
            assert_eq!(read(b"@ build-log 4711", size), (Vec::new(), None), "{size}");
        }
    }

    #[test]
    fn messages_are_log_text() {
        for size in [1, 2, 7, 4096] {
            for frame in
                [&b"waiting for locks\n"[..], b"@", b"x@ build-started a - b c\n", b"a\n@ build-failed b - 1 c\n"]
            {
                let expected = if frame == b"@" { Vec::new() } else { frame.to_vec() };
                assert_eq!(read(frame, size), (expected, None), "{size}");
            }
            let long = vec![b'x'; 3 * MAX_EVENT];
            assert_eq!(read(&long, size).0, long);
        }
    }

    #[test]
    fn events_are_read() {
        let event = |text: &str| {
            let read = [1, 5, 4096].map(|size| read(text.as_bytes(), size));
            assert!(read.iter().all(|(log, event)| log.is_empty() && *event == read[0].1), "{read:?}");
            read[0].1.clone()
        };
        let text = str::to_owned;
        let started = BuildEvent::Started { derivation: text("/gnu/store/a.drv") };
        assert_eq!(event("@ build-started /gnu/store/a.drv - x86_64-linux /log 12\n"), Some(started));
        assert_eq!(
            event("@ build-failed /gnu/store/a.drv - 1 a message\n@ build-started b - c d 3\n"),
            Some(BuildEvent::Failed {
                derivation: text("/gnu/store/a.drv"),
                message: text("a message\n@ build-started b - c d 3")
            })
        );
        assert_eq!(
            event("@ hash-mismatch /gnu/store/a r:sha256 00 11\n"),
            Some(BuildEvent::HashMismatch {
                output: text("/gnu/store/a"),
                algorithm: text("r:sha256"),
                expected: text("00"),
                actual: text("11")
            })
        );
        assert_eq!(event("@ substituter-started /gnu/store/a substitute\n"), Some(BuildEvent::SubstituterStarted));
        assert_eq!(event("@ substituter-failed /gnu/store/a 1 no\n"), Some(BuildEvent::SubstituterEnded));
        for other in ["@ build-succeeded a -\n", "@ \n", "@ x", "@ build-failed a - 1", "@ hash-mismatch a b c\n"] {
            assert_eq!(event(other), None, "{other}");
        }
    }

    #[test]
    fn the_message_about_a_kept_directory_is_an_event_and_log_text() {
        let message = "x\nnote: keeping build directory `/tmp/guix-build-a.drv-0'\n";
        let kept = BuildEvent::Kept { directory: "/tmp/guix-build-a.drv-0".to_owned() };
        for size in [1, 7, 4096] {
            assert_eq!(read(message.as_bytes(), size), (message.as_bytes().to_vec(), Some(kept.clone())), "{size}");
            // A builder cannot print it.
            let output = format!("@ build-log 1 {}\n{message}", message.len());
            assert_eq!(read(output.as_bytes(), size), (message.as_bytes().to_vec(), None), "{size}");
        }
    }

    #[test]
    fn a_long_event_is_cut() {
        let frame = [b"@ build-failed a - 1 ".to_vec(), vec![b'x'; 3 * MAX_EVENT]].concat();
        for size in [999, frame.len()] {
            let Some(BuildEvent::Failed { message, .. }) = read(&frame, size).1 else { panic!("no event") };
            assert_eq!(message.len(), MAX_EVENT - 21);
        }
    }
}
