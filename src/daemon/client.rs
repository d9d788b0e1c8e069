//! A connection to a daemon and its operations; importing and exporting have files of their own.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::build_trace::TraceSink;
use super::error::Error;
use super::frames::{FrameStream, Log};
use super::operation::{Operation, WireRequest};
use super::options::Options;
use super::version::{OLDEST, VERSION, Version};
use crate::store::base16;
use crate::store::path::{StoreDir, StorePath};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;
/// The limit of references, or other paths, in one list from the daemon.
pub(super) const MAX_PATHS: usize = 1 << 17;

/// The daemon's record of a valid store item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    pub deriver: Option<StorePath>,
    /// SHA-256 of its nar.
    pub nar_hash: [u8; 32],
    pub references: BTreeSet<StorePath>,
    /// Seconds since the epoch.
    pub registration_time: u32,
    /// Length of its nar, in bytes.
    pub nar_size: u64,
}

/// The limit of items that refer to one item.
const MAX_REFERRERS: usize = 1 << 17;

/// The action of `Client::collect_garbage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// Return the live items.
    Live,
    /// Return the dead items.
    Dead,
    /// Delete all dead items.
    Delete,
    /// Delete the given items, if they are dead.
    DeleteThese,
}

/// A connection to a daemon.
pub struct Client<S> {
    pub(super) link: FrameStream<S>,
    pub(super) store: StoreDir,
    version: Version,
    round_trip: Duration,
}

impl<S: Read + Write> Client<S> {
    /// Greets the daemon behind `stream`, in one round trip. Its store must be `store`.
    pub fn connect(stream: S, store: StoreDir) -> Result<Client<S>, Error> {
        let start = Instant::now();
        let mut link = FrameStream::new(stream);
        // The daemon reads all of this before it begins to work, so none of it is sent ahead.
        let no_affinity = 0u64;
        let reserve_space = 1u64;
        let greeting = [CLIENT_MAGIC, u64::from(VERSION.0), no_affinity, reserve_space];
        link.send(&greeting.map(u64::to_le_bytes).concat())?;
        let magic = link.u64()?;
        if magic != DAEMON_MAGIC {
            return Err(link.unexpected(format!("{magic:#x} for a greeting; is this guix-daemon?")));
        }
        let version = Version(link.int()?);
        if version.major() != VERSION.major() || version < OLDEST {
            return Err(Error::OtherVersion { operation: "handshake", version });
        }
        link.last()?;
        Ok(Client { link, store, version, round_trip: start.elapsed() })
    }

    /// Makes a client of a daemon that was greeted before, from the stream of [`into_stream`](Client::into_stream) and
    /// the values of the earlier client.
    pub fn resume(stream: S, store: StoreDir, version: Version, round_trip: Duration) -> Client<S> {
        Client { link: FrameStream::new(stream), store, version, round_trip }
    }

    /// Returns the stream, for another client; `None` if the next byte may not begin a reply.
    pub fn into_stream(self) -> Option<S> {
        self.link.into_stream()
    }

    /// Returns the version the daemon announced; operations are those of the lower of the two.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the stream, to set its limits. Reading or writing there breaks the protocol.
    pub fn stream_mut(&mut self) -> &mut S {
        self.link.stream_mut()
    }

    /// Returns the shortest time that an operation has taken so far: a round trip of the link, and a little more.
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Returns the store of the daemon.
    pub fn store(&self) -> &StoreDir {
        &self.store
    }

    /// Returns whether the next operation can succeed: false once the link failed or the protocol was broken.
    pub fn is_usable(&self) -> bool {
        self.link.is_usable()
    }

    /// Sends log text to `log` from now on; before the first call, and with `None`, it is dropped.
    pub fn set_log(&mut self, log: Option<Log>) {
        self.link.set_log(log, None);
    }

    /// Sends log text to `log` and the build trace to `trace`, for a daemon whose [`Options`] have a build trace and
    /// multiplexed output: `log` gets the output of builders and the daemon's messages.
    pub fn set_build_log(&mut self, log: Log, trace: TraceSink) {
        self.link.set_log(Some(log), Some(trace));
    }

    /// Calls `callback` at the beginning of each request from now on.
    pub fn on_request(&mut self, callback: Box<dyn FnMut() + Send>) {
        self.link.on_request(callback);
    }

    /// Sets the options of this connection from now on.
    pub fn set_options(&mut self, options: &Options) -> Result<(), Error> {
        let settings = options.settings();
        let request = WireRequest::new(Operation::SetOptions)
            .bool(options.keep_failed)
            .bool(options.keep_going)
            .bool(options.fallback)
            .int(options.verbosity)
            .bool(options.offload)
            .int(0) // Verbosity from which on builders' output is shown: always.
            .int(0) // Type of the log: plain.
            .bool(options.print_build_trace)
            .bool(options.use_substitutes)
            .u64(settings.len() as u64);
        let request = settings
            .iter()
            .fold(request, |request, (name, value)| request.bytes(name.as_bytes()).bytes(value.as_bytes()));
        self.call(&request, |_, _| Ok(()))
    }

    pub fn is_valid_path(&mut self, path: &StorePath) -> Result<bool, Error> {
        self.call(&WireRequest::new(Operation::IsValidPath).path(path), |link, _| link.bool())
    }

    /// Returns those of `paths` that are valid.
    pub fn query_valid_paths(&mut self, paths: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, Error> {
        self.query_subset(Operation::QueryValidPaths, paths)
    }

    /// Returns the valid items that refer to `path`, which may be one of them.
    pub fn query_referrers(&mut self, path: &StorePath) -> Result<BTreeSet<StorePath>, Error> {
        self.call(&WireRequest::new(Operation::QueryReferrers).path(path), |link, store| {
            Ok(link.paths(store, MAX_REFERRERS)?.into_iter().collect())
        })
    }

    /// Makes a request whose reply is a subset of `paths`.
    pub(super) fn query_subset(
        &mut self,
        operation: Operation,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, Error> {
        self.call(&WireRequest::new(operation).paths(paths.iter()), |link, store| {
            let subset: BTreeSet<StorePath> = link.paths(store, paths.len())?.into_iter().collect();
            match subset.difference(paths).next() {
                Some(stray) => Err(link.unexpected(format!("{stray}, which was not queried"))),
                None => Ok(subset),
            }
        })
    }

    /// Returns the record of `path`; an error of the daemon if it is not valid.
    pub fn query_path_info(&mut self, path: &StorePath) -> Result<PathInfo, Error> {
        self.call(&WireRequest::new(Operation::QueryPathInfo).path(path), |link, store| {
            let deriver = link.optional_path(store)?;
            let hash = link.bytes(64)?;
            let nar_hash = base16::decode_sha256(&hash);
            Ok(PathInfo {
                deriver,
                nar_hash: nar_hash.ok_or_else(|| link.unexpected("a hash that is not SHA-256 in base 16"))?,
                references: link.paths(store, MAX_PATHS)?.into_iter().collect(),
                registration_time: link.int()?,
                nar_size: link.u64()?,
            })
        })
    }

    /// Protects `path`, which need not exist, from the garbage collector until this connection ends.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<(), Error> {
        self.call(&WireRequest::new(Operation::AddTempRoot).path(path), |link, _| link.done())
    }

    /// Makes the garbage collector keep the item to which `link`, an absolute path outside of the store, is a symbolic
    /// link, as long as it is one.
    pub fn add_indirect_root(&mut self, link: &Path) -> Result<(), Error> {
        let request = WireRequest::new(Operation::AddIndirectRoot).bytes(link.as_os_str().as_bytes());
        self.call(&request, |link, _| link.done())
    }

    /// Adds a text file, such as a derivation; it is a temporary root from then on.
    pub fn add_text_to_store(
        &mut self,
        name: &str,
        text: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<StorePath, Error> {
        let request =
            WireRequest::new(Operation::AddTextToStore).bytes(name.as_bytes()).bytes(text).paths(references.iter());
        self.call(&request, |link, store| link.path(store))
    }

    /// Adds the contents of `nar`, which the daemon reads into memory as a whole. With `recursive` false it must be one
    /// regular file, and `algorithm` hashes its bytes instead of the nar.
    pub fn add_to_store(
        &mut self,
        name: &str,
        recursive: bool,
        algorithm: &str,
        nar: &mut dyn Read,
    ) -> Result<StorePath, Error> {
        let request = WireRequest::new(Operation::AddToStore)
            .bytes(name.as_bytes())
            .int(1)
            .bool(recursive)
            .bytes(algorithm.as_bytes());
        self.link.start(&request)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let size = match nar.read(&mut buffer) {
                Ok(0) => break,
                Ok(size) => size,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The daemon reads a nar to its end; the protocol has no way to end it early.
                Err(cause) => return Err(Error::Source { operation: request.operation.name(), cause }),
            };
            if let Err(error) = self.link.send(&buffer[..size]) {
                // The daemon reports a bad nar and then closes the connection. After any other error it still waits for the
                // rest of the nar, and sends nothing.
                return Err(match error.is_closed().then(|| self.link.last()) {
                    Some(Err(reported @ Error::Daemon { .. })) => reported,
                    _ => error,
                });
            }
        }
        self.link.last()?;
        let path = self.link.path(&self.store)?;
        self.link.finish();
        Ok(path)
    }

    /// Builds derivations, or substitutes other items. The log goes to the sink. An error has status 100 if a build
    /// failed, 101 if one exceeded a time limit, else 1.
    pub fn build_paths(&mut self, paths: &BTreeSet<StorePath>) -> Result<(), Error> {
        self.start_build(paths)?;
        self.finish_build()
    }

    /// Starts a build. [`finish_build`](Client::finish_build) must follow before any other operation.
    pub fn start_build(&mut self, paths: &BTreeSet<StorePath>) -> Result<(), Error> {
        let normal_mode = 0;
        self.link.start(&WireRequest::new(Operation::BuildPaths).paths(paths.iter()).int(normal_mode))
    }

    /// Waits for the build of [`start_build`](Client::start_build).
    pub fn finish_build(&mut self) -> Result<(), Error> {
        self.link.last()?;
        self.link.done()?;
        self.link.finish();
        Ok(())
    }

    /// Returns the items that are alive, dead or deleted, and the bytes freed. It stops when `max_freed` bytes are.
    pub fn collect_garbage(
        &mut self,
        action: Garbage,
        paths: &BTreeSet<StorePath>,
        max_freed: Option<u64>,
    ) -> Result<(Vec<Vec<u8>>, u64), Error> {
        let action = match action {
            Garbage::Live => 0,
            Garbage::Dead => 1,
            Garbage::Delete => 2,
            Garbage::DeleteThese => 3,
        };
        let request = WireRequest::new(Operation::CollectGarbage)
            .int(action)
            .paths(paths.iter())
            .bool(false) // Never ignore what is alive.
            .u64(max_freed.unwrap_or(u64::MAX))
            .int(0)
            .int(0)
            .int(0);
        self.call(&request, |link, _| {
            // The names may be no store paths: the daemon also deletes and reports foreign files in the store.
            let names = link.names(MAX_PATHS)?;
            let freed = link.u64()?;
            let _obsolete = link.u64()?;
            Ok((names, freed))
        })
    }

    /// Returns whether the daemon found faults in its store, which are in the log. `contents`: hash all files.
    pub fn verify_store(&mut self, contents: bool, repair: bool) -> Result<bool, Error> {
        self.call(&WireRequest::new(Operation::VerifyStore).bool(contents).bool(repair), |link, _| link.bool())
    }

    /// Makes a request for which the daemon sends only log text before its reply.
    pub(super) fn call<T>(
        &mut self,
        request: &WireRequest,
        reply: impl FnOnce(&mut FrameStream<S>, &StoreDir) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        self.link.start(request)?;
        self.link.last()?;
        self.round_trip = self.round_trip.min(start.elapsed());
        let value = reply(&mut self.link, &self.store)?;
        self.link.finish();
        Ok(value)
    }
}
