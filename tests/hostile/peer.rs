//! A scripted daemon: it answers as guix-daemon does, and claims to have and to have built everything. At one operation it
//! does something else.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use offload::internals::gcrypt::SigningKey;

use super::archive::{Item, file, ints, nar, word};

/// The name of each added text. Such a text is exported as it was, signed with the machine's key.
const TEXT: &[u8] = b"/gnu/store/hxbwv0n6dyadh2d3q6h1286kinrfp6gk-bar";

pub const NEXT: u64 = 0x6f6c_6d67;
pub const WRITE: u64 = 0x6461_7416;
pub const READ: u64 = 0x6461_7461;
pub const LAST: u64 = 0x616c_7473;
pub const ERROR: u64 = 0x6378_7470;
pub const MAGIC: u64 = 0x6478_696f;

/// Where it does something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Greeting,
    Options,
    Query,
    Build,
    /// Of an output.
    Export,
}

/// The action there instead of its answer. An error ends the connection.
pub type Act = Box<dyn Fn(&mut UnixStream) -> io::Result<()> + Send + Sync>;

/// A part.
pub struct Play {
    pub at: At,
    pub act: Act,
}

impl Play {
    pub fn new(at: At, act: impl Fn(&mut UnixStream) -> io::Result<()> + Send + Sync + 'static) -> Play {
        Play { at, act: Box::new(act) }
    }

    /// Says these bytes.
    pub fn says(at: At, bytes: Vec<u8>) -> Play {
        Play::new(at, move |stream| stream.write_all(&bytes))
    }

    /// Says these bytes and closes the connection.
    pub fn ends(at: At, bytes: Vec<u8>) -> Play {
        Play::new(at, move |stream| {
            stream.write_all(&bytes)?;
            Err(io::ErrorKind::BrokenPipe.into())
        })
    }

    /// Says nothing, for as long as the other side waits.
    pub fn is_silent(at: At) -> Play {
        Play::new(at, |stream| io::copy(stream, &mut io::sink()).map(drop))
    }

    /// Exports this item.
    pub fn exports(item: &[u8]) -> Play {
        Play::says(At::Export, [frames(item), ints(&[LAST, 1])].concat())
    }
}

/// Data in frames as the daemon's are, at most 64 KiB each.
pub fn frames(data: &[u8]) -> Vec<u8> {
    data.chunks(64 << 10).flat_map(|chunk| [ints(&[WRITE]), word(chunk)].concat()).collect()
}

/// The daemon. It serves until it is dropped, and then lets go of its socket, which keeps the host's file system in
/// use.
pub struct Peer {
    stage: Arc<Mutex<Stage>>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

/// The settings that the daemon got for the builds over a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedOptions {
    /// The flags and numbers that come first, in the order of the protocol.
    pub numbers: Vec<u64>,
    pub settings: BTreeMap<String, String>,
}

struct Stage {
    play: Option<Arc<Play>>,
    received: Option<ReceivedOptions>,
    /// The export of an added text.
    text: Vec<u8>,
    /// Called before and after something else is done.
    look: Arc<dyn Fn() + Send + Sync>,
    is_over: bool,
}

impl Peer {
    /// Listens on the socket `path`, signs texts with `key`, and calls `look` each time before and after it plays its part.
    pub fn listen(path: &Path, key: &SigningKey, look: impl Fn() + Send + Sync + 'static) -> Peer {
        let listener = UnixListener::bind(path).unwrap();
        let path_of_text = String::from_utf8(TEXT.to_vec()).unwrap();
        let text =
            Item { nar: nar(&file(b"text")), path: path_of_text, references: Vec::new(), deriver: String::new() };
        let text = text.signed(key);
        let stage = Stage { play: None, received: None, text, look: Arc::new(look), is_over: false };
        let stage = Arc::new(Mutex::new(stage));
        let shared = Arc::clone(&stage);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let stage = Arc::clone(&shared);
                if stage.lock().unwrap().is_over {
                    break;
                }
                // Its end, by whatever error, is the end of a connection.
                thread::spawn(move || drop(serve(stream, &stage)));
            }
        });
        Peer { stage, path: path.to_owned(), thread: Some(thread) }
    }

    /// From now on it plays this.
    pub fn play(&self, play: Play) {
        let mut stage = self.stage.lock().unwrap();
        (stage.play, stage.received) = (Some(Arc::new(play)), None);
    }

    /// Returns the last settings since then.
    pub fn received_options(&self) -> Option<ReceivedOptions> {
        self.stage.lock().unwrap().received.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stage.lock().unwrap().is_over = true;
        let _ = UnixStream::connect(&self.path);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(mut stream: UnixStream, shared: &Mutex<Stage>) -> io::Result<()> {
    let (play, text, look) = {
        let stage = shared.lock().unwrap();
        (stage.play.clone().unwrap(), stage.text.clone(), Arc::clone(&stage.look))
    };
    let answer = |stream: &mut UnixStream, at: At, usual: &[u8]| match play.at == at {
        true => {
            look();
            let played = (play.act)(stream);
            look();
            played
        }
        false => stream.write_all(usual),
    };
    stream.read_exact(&mut [0; 32])?;
    answer(&mut stream, At::Greeting, &ints(&[MAGIC, 0x164, LAST]))?;
    loop {
        match int(&mut stream)? {
            1 => {
                string(&mut stream)?;
                stream.write_all(&ints(&[LAST, 1]))?;
            }
            8 => {
                let _ = (string(&mut stream)?, string(&mut stream)?, list(&mut stream)?);
                stream.write_all(&[ints(&[LAST]), word(TEXT)].concat())?;
            }
            9 => {
                let _ = (list(&mut stream)?, int(&mut stream)?);
                answer(&mut stream, At::Build, &ints(&[LAST, 1]))?;
            }
            16 => {
                let (path, _) = (string(&mut stream)?, int(&mut stream)?);
                let usual = [frames(&text), ints(&[LAST, 1])].concat();
                match path == TEXT {
                    true => stream.write_all(&usual)?,
                    false => answer(&mut stream, At::Export, &usual)?,
                }
            }
            19 => {
                let numbers = (0..9).map(|_| int(&mut stream)).collect::<io::Result<_>>()?;
                let count = int(&mut stream)?;
                let mut text = || string(&mut stream).map(|text| String::from_utf8_lossy(&text).into_owned());
                let settings = (0..count).map(|_| Ok((text()?, text()?))).collect::<io::Result<_>>()?;
                shared.lock().unwrap().received = Some(ReceivedOptions { numbers, settings });
                answer(&mut stream, At::Options, &ints(&[LAST]))?;
            }
            31 => {
                let paths = list(&mut stream)?;
                let all: Vec<u8> = paths.iter().flat_map(|path| word(path)).collect();
                answer(&mut stream, At::Query, &[ints(&[LAST, paths.len() as u64]), all].concat())?;
            }
            other => panic!("operation {other} is not in the play"),
        }
    }
}

fn int(stream: &mut UnixStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn string(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let length = int(stream)? as usize;
    let mut bytes = vec![0; length.next_multiple_of(8)];
    stream.read_exact(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn list(stream: &mut UnixStream) -> io::Result<Vec<Vec<u8>>> {
    (0..int(stream)?).map(|_| string(stream)).collect()
}
