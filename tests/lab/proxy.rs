//! A TCP proxy between loopback addresses that can be made to misbehave.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The way bytes take through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the one who connected to the target.
    ToTarget = 0,
    /// From the target.
    FromTarget = 1,
}

/// The behaviour of a proxy at a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Pass,
    Refuse,
    Silence,
}

/// Passes TCP connections on to a target. Faults apply to open connections and to new ones, at once, until changed.
pub struct Proxy {
    name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    answer: Answer,
    ended: bool,
    frozen: bool,
    delay: Duration,
    /// Bytes a second, each way and connection.
    rate: Option<u64>,
    /// The fault to apply in each direction, and the number of bytes after which it is due. All connections since the request
    /// count.
    cut_after: [Option<u64>; 2],
    flip_after: [Option<u64>; 2],
    freeze_after: [Option<u64>; 2],
    /// The delay and rate from then on.
    worsen_after: [Option<(u64, Duration, Option<u64>)>; 2],
    /// Bytes passed, per direction.
    passed: [u64; 2],
    /// How often something passed from the target after something had passed to it: round trips.
    answers: u32,
    last: Option<Direction>,
    /// How many connections there have been.
    connections: u32,
    open: Vec<TcpStream>,
}

impl Proxy {
    pub(super) fn start(name: &str, address: SocketAddr, target: SocketAddr) -> Proxy {
        let state = State {
            answer: Answer::Pass,
            ended: false,
            frozen: false,
            delay: Duration::ZERO,
            rate: None,
            cut_after: [None; 2],
            flip_after: [None; 2],
            freeze_after: [None; 2],
            worsen_after: [None; 2],
            passed: [0; 2],
            answers: 0,
            last: None,
            connections: 0,
            open: Vec::new(),
        };
        let shared = Arc::new(Shared { target, state: Mutex::new(state), changed: Condvar::new() });
        let listener = listen(address);
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(listener, address)
        });
        Proxy { name: name.to_owned(), address, shared, acceptor: Some(acceptor) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes arrive so much later, each way: half a round trip.
    pub fn delay(&self, delay: Duration) {
        self.change(|state| state.delay = delay);
    }

    /// Passes no more than so many bytes a second, each way and connection.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.change(|state| state.rate = bytes_per_second);
    }

    /// Passes nothing on and keeps all connections open.
    pub fn freeze(&self) {
        self.change(|state| state.frozen = true);
    }

    /// Passes on what has been held back, and what comes.
    pub fn thaw(&self) {
        self.change(|state| state.frozen = false);
    }

    /// Ends all open connections now.
    pub fn cut(&self) {
        self.change(State::cut);
    }

    /// Ends all open connections, once, when `count` more bytes have passed in a direction.
    pub fn cut_after(&self, direction: Direction, count: u64) {
        self.change(|state| state.cut_after[direction as usize] = Some(count));
    }

    /// Inverts one byte, once, when `count` more bytes have passed in a direction.
    pub fn flip_after(&self, direction: Direction, count: u64) {
        self.change(|state| state.flip_after[direction as usize] = Some(count));
    }

    /// Freezes when about `count` more bytes have passed in a direction: no more than that pass.
    pub fn freeze_after(&self, direction: Direction, count: u64) {
        self.change(|state| state.freeze_after[direction as usize] = Some(count));
    }

    /// Throttles when `count` more bytes have passed in a direction, both ways.
    pub fn throttle_after(&self, direction: Direction, count: u64, bytes_per_second: u64) {
        let worse = (count, Duration::ZERO, Some(bytes_per_second));
        self.change(|state| state.worsen_after[direction as usize] = Some(worse));
    }

    /// Delays when `count` more bytes have passed in a direction, both ways.
    pub fn delay_after(&self, direction: Direction, count: u64, delay: Duration) {
        self.change(|state| state.worsen_after[direction as usize] = Some((count, delay, None)));
    }

    /// Cancels faults that are not due yet. Thaws, and removes limits and delays.
    pub fn forget_faults(&self) {
        self.change(|state| {
            (state.frozen, state.delay, state.rate) = (false, Duration::ZERO, None);
            (state.cut_after, state.flip_after, state.freeze_after) = ([None; 2], [None; 2], [None; 2]);
            state.worsen_after = [None; 2];
        });
    }

    /// New connections are refused: nothing listens any more. Returns when that is so.
    pub fn refuse(&self) {
        self.change(|state| state.answer = Answer::Refuse);
        super::wait_until("the proxy refuses", super::LONG, || !super::host::listens(self.address));
    }

    /// New connections are accepted, and nothing is ever said on them.
    pub fn say_nothing(&self) {
        self.change(|state| state.answer = Answer::Silence);
    }

    /// New connections are passed on again. Returns when that is so.
    pub fn pass(&self) {
        let refused = self.shared.lock().answer == Answer::Refuse;
        self.change(|state| state.answer = Answer::Pass);
        if refused {
            super::wait_until("the proxy listens", super::LONG, || super::host::listens(self.address));
        }
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u32 {
        self.shared.lock().connections
    }

    /// How often the target spoke after it had been spoken to, over all connections: the round trips of those who wait
    /// for each answer.
    pub fn answers(&self) -> u32 {
        self.shared.lock().answers
    }

    /// How many bytes have passed in a direction.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.lock().passed[direction as usize]
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|state| {
            state.ended = true;
            state.cut();
        });
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl State {
    fn cut(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Freezes if that is to be before `count` more bytes.
    fn freeze_before(&mut self, direction: Direction, count: usize) {
        let way = direction as usize;
        self.freeze_after[way] = match self.freeze_after[way] {
            Some(left) if left < count as u64 => {
                self.frozen = true;
                None
            }
            left => left.map(|left| left - count as u64),
        };
    }

    /// Accounts for `bytes` that are about to pass, and applies due faults; returns how many of them pass.
    fn pass(&mut self, direction: Direction, bytes: &mut [u8]) -> usize {
        let way = direction as usize;
        let mut length = bytes.len();
        if let Some(left) = self.cut_after[way] {
            length = length.min(left as usize);
            self.cut_after[way] = Some(left - length as u64);
        }
        if let Some(left) = self.flip_after[way] {
            match bytes[..length].get_mut(left as usize) {
                Some(byte) => {
                    *byte = !*byte;
                    self.flip_after[way] = None;
                }
                None => self.flip_after[way] = Some(left - length as u64),
            }
        }
        self.worsen_after[way] = match self.worsen_after[way] {
            Some((left, delay, rate)) if left <= length as u64 => {
                (self.delay, self.rate) = (delay, rate);
                None
            }
            worse => worse.map(|(left, delay, rate)| (left - length as u64, delay, rate)),
        };
        self.passed[way] += length as u64;
        if direction == Direction::FromTarget && self.last == Some(Direction::ToTarget) {
            self.answers += 1;
        }
        self.last = Some(direction);
        length
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn accept(self: Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut listener = Some(listener);
        loop {
            let (ended, answer) = {
                let state = self.lock();
                (state.ended, state.answer)
            };
            if ended {
                return;
            }
            if answer == Answer::Refuse {
                listener = None;
            } else if let Ok((client, _)) = listener.get_or_insert_with(|| listen(address)).accept() {
                // A fault that was requested during the wait applies.
                let answer = self.note(&client);
                let shared = Arc::clone(&self);
                thread::spawn(move || shared.connect(client, answer));
                continue;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// A new connection, which is open from now on; what is to be done with it.
    fn note(&self, client: &TcpStream) -> Answer {
        let mut state = self.lock();
        state.connections += 1;
        state.open.push(client.try_clone().unwrap());
        state.answer
    }

    fn connect(self: Arc<Self>, client: TcpStream, answer: Answer) {
        client.set_nonblocking(false).unwrap();
        if answer == Answer::Silence {
            return;
        }
        let target = TcpStream::connect(self.target).ok().filter(|_| answer == Answer::Pass);
        let Some(target) = target else {
            // A target that refuses: the client finds its connection closed.
            let _ = client.shutdown(Shutdown::Both);
            return;
        };
        for stream in [&client, &target] {
            stream.set_nodelay(true).unwrap();
        }
        self.lock().open.push(target.try_clone().unwrap());
        let (back_from, back_to) = (target.try_clone().unwrap(), client.try_clone().unwrap());
        Arc::clone(&self).carry(Direction::ToTarget, client, target);
        self.carry(Direction::FromTarget, back_from, back_to);
    }

    /// Carries bytes one way until the end: one thread reads and notes when each piece came, another writes when it is
    /// due.
    fn carry(self: Arc<Self>, direction: Direction, mut from: TcpStream, to: TcpStream) {
        let (sender, receiver): (SyncSender<(Instant, Vec<u8>)>, _) = sync_channel(512);
        thread::spawn(move || {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if sender.send((Instant::now(), buffer[..length].to_vec())).is_err() {
                    break;
                }
            }
        });
        thread::spawn(move || self.deliver(direction, receiver, to));
    }

    fn deliver(&self, direction: Direction, pieces: Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
        for (came, mut bytes) in pieces {
            let mut state = self.lock();
            state.freeze_before(direction, bytes.len());
            loop {
                let wait = (came + state.delay).saturating_duration_since(Instant::now());
                if state.ended || (!state.frozen && wait.is_zero()) {
                    break;
                }
                let wait = if state.frozen { Duration::from_secs(1) } else { wait };
                state = self.changed.wait_timeout(state, wait).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
            let length = state.pass(direction, &mut bytes);
            let (rate, cut) = (state.rate, state.cut_after[direction as usize] == Some(0));
            drop(state);
            if to.write_all(&bytes[..length]).is_err() {
                return;
            }
            if cut {
                let mut state = self.lock();
                state.cut_after[direction as usize] = None;
                state.cut();
            }
            if let Some(rate) = rate {
                thread::sleep(Duration::from_secs_f64(length as f64 / rate as f64));
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("the proxy on {address}: {error}"));
    listener.set_nonblocking(true).unwrap();
    listener
}
