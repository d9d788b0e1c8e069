//! The table of attempts of a hostile machine, with the messages about them. `doc/contributing/hostile-cases.md` is printed from
//! it.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use offload::internals::gcrypt::SigningKey;

use super::archive::{Item, directory, executable, file, file_of, ints, link, nar, word};
use super::peer::{At, ERROR, LAST, MAGIC, NEXT, Play, READ, WRITE, frames};

/// The environment of a case.
pub struct Scene {
    /// The requested output. Its derivation has only the input `input`; `fixed` is whether it is that of the fixed one.
    pub output: String,
    pub derivation: String,
    pub input: String,
    /// The key that the head trusts, and one that it does not.
    pub trusted: SigningKey,
    pub stranger: SigningKey,
}

impl Scene {
    /// An honest item.
    pub fn item(&self) -> Item {
        let references = vec![self.input.clone()];
        Item { nar: nar(&file(b"hello\n")), path: self.output.clone(), references, deriver: self.derivation.clone() }
    }

    /// An item of which only the nar is not honest, signed.
    fn tree(&self, root: &[u8]) -> Play {
        Play::exports(&Item { nar: nar(root), ..self.item() }.signed(&self.trusted))
    }

    /// A directory that holds one file of this name.
    fn name(&self, name: &[u8]) -> Play {
        self.tree(&directory(&[(name, file(b"x"))]))
    }

    fn signed(&self, item: &Item) -> Play {
        Play::exports(&item.signed(&self.trusted))
    }
}

/// What else is not as usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum But {
    #[default]
    Nothing,
    /// The derivation is of a fixed output: the file `hello` and a line break, by SHA-256.
    Fixed,
    /// The access-control list has the machine's key with another tag.
    OtherPurpose,
    /// A builder may be silent for four seconds.
    MaxSilentTime,
    /// A build may take two seconds.
    Timeout,
    /// The machine fails before the hook has replied, so the hook postpones the build.
    BeforeReply,
}

/// A case.
pub struct Case {
    /// The attempt of the machine.
    pub what: &'static str,
    /// A part of the message to the client.
    pub says: &'static str,
    pub but: But,
    pub play: fn(&Scene) -> Play,
}

impl Case {
    /// The status that the client gets: 101 where the daemon of the head ended it for its time, else 1.
    pub fn status(&self) -> u32 {
        if self.but == But::Timeout { 101 } else { 1 }
    }
}

macro_rules! cases {
    ($($title:literal: $({ $what:literal, $says:literal $(; $but:ident)?, $play:expr })*)*) => {
        /// All of them, by what they are about.
        pub const CASES: &[(&str, &[Case])] = &[$(($title, &[$(
            Case { what: $what, says: $says, but: cases!(@ $($but)?), play: $play },
        )*])),*];
    };
    (@) => { But::Nothing };
    (@ $but:ident) => { But::$but };
}

const FOO: &str = "/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo";

cases! {
    "The fields of the archive":
    { "an item that was not requested", "is rejected: it is another item, '/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo'",
        |scene| scene.signed(&Item { path: FOO.to_owned(), ..scene.item() }) }
    { "an invalid path: `/gnu/store/..`", "'/gnu/store/..' is not a store path",
        |scene| scene.signed(&Item { path: "/gnu/store/..".to_owned(), ..scene.item() }) }
    { "a path outside the store: `/etc/passwd`", "'/etc/passwd' is not directly inside the store '/gnu/store'",
        |scene| scene.signed(&Item { path: "/etc/passwd".to_owned(), ..scene.item() }) }
    { "a second item behind the first", "there are data after the end of the item",
        |scene| Play::exports(&scene.item().signed(&scene.trusted).repeat(2)) }
    { "a second item in a separate frame", "there are data after the end of the item",
        |scene| { let item = frames(&scene.item().signed(&scene.trusted)); Play::says(At::Export, [item.repeat(2), ints(&[LAST, 1])].concat()) } }
    { "a bundle instead of an item", "invalid nar, at byte 0: expected 'nix-archive-1', found '",
        |scene| Play::exports(&[ints(&[1]), scene.item().signed(&scene.trusted), ints(&[0])].concat()) }
    { "a reference to an item that is not an input", "it refers to '/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo', which is neither an input nor an output",
        |scene| scene.signed(&Item { references: vec![FOO.to_owned()], ..scene.item() }) }
    { "a reference to `/gnu/store/..`", "in the references, at byte",
        |scene| scene.signed(&Item { references: vec!["/gnu/store/..".to_owned()], ..scene.item() }) }
    { "a reference twice", "are not sorted, or one is there twice",
        |scene| scene.signed(&Item { references: vec![scene.input.clone(), scene.input.clone()], ..scene.item() }) }
    { "a list of 2^60 references", "a list of 1152921504606846976 strings is longer than the 65536 allowed here",
        |scene| Play::exports(&[scene.item().nar, ints(&[0x4558_494e]), word(scene.output.as_bytes()), ints(&[1 << 60])].concat()) }
    { "a deriver that is not a path", "in the deriver, at byte",
        |scene| scene.signed(&Item { deriver: "../../tmp/x".to_owned(), ..scene.item() }) }

    "The signature":
    { "no signature", "it lacks a signature",
        |scene| Play::exports(&scene.item().unsigned()) }
    { "other data instead of a signature", "signature is not a valid s-expression: invalid s-expression, at byte 0",
        |scene| Play::exports(&scene.item().with_signature(b"signed, me")) }
    { "an s-expression that is not a signature", "corrupt signature data",
        |scene| Play::exports(&scene.item().with_signature(b"(signature (data) (sig-val) (public-key))")) }
    { "a thousand nested lists", "lists are nested too deep",
        |scene| Play::exports(&scene.item().with_signature(&b"(".repeat(1000))) }
    { "a signature of a gigabyte", "a string of 1073741824 bytes is longer than the 16384 allowed here",
        |scene| Play::exports(&[scene.item().body(), ints(&[1, 1 << 30])].concat()) }
    { "a valid signature of other contents", "its signature does not match its contents: invalid hash",
        |scene| Play::exports(&scene.item().with_signature(&Item { nar: nar(&file(b"hallo\n")), ..scene.item() }.signature(&scene.trusted))) }
    { "a valid signature of the same contents at another path", "its signature does not match its contents: invalid hash",
        |scene| Play::exports(&scene.item().with_signature(&Item { path: FOO.to_owned(), ..scene.item() }.signature(&scene.trusted))) }
    { "a signature with the numbers of another one", "invalid signature: ",
        |scene| Play::exports(&scene.item().with_signature(&mixed(scene))) }
    { "a signature by a key that is not authorized", "it is signed with a key that is not authorized here",
        |scene| Play::exports(&scene.item().signed(&scene.stranger)) }
    { "a stranger's signature that names the authorized key", "invalid signature: ",
        |scene| Play::exports(&scene.item().with_signature(&renamed(scene))) }
    { "a signature by a key that is on the list for another purpose", "/etc/guix/acl' is not a valid list of keys: invalid access-control list"; OtherPurpose,
        |scene| Play::exports(&scene.item().signed(&scene.trusted)) }

    "Names and trees":
    { "an entry `..`", "bad name '..': it stands for a directory", |scene| scene.name(b"..") }
    { "an entry `.`", "bad name '.': it stands for a directory", |scene| scene.name(b".") }
    { "an entry `/`", "bad name '/': it has a slash", |scene| scene.name(b"/") }
    { "an entry `../../etc/passwd`", "bad name '../../etc/passwd': it has a slash", |scene| scene.name(b"../../etc/passwd") }
    { "an entry without a name", "bad name '': it is empty", |scene| scene.name(b"") }
    { "an entry with a NUL in its name", r"bad name 'a\x00b': it has a NUL", |scene| scene.name(b"a\0b") }
    { "an entry with a name of 256 bytes", "a string of 256 bytes is longer than the 255 allowed here", |scene| scene.name(&[b'x'; 256]) }
    { "an entry twice", "the entries are out of order: 'a' comes after 'a'",
        |scene| scene.tree(&directory(&[(b"a", file(b"1")), (b"a", file(b"2"))])) }
    { "entries that are not sorted", "the entries are out of order: 'a' comes after 'b'",
        |scene| scene.tree(&directory(&[(b"b", file(b"1")), (b"a", file(b"2"))])) }
    { "a file where a directory was", "the entries are out of order: 'a' comes after 'a'",
        |scene| scene.tree(&directory(&[(b"a", directory(&[(b"b", file(b"1"))])), (b"a", file(b"2"))])) }
    { "a symbolic link to `/tmp`, and then a directory of its name with a file in it", "the entries are out of order: 'a' comes after 'a'",
        |scene| scene.tree(&directory(&[(b"a", link(b"/tmp")), (b"a", directory(&[(b"evil", file(b"1"))]))])) }
    { "a symbolic link to `/tmp`, and then a file below it", "bad name 'a/evil': it has a slash",
        |scene| scene.tree(&directory(&[(b"a", link(b"/tmp")), (b"a/evil", file(b"1"))])) }
    { "a symbolic link to nothing", "the target of a symbolic link is empty", |scene| scene.tree(&link(b"")) }
    { "a symbolic link with a NUL", "the target of a symbolic link has a NUL", |scene| scene.tree(&link(b"a\0b")) }
    { "a symbolic link of 5000 bytes", "a string of 5000 bytes is longer than the 4095 allowed here", |scene| scene.tree(&link(&[b'x'; 5000])) }
    { "17 nested directories, with names of 255 bytes", "the path that it ends is longer than 4095 bytes",
        |scene| scene.tree(&(0..17).fold(file(b"x"), |inside, _| directory(&[(&[b'd'; 255], inside)]))) }
    { "a device", "expected a type of file, found 'block'",
        |scene| scene.tree(&[word(b"("), word(b"type"), word(b"block"), word(b")")].concat()) }
    { "padding that is not zero", "the padding after a string is not zero",
        |scene| { let mut root = file(b"hello\n"); let at = root.len() - 17; root[at] = 1; scene.tree(&root) } }

    "Sizes":
    { "a file that is shorter than its announced size", "invalid nar, at byte", |scene| scene.tree(&file_of(16, b"hello\n")) }
    { "a file that is longer than its announced size", "the padding after a string is not zero", |scene| scene.tree(&file_of(3, b"hello\n")) }
    { "a file of 64 MiB, of which it sends a few bytes", "the nar ends early, at byte", |scene| scene.tree(&file_of(64 << 20, b"hello\n")) }
    { "a file of a tebibyte", "1073741828 KiB do not fit into the file system of the store, where ",
        |scene| scene.tree(&file_of(1 << 40, b"hello\n")) }
    { "an endless number of files", "do not fit into the file system of the store, where ", |_| without_end(file(&[b'x'; 1 << 20])) }
    { "an endless number of empty files", "free inodes, and ", |_| without_end(file(b"")) }
    { "a file of 2^64 - 1 bytes", "a file of 18446744073709551615 bytes is too large", |scene| scene.tree(&file_of(u64::MAX, b"hello\n")) }
    { "64 MiB of a file, and then the end of the connection", "the connection to the daemon failed",
        |scene| huge(Item { nar: nar(&file_of(80 << 20, b"")), ..scene.item() }) }
    { "a cut archive, and the daemon reports its end", "the nar ends early, at byte",
        |scene| Play::exports(&scene.item().nar[..60]) }
    { "a cut archive, and the connection ends", "the connection to the daemon failed",
        |scene| Play::ends(At::Export, frames(&scene.item().nar[..60])) }
    { "nothing, and the daemon reports the end", "the nar ends early, at byte 0",
        |_| Play::exports(b"") }

    "Fixed outputs":
    { "contents with another hash than the declared one", "sha256 hash mismatch for '"; Fixed,
        |scene| scene.signed(&Item { nar: nar(&file(b"hallo\n")), references: vec![], ..scene.item() }) }
    { "an executable where a file's hash is declared", "must be a regular file that is not executable, since its hash is that of its bytes"; Fixed,
        |scene| scene.signed(&Item { nar: nar(&executable(b"hello\n")), references: vec![], ..scene.item() }) }
    { "a symbolic link to a file with that hash", "must be a regular file that is not executable, since its hash is that of its bytes"; Fixed,
        |scene| scene.signed(&Item { nar: nar(&link(b"/etc/passwd")), references: vec![], ..scene.item() }) }

    "The protocol of the daemon":
    { "another protocol", "is this guix-daemon?"; BeforeReply, |_| Play::says(At::Greeting, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()) }
    { "an old version", "protocol version 0x162; 0x163 to 0x164 are understood"; BeforeReply, |_| Play::says(At::Greeting, ints(&[MAGIC, 0x162, LAST])) }
    { "a version of another kind", "protocol version 0x264; 0x163 to 0x164 are understood"; BeforeReply, |_| Play::says(At::Greeting, ints(&[MAGIC, 0x264, LAST])) }
    { "endless log text instead of a greeting", "more than 1048576 bytes of log text where nothing is built"; BeforeReply,
        |_| Play::new(At::Greeting, |stream| { stream.write_all(&ints(&[MAGIC, 0x164]))?; text(stream) }) }
    { "endless log text instead of a reply", "more than 1048576 bytes of log text where nothing is built", |_| Play::new(At::Query, text) }
    { "endless log text instead of an item", "more than 1048576 bytes of log text where nothing is built", |_| Play::new(At::Export, text) }
    { "an endless build log", "timed out"; Timeout, |_| Play::new(At::Build, text) }
    { "a line of 4 GiB", "a frame of 4294967295 bytes", |_| Play::says(At::Query, ints(&[NEXT, 0xffff_ffff])) }
    { "a line of 2^40 bytes", "0x10000000000 does not fit into 32 bits", |_| Play::says(At::Query, ints(&[NEXT, 1 << 40])) }
    { "a message of 4 GiB", "a string of 4294967295 bytes is longer than the 1048576 allowed here", |_| Play::says(At::Options, ints(&[ERROR, 0xffff_ffff])) }
    { "a message with control characters for the terminal", r"the daemon says: \u{1b}[2Jgone\u{d}# accept", |_| Play::says(At::Options, [ints(&[ERROR]), word(b"\x1b[2Jgone\r# accept"), ints(&[1])].concat()) }
    { "a list of 2^60 paths", "a list of 1152921504606846976 strings is longer than the", |_| Play::says(At::Query, ints(&[LAST, 1 << 60])) }
    { "a path that was not in the query", "which was not queried", |_| Play::says(At::Query, [ints(&[LAST, 1]), word(FOO.as_bytes())].concat()) }
    { "an invalid path", "'/gnu/store/..' is not a store path", |_| Play::says(At::Query, [ints(&[LAST, 1]), word(b"/gnu/store/..")].concat()) }
    { "unexpected data", "Write(8)", |_| Play::says(At::Query, ints(&[WRITE, 8, 0])) }
    { "an unexpected request for data", "Read(32768)", |_| Play::says(At::Export, ints(&[READ, 32768])) }
    { "a frame that does not exist", "a frame of type 0x6f6c6d68", |_| Play::says(At::Build, ints(&[0x6f6c_6d68])) }
    { "a report of success with an invalid number", "2 instead of 1", |_| Play::says(At::Build, ints(&[LAST, 2])) }
    { "a report of success, and then that there is no output", "the daemon says: path is not valid", |_| Play::says(At::Export, [ints(&[ERROR]), word(b"path is not valid"), ints(&[1])].concat()) }
    { "half a reply, and the connection ends", "the connection to the daemon failed", |_| Play::ends(At::Query, ints(&[LAST])[..5].to_vec()) }

    "Silence":
    { "no greeting", "it has not responded within 2 s"; BeforeReply, |_| Play::is_silent(At::Greeting) }
    { "a greeting of one byte at a time, slowly", "it has not responded within 2 s"; BeforeReply, |_| Play::new(At::Greeting, trickle) }
    { "no reply", "its daemon has been silent for 7 s"; MaxSilentTime, |_| Play::is_silent(At::Query) }
    { "no item", "its daemon has been silent for 7 s"; MaxSilentTime, |_| Play::is_silent(At::Export) }
}

fn text(stream: &mut std::os::unix::net::UnixStream) -> io::Result<()> {
    let piece = [ints(&[NEXT]), word(&b"a line like any other\n".repeat(1000))].concat().repeat(4);
    loop {
        stream.write_all(&piece)?;
    }
}

fn trickle(stream: &mut std::os::unix::net::UnixStream) -> io::Result<()> {
    for byte in ints(&[MAGIC, 0x164, LAST]) {
        stream.write_all(&[byte])?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Returns an item with a file of 64 MiB.
fn huge(item: Item) -> Play {
    // Up to the padding and the end of the node, of which nothing is sent.
    let start = item.nar.len() - word(b")").len();
    Play::new(At::Export, move |stream| {
        stream.write_all(&frames(&item.nar[..start]))?;
        let piece = frames(&[b'x'; 64 << 10]);
        for _ in 0..64 * 16 {
            stream.write_all(&piece)?;
        }
        Err(io::ErrorKind::BrokenPipe.into())
    })
}

/// A directory that has one entry after the other, all of them like `node`.
fn without_end(node: Vec<u8>) -> Play {
    let end = word(b")").len();
    let start = directory(&[]).len() - end;
    Play::new(At::Export, move |stream| {
        stream.write_all(&frames(&nar(&directory(&[])[..start])))?;
        for number in 0.. {
            let whole = directory(&[(format!("{number:08}").as_bytes(), node.clone())]);
            stream.write_all(&frames(&whole[start..whole.len() - end]))?;
        }
        Ok(())
    })
}

/// The right digest and key with the numbers of another signature.
fn mixed(scene: &Scene) -> Vec<u8> {
    let good = scene.item().signature(&scene.trusted);
    let other = Item { path: FOO.to_owned(), ..scene.item() }.signature(&scene.trusted);
    replaced(&good, &other, b"(sig-val", b"(public-key")
}

/// A stranger's signature with the public key of the machine.
fn renamed(scene: &Scene) -> Vec<u8> {
    let (good, other) = (scene.item().signature(&scene.trusted), scene.item().signature(&scene.stranger));
    replaced(&good, &other, b"(sig-val", b"(public-key")
}

/// Returns `text` with the part between two marks from `other`.
fn replaced(text: &[u8], other: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let find = |text: &[u8], mark: &[u8]| text.windows(mark.len()).position(|window| window == mark).unwrap();
    [&text[..find(text, from)], &other[find(other, from)..find(other, to)], &text[find(text, to)..]].concat()
}
