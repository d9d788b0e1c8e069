//! Waiting for a socket: also for those who use a session that another process owns (`remote::session_stream`).

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Waits until `link` is ready for what is wanted, or broken, or it is time. False: it was time.
pub(crate) fn poll(link: BorrowedFd<'_>, wanted: PollFlags, until: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let left = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().min(i64::MAX as u64) as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(link, wanted)], left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return ready.map(|count| count > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_and_an_end_make_a_link_ready() {
        let (link, mut theirs) = UnixStream::pair().unwrap();
        let look = || poll(link.as_fd(), PollFlags::IN, Some(Instant::now())).unwrap();
        assert!(!look());
        theirs.write_all(&[1]).unwrap();
        assert!(look());
        assert!(!poll(theirs.as_fd(), PollFlags::IN, Some(Instant::now())).unwrap());
        drop(link);
        assert!(poll(theirs.as_fd(), PollFlags::IN, None).unwrap());
    }
}
