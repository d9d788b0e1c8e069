//! An end to calls of libssh2 that do not come to one.
//!
//! libssh2 (1.11.1) returns to its caller when there is nothing more to read, and looks at no clock before. A server that
//! never pauses, with lines before its version (`session_startup`) or with packets that mean nothing
//! (`_libssh2_packet_requirev`), keeps it in one call for as long as it likes. Nothing but the end of the connection gets it
//! out of there, so that is what is done once the limit is over: another thread shuts the socket, and empties it.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

/// How long a call that does come back, and finds its limit over, is left to do so.
const GRACE: Duration = Duration::from_millis(250);

/// Makes a call, which loses its `socket` soon after `until`.
pub(super) fn guarded<T>(socket: &OwnedFd, until: Instant, call: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        let watch = move || {
            let left = until.saturating_duration_since(Instant::now()) + GRACE;
            if end.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                // What cannot be shut is closed already.
                let _ = shutdown(socket, Shutdown::Both);
                // What has arrived can still be read, and libssh2 reads a version byte by byte.
                let mut scrap = vec![0; 64 << 10];
                while end.try_recv() == Err(TryRecvError::Empty)
                    && matches!(recv(socket, &mut *scrap, RecvFlags::DONTWAIT), Ok((1.., _)))
                {}
            }
        };
        // Without a thread it is as if the server paused now and then, as nearly all do.
        if let Err(error) = thread::Builder::new().name("watchdog".to_owned()).spawn_scoped(scope, watch) {
            debug!("no watchdog: {error}");
        }
        let result = call();
        drop(ended);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_call_without_an_end_loses_its_socket() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let socket = OwnedFd::from(ours.try_clone().unwrap());
        let until = Instant::now() + Duration::from_millis(20);
        assert_eq!(guarded(&socket, until, || ours.read(&mut [0]).unwrap()), 0);
        assert!(Instant::now() >= until + GRACE);
    }

    #[test]
    fn one_that_ends_in_time_keeps_it() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = OwnedFd::from(ours.try_clone().unwrap());
        assert_eq!(guarded(&socket, Instant::now() + Duration::from_secs(60), || 5), 5);
        drop(ours);
        drop(socket);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    }
}
