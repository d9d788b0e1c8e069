//! The thread of a session: one connection, the slots that it holds, and what it does when the connection is lost.
//!
//! A lost connection is opened again after [`RECONNECT_MIN`], and then at intervals that grow to [`RECONNECT_MAX`]. Builds
//! that run take a slot again then, even of a drained host, and before builds that wait. If there is none, because other
//! heads took it meanwhile, the attempt is repeated at each heartbeat.

use std::collections::BTreeMap;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;

use super::connection::{HEARTBEAT, Report, check_version, open, within};
use super::keys::Place;
use super::messages::{Build, Command, Entered, Outcome, View};
use super::{CONNECT_TIMEOUT, Error, statements};
use crate::machine::SharedPool;
use crate::state::shared_pool::HeadName;

/// How soon a lost connection is opened again.
const RECONNECT_MIN: Duration = Duration::from_millis(500);
/// The longest interval of attempts.
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// How often a build that waits renews its place, which is valid for five seconds.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);

/// How long a heartbeat may take before the connection counts as lost.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

/// A slot, or the wish for one.
struct Held {
    place: Place,
    build: Build,
    /// `None`: the connection was lost, and the slot has not been taken again.
    slot: Option<i32>,
}

/// A connection.
struct Connected {
    client: Client,
    number: u64,
    /// The number of the server's process.
    backend: i32,
}

pub(super) struct Worker {
    shared: SharedPool,
    head: HeadName,
    view: Arc<Mutex<View>>,
    requests: UnboundedReceiver<Command>,
    reports: (UnboundedSender<Report>, UnboundedReceiver<Report>),
    connected: Option<Connected>,
    connections: u64,
    held: BTreeMap<u64, Held>,
    waiting: Option<(Vec<String>, Build)>,
    /// Whether the session listens for slots that are released.
    listens: bool,
    next_tick: Instant,
    reconnect: Duration,
}

enum Wake {
    Request(Option<Command>),
    Report(Option<Report>),
    Tick,
}

impl Worker {
    pub fn new(
        shared: SharedPool,
        head: HeadName,
        view: Arc<Mutex<View>>,
        requests: UnboundedReceiver<Command>,
    ) -> Worker {
        Worker {
            shared,
            head,
            view,
            requests,
            reports: unbounded_channel(),
            connected: None,
            connections: 0,
            held: BTreeMap::new(),
            waiting: None,
            listens: false,
            next_tick: Instant::now() + HEARTBEAT,
            reconnect: RECONNECT_MIN,
        }
    }

    /// Serves requests until there can be no more.
    pub async fn run(mut self) {
        loop {
            match self.wake().await {
                Wake::Request(None) => return,
                Wake::Request(Some(command)) => self.serve(command).await,
                Wake::Report(Some(Report::Released(host))) => self.view().released(&host),
                Wake::Report(Some(Report::Lost(number))) => {
                    if self.connected.as_ref().is_some_and(|connected| connected.number == number) {
                        self.lose();
                    }
                }
                Wake::Report(None) => {}
                Wake::Tick => self.tick().await,
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let is_busy = !self.held.is_empty() || self.waiting.is_some();
        let tick = self.next_tick;
        let (requests, reports) = (&mut self.requests, &mut self.reports.1);
        let mut timer = std::pin::pin!(sleep_until(tick));
        std::future::poll_fn(|context| {
            use std::task::Poll;
            if let Poll::Ready(request) = requests.poll_recv(context) {
                return Poll::Ready(Wake::Request(request));
            }
            if let Poll::Ready(report) = reports.poll_recv(context) {
                return Poll::Ready(Wake::Report(report));
            }
            if is_busy && timer.as_mut().poll(context).is_ready() {
                return Poll::Ready(Wake::Tick);
            }
            Poll::Pending
        })
        .await
    }

    async fn serve(&mut self, command: Command) {
        match command {
            Command::Enter(reply) => {
                let result = within(CONNECT_TIMEOUT, self.enter()).await;
                // The caller may have given up.
                let _ = reply.send(result);
            }
            Command::Take(id, place, build, reply) => {
                let result = within(CONNECT_TIMEOUT, self.take_with_reconnect(&place, &build)).await;
                match &result {
                    Ok(Outcome::Slot(slot)) => {
                        self.waiting = None;
                        self.held.insert(id, Held { place, build, slot: Some(*slot) });
                        self.schedule();
                    }
                    Ok(Outcome::Full | Outcome::Drained) => self.view().full(&place.host),
                    Err(_) => self.lose(),
                }
                if let Err(std::sync::mpsc::SendError(Ok(Outcome::Slot(_)))) = reply.send(result) {
                    self.release(id).await;
                }
            }
            Command::Adopt(id, place, build) => {
                // The build has begun, so it waits no more.
                self.waiting = None;
                // A reply that came too late may have brought its slot.
                self.held.entry(id).or_insert(Held { place, build, slot: None });
                if self.connected.is_none() {
                    self.schedule_reconnect();
                } else {
                    self.next_tick = Instant::now();
                }
            }
            Command::Release(id, reply) => {
                self.release(id).await;
                let _ = reply.send(());
            }
            Command::Wait(hosts, build) => {
                let is_new = self.waiting.is_none();
                self.waiting = Some((hosts, build));
                if is_new {
                    self.next_tick = Instant::now();
                }
            }
            Command::Leave => {
                self.waiting = None;
                if self.held.is_empty() {
                    // The session ends, and its place with it.
                    self.disconnect();
                }
            }
        }
    }

    /// Connects, or asks again over the connection. If the server has closed it, another one is opened.
    async fn enter(&mut self) -> Result<Entered, Error> {
        let is_reused = self.connected.is_some();
        match self.connect().await {
            Err(Error::Unreachable(_)) if is_reused => {
                self.lose();
                self.connect().await
            }
            result => result,
        }
    }

    /// Takes a slot. If the server has closed the connection since its last use, another one is opened.
    async fn take_with_reconnect(&mut self, place: &Place, build: &Build) -> Result<Outcome, Error> {
        let is_reused = self.connected.is_some();
        match self.take(place, build, false).await {
            Err(Error::Unreachable(_)) if is_reused => {
                self.lose();
                self.take(place, build, false).await
            }
            result => result,
        }
    }

    /// Connects, unless it is connected, and records that this head is here.
    async fn connect(&mut self) -> Result<Entered, Error> {
        if let Some(connected) = &self.connected {
            return statements::enter(&connected.client, &self.shared.name, &self.head).await;
        }
        self.connections += 1;
        let (number, reports) = (self.connections, self.reports.0.clone());
        let client = open(&self.shared, CONNECT_TIMEOUT, number, Some(reports)).await?;
        check_version(&client).await?;
        let entered = statements::enter(&client, &self.shared.name, &self.head).await?;
        self.connected = Some(Connected { client, number, backend: entered.backend });
        self.view().is_connected = true;
        self.listens = false;
        self.reconnect = RECONNECT_MIN;
        Ok(entered)
    }

    async fn take(&mut self, place: &Place, build: &Build, again: bool) -> Result<Outcome, Error> {
        let is_same = |held: &&Held| held.place.key == place.key;
        let mine: Vec<i32> = self.held.values().filter(is_same).filter_map(|held| held.slot).collect();
        if self.connected.is_none() {
            self.connect().await?;
        }
        let Some(connected) = &self.connected else { return Err(Error::Silent(0)) };
        let head = (self.shared.name.as_str(), &self.head);
        statements::take(&connected.client, head, place, &mine, again, build).await
    }

    async fn release(&mut self, id: u64) {
        let Some(held) = self.held.remove(&id) else { return };
        let (Some(connected), Some(slot)) = (&self.connected, held.slot) else { return };
        let release = statements::release(&connected.client, &self.shared.name, &held.place, slot);
        if within(HEARTBEAT_TIMEOUT, release).await.is_err() {
            self.lose();
        }
    }

    /// Does what is due: a heartbeat, a renewal, or another attempt to connect.
    async fn tick(&mut self) {
        if self.connected.is_none() {
            if within(CONNECT_TIMEOUT, self.connect()).await.is_err() {
                self.reconnect = (self.reconnect * 2).min(RECONNECT_MAX);
                return self.schedule_reconnect();
            }
            log::info!("connected with the shared pool '{}' again", self.shared.name);
        }
        match within(HEARTBEAT_TIMEOUT, self.beat()).await {
            Ok(()) => self.schedule(),
            Err(error) => {
                log::debug!("the session with the shared pool is lost: {error}");
                self.lose();
            }
        }
    }

    async fn beat(&mut self) -> Result<(), Error> {
        let missing: Vec<u64> = self.held.iter().filter(|(_, held)| held.slot.is_none()).map(|(id, _)| *id).collect();
        for id in missing {
            let Some(held) = self.held.get(&id) else { continue };
            let (place, build) = (held.place.clone(), held.build.clone());
            if let Outcome::Slot(slot) = self.take(&place, &build, true).await?
                && let Some(held) = self.held.get_mut(&id)
            {
                held.slot = Some(slot);
            }
        }
        let Some(connected) = &self.connected else { return Ok(()) };
        if let Some((hosts, build)) = &self.waiting {
            if !self.listens {
                let listen = connected.client.batch_execute("listen offload");
                listen.await.map_err(|error| super::connection::classify(&error))?;
                self.listens = true;
            }
            let head = (self.shared.name.as_str(), &self.head);
            let drains = statements::wait(&connected.client, head, hosts, build).await?;
            self.view().drained(drains);
        } else if statements::backend(&connected.client).await? != connected.backend {
            return Err(Error::Pooled);
        }
        Ok(())
    }

    /// Forgets the connection, and plans the next one if it is needed.
    fn lose(&mut self) {
        self.disconnect();
        self.held.values_mut().for_each(|held| held.slot = None);
        self.reconnect = RECONNECT_MIN;
        self.schedule_reconnect();
    }

    fn disconnect(&mut self) {
        self.connected = None;
        self.view().is_connected = false;
    }

    fn schedule(&mut self) {
        let interval = if self.waiting.is_some() { RENEW_INTERVAL } else { HEARTBEAT };
        self.next_tick = Instant::now() + interval;
    }

    /// Heads that lost the database at the same time do not return at the same time.
    fn schedule_reconnect(&mut self) {
        let spread = f64::from(process::id() % 100) / 200.0;
        self.next_tick = Instant::now() + self.reconnect.mul_f64(1.0 + spread);
    }

    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
