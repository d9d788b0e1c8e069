//! A session with the database, in a thread of its own.
//!
//! The thread outlives the loss of the connection: while this process holds slots or waits, it connects again and takes
//! them again (`worker.rs`). It ends when the [`Session`] and all its slots are dropped.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::keys::Place;
use super::messages::{Build, Command, Entered, Outcome, View};
use super::worker::Worker;
use super::{CONNECT_TIMEOUT, Error};
use crate::machine::SharedPool;
use crate::state::shared_pool::HeadName;

/// How long a process waits until a slot is released. The end of the process releases it, too.
const RELEASE_WAIT: Duration = Duration::from_millis(100);

/// A session; a clone is the same one.
#[derive(Clone)]
pub(super) struct Session {
    commands: UnboundedSender<Command>,
    view: Arc<Mutex<View>>,
}

impl Session {
    /// Starts the thread, which does not connect yet.
    pub fn start(shared: &SharedPool, head: &HeadName) -> Result<Session, Error> {
        let (commands, requests) = unbounded_channel();
        let view = Arc::new(Mutex::new(View::default()));
        let worker = Worker::new(shared.clone(), head.clone(), Arc::clone(&view), requests);
        let run = move || {
            let runtime = match Builder::new_current_thread().enable_io().enable_time().build() {
                Ok(runtime) => runtime,
                Err(error) => return log::debug!("no runtime for the shared pool: {error}"),
            };
            runtime.block_on(worker.run());
            // A name that is still being resolved is not awaited.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("shared".to_owned()).spawn(run);
        thread.map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Session { commands, view })
    }

    /// Connects.
    pub fn enter(&self) -> Result<Entered, Error> {
        self.ask(Command::Enter)
    }

    /// Takes a slot of `place`. It has the number `id` from now on.
    pub fn take(&self, id: u64, place: Place, build: Build) -> Result<Outcome, Error> {
        self.ask(|reply| Command::Take(id, place, build, reply))
    }

    /// Takes a slot in the background, as soon as the database can be used.
    pub fn adopt(&self, id: u64, place: Place, build: Build) {
        self.send(Command::Adopt(id, place, build));
    }

    /// Releases a slot. Others hear of it only if it is released before this process ends.
    pub fn release(&self, id: u64) {
        let (sender, reply) = sync_channel(1);
        self.send(Command::Release(id, sender));
        let _ = reply.recv_timeout(RELEASE_WAIT);
    }

    /// Announces that the build waits for `hosts`.
    pub fn wait(&self, hosts: Vec<String>, build: Build) {
        self.send(Command::Wait(hosts, build));
    }

    /// Announces that the build does not wait here any more.
    pub fn leave(&self) {
        self.send(Command::Leave);
    }

    /// Returns whether there is a connection that is not known to be lost.
    pub fn is_connected(&self) -> bool {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).is_connected
    }

    /// Returns whether the host may have a free slot.
    pub fn may_be_free(&self, host: &str) -> bool {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).may_be_free(host)
    }

    /// Returns the list of drained hosts, as JSON, if there is a new one.
    pub fn take_drains(&self) -> Option<String> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).take_drains()
    }

    fn send(&self, command: Command) {
        // Without its thread, the session has no slots either.
        let _ = self.commands.send(command);
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<Result<T, Error>>) -> Command) -> Result<T, Error> {
        let (sender, reply): (_, Receiver<_>) = sync_channel(1);
        self.send(command(sender));
        // The thread observes the limit itself, unless it has no processor.
        let limit = CONNECT_TIMEOUT + Duration::from_millis(200);
        reply.recv_timeout(limit).unwrap_or(Err(Error::Silent(CONNECT_TIMEOUT.as_secs())))
    }
}
