//! Cancellation of a build, from any thread.
//!
//! The threads that work on a build run in the *scope* of its [`Cancel`]. Functions that wait (for a byte, a slot, a time)
//! find it there and return early. A wait on a socket ends at once, because the socket is polled together with an
//! eventfd(2); other waits check it at short intervals. Threads outside of any scope are never cancelled.
//!
//! An operation that was cancelled fails with `ECANCELED`. The caller compares no errors: it asks [`is_cancelled`].

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;

/// How often a wait checks for cancellation if it cannot poll for it.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A switch that cancels builds.
///
/// Clones are the same switch. Any thread may turn it, and it stays turned. It may belong to several builds.
///
/// ```
/// let cancel = offload::Cancel::default();
/// let other = cancel.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert!(cancel.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Switch>);

#[derive(Debug, Default)]
struct Switch {
    is_cancelled: AtomicBool,
    /// Readable once it is cancelled; made when a thread first waits. `None` inside: no descriptor was free.
    event: OnceLock<Option<OwnedFd>>,
    /// The switches that this one turns.
    children: Mutex<Vec<Weak<Switch>>>,
}

impl Cancel {
    /// Cancels the builds that have this switch. Each of them ends within half a second.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::SeqCst);
        if let Some(Some(event)) = self.0.event.get() {
            wake(event);
        }
        let children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner).clone();
        children.iter().filter_map(Weak::upgrade).for_each(|child| Cancel(child).cancel());
    }

    /// Returns a switch that this one turns, too.
    pub(crate) fn child(&self) -> Cancel {
        let child = Cancel::default();
        let mut children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(&child.0));
        drop(children);
        // Its parent may have been turned before the parent knew it.
        if self.is_cancelled() {
            child.cancel();
        }
        child
    }

    /// Returns whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::SeqCst)
    }

    /// Runs `work` on this thread in the scope of this switch.
    pub(crate) fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        work()
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        let event = self.0.event.get_or_init(|| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok());
        let event = event.as_ref()?;
        // It may have been cancelled before there was an event.
        if self.is_cancelled() {
            wake(event);
        }
        Some(event.as_fd())
    }
}

/// Makes an event readable, for good: nobody reads it.
fn wake(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

thread_local! {
    static CURRENT: RefCell<Option<Cancel>> = const { RefCell::new(None) };
}

/// Restores the scope around another one.
struct Restore(Option<Cancel>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

fn current() -> Option<Cancel> {
    CURRENT.with_borrow(Clone::clone)
}

/// Returns whether this thread is in a scope.
pub(crate) fn has_scope() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Returns whether the work of this thread was cancelled.
pub(crate) fn is_cancelled() -> bool {
    CURRENT.with_borrow(|current| current.as_ref().is_some_and(Cancel::is_cancelled))
}

/// Fails if the work of this thread was cancelled.
pub(crate) fn check() -> Result<(), Errno> {
    if is_cancelled() { Err(Errno::CANCELED) } else { Ok(()) }
}

/// Returns `work` for another thread, in the scope of this thread.
pub(crate) fn inherit<T>(work: impl FnOnce() -> T + Send) -> impl FnOnce() -> T + Send {
    let scope = current();
    move || match scope {
        Some(cancel) => cancel.scope(work),
        None => work(),
    }
}

/// Sleeps for `time`, or until the work of this thread is cancelled.
pub(crate) fn sleep(time: Duration) {
    let Some(cancel) = current() else { return thread::sleep(time) };
    let until = Instant::now() + time;
    match cancel.event() {
        // The event is the only one that is polled.
        Some(event) => drop(poll_all(&mut [PollFd::from_borrowed_fd(event, PollFlags::IN)], Some(until))),
        None => {
            while !cancel.is_cancelled() && Instant::now() < until {
                thread::sleep(POLL_INTERVAL.min(until.saturating_duration_since(Instant::now())));
            }
        }
    }
}

/// Waits for the events `wanted` on `descriptor`, or for an error on it. Returns false if the time `until` has come first.
/// Fails with `ECANCELED` if the work of this thread was cancelled.
pub(crate) fn poll(descriptor: BorrowedFd<'_>, wanted: PollFlags, until: Option<Instant>) -> Result<bool, Errno> {
    let Some(cancel) = current() else {
        return poll_all(&mut [PollFd::from_borrowed_fd(descriptor, wanted)], until);
    };
    loop {
        let mut descriptors = vec![PollFd::from_borrowed_fd(descriptor, wanted)];
        let (event, step) = match cancel.event() {
            Some(event) => (Some(event), until),
            None => {
                (None, Some(until.map_or(Instant::now() + POLL_INTERVAL, |u| u.min(Instant::now() + POLL_INTERVAL))))
            }
        };
        descriptors.extend(event.map(|event| PollFd::from_borrowed_fd(event, PollFlags::IN)));
        let is_ready = poll_all(&mut descriptors, step)?;
        if cancel.is_cancelled() {
            return Err(Errno::CANCELED);
        }
        if is_ready || until.is_some_and(|until| Instant::now() >= until) {
            return Ok(is_ready);
        }
    }
}

/// Waits for an event of any descriptor. Returns false if the time `until` has come first.
fn poll_all(descriptors: &mut [PollFd<'_>], until: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let left = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().min(i64::MAX as u64) as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match rustix::event::poll(descriptors, left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return ready.map(|count| count > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use super::*;

    /// Runs a wait that has no other end in a scope, and returns its result after the cancellation. That comes before the
    /// wait, or when the thread sleeps in it.
    fn cancelled<T: Send>(sleeps: bool, wait: impl FnOnce() -> T + Send) -> T {
        let cancel = Cancel::default();
        let (sender, begun) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                cancel.scope(|| {
                    sender.send(rustix::thread::gettid()).unwrap();
                    wait()
                })
            });
            let stat = format!("/proc/self/task/{}/stat", begun.recv().unwrap());
            let is_asleep = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
            while sleeps && (cancel.0.event.get().is_none() || !is_asleep()) {
                thread::yield_now();
            }
            cancel.cancel();
            waiting.join().unwrap()
        })
    }

    #[test]
    fn a_wait_ends_when_it_is_cancelled() {
        let (link, _theirs) = UnixStream::pair().unwrap();
        for sleeps in [false, true] {
            cancelled(sleeps, || sleep(Duration::from_secs(3600)));
            assert_eq!(cancelled(sleeps, || poll(link.as_fd(), PollFlags::IN, None)), Err(Errno::CANCELED));
            // A thread that works for the same build.
            cancelled(sleeps, || {
                thread::scope(|scope| scope.spawn(inherit(|| sleep(Duration::from_secs(3600)))).join())
            })
            .unwrap();
        }
    }

    #[test]
    fn a_switch_turns_its_children_and_no_child_its_parent() {
        let parent = Cancel::default();
        let [first, second] = [parent.child(), parent.child()];
        first.cancel();
        assert_eq!([&parent, &first, &second].map(Cancel::is_cancelled), [false, true, false]);
        drop(first);
        let third = parent.child();
        parent.cancel();
        assert!(second.is_cancelled() && third.is_cancelled() && parent.child().is_cancelled());
    }

    #[test]
    fn a_scope_ends() {
        let (outer, inner) = (Cancel::default(), Cancel::default());
        inner.cancel();
        outer.scope(|| {
            inner.scope(|| assert!(is_cancelled() && check() == Err(Errno::CANCELED)));
            assert!(has_scope() && !is_cancelled());
        });
        assert!(!has_scope() && check() == Ok(()));
        assert!(std::panic::catch_unwind(|| inner.scope(|| panic!("in a scope"))).is_err());
        assert!(!has_scope());
    }

    #[test]
    fn without_a_cancellation_a_poll_is_a_poll() {
        let (link, mut theirs) = UnixStream::pair().unwrap();
        Cancel::default().scope(|| {
            let is_ready = || poll(link.as_fd(), PollFlags::IN, Some(Instant::now())).unwrap();
            assert!(!is_ready());
            theirs.write_all(&[1]).unwrap();
            assert!(is_ready());
        });
    }
}
