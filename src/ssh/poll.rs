//! Waiting for a socket, and for something beside it: also for those who borrow a connection (`remote::lent`).

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// What became ready.
#[derive(Debug, PartialEq)]
pub(crate) enum Ready {
    Link,
    /// What was waited for beside it; the link is not.
    Beside,
    Nothing,
}

/// Waits until `link` is ready for what is wanted, or broken, or `beside` is ready; or until it is time.
pub(crate) fn poll(
    link: BorrowedFd<'_>,
    wanted: PollFlags,
    beside: Option<&PollFd<'_>>,
    until: Option<Instant>,
) -> Result<Ready, Errno> {
    loop {
        let left = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().min(i64::MAX as u64) as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let link = PollFd::from_borrowed_fd(link, wanted);
        let mut both = [link.clone(), beside.cloned().unwrap_or(link)];
        match rustix::event::poll(&mut both[..1 + usize::from(beside.is_some())], left.as_ref()) {
            Ok(0) => return Ok(Ready::Nothing),
            Ok(_) if both[0].revents().is_empty() => return Ok(Ready::Beside),
            Ok(_) => return Ok(Ready::Link),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
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
    fn the_link_comes_first() {
        let (link, mut theirs) = UnixStream::pair().unwrap();
        let (beside, mut other) = UnixStream::pair().unwrap();
        let beside = PollFd::new(&beside, PollFlags::IN);
        let look = || poll(link.as_fd(), PollFlags::IN, Some(&beside), Some(Instant::now())).unwrap();
        assert_eq!(look(), Ready::Nothing);
        other.write_all(&[1]).unwrap();
        assert_eq!(look(), Ready::Beside);
        assert_eq!(poll(link.as_fd(), PollFlags::IN, None, Some(Instant::now())).unwrap(), Ready::Nothing);
        theirs.write_all(&[1]).unwrap();
        assert_eq!(look(), Ready::Link);
        drop(theirs);
        assert_eq!(look(), Ready::Link);
    }
}
