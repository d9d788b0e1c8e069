//! Waits for a socket, with a deadline. `remote::session_stream` uses this as well.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::cancel;

/// Waits for the events `wanted` on `link`, or for an error on it. Returns false if the time `until` has come first, and
/// fails if the work of this thread is cancelled.
pub(crate) fn poll(link: BorrowedFd<'_>, wanted: PollFlags, until: Option<Instant>) -> Result<bool, Errno> {
    cancel::poll(link, wanted, until)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_link_is_ready_for_bytes_and_at_its_end() {
        let (link, mut theirs) = UnixStream::pair().unwrap();
        let is_ready = || poll(link.as_fd(), PollFlags::IN, Some(Instant::now())).unwrap();
        assert!(!is_ready());
        theirs.write_all(&[1]).unwrap();
        assert!(is_ready());
        assert!(!poll(theirs.as_fd(), PollFlags::IN, Some(Instant::now())).unwrap());
        drop(link);
        assert!(poll(theirs.as_fd(), PollFlags::IN, None).unwrap());
    }
}
