//! Resolves a machine's name and connects a TCP socket, within a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::error::{Cause, Error, Phase};
use crate::machine::Machine;

/// Resolves the machine's name and connects to its port. Tries one address after the other, each with an equal share of
/// the remaining time.
pub(super) fn connect(machine: &Machine, deadline: Instant) -> Result<OwnedFd, Error> {
    connect_to(&resolve(machine, deadline)?, machine, deadline)
}

fn connect_to(addresses: &[SocketAddr], machine: &Machine, deadline: Instant) -> Result<OwnedFd, Error> {
    let mut failure = Cause::NameNotResolved("no address".to_owned());
    for (i, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - i) as u32;
        if share.is_zero() {
            failure = Cause::TimedOut(machine.connect_timeout);
            break;
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => {
                // Requests and replies are small and alternate. Nagle's algorithm would delay each of them.
                stream.set_nodelay(true).map_err(|error| Error::new(machine, Phase::Connect, error))?;
                return Ok(stream.into());
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                failure = Cause::ConnectionRefused { address: address.to_string() };
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => failure = Cause::TimedOut(machine.connect_timeout),
            Err(error) => failure = Cause::NoConnection { address: address.to_string(), error },
        }
    }
    Err(Error::new(machine, Phase::Connect, failure))
}

/// Returns the addresses of the machine. getaddrinfo(3) has no deadline, so it runs on a thread, which continues after
/// the deadline.
fn resolve(machine: &Machine, deadline: Instant) -> Result<Vec<SocketAddr>, Error> {
    let failed = |cause| Error::new(machine, Phase::Resolve, cause);
    let (name, port) = machine.contact();
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = name.to_owned();
    thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(move || {
            let addresses = (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
            // The receiver is gone if the deadline has passed.
            let _ = sender.send(addresses);
        })
        .map_err(|error| failed(error.into()))?;
    match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Ok(addresses)) if addresses.is_empty() => {
            Err(failed(Cause::NameNotResolved("it has no address".to_owned())))
        }
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(failed(Cause::NameNotResolved(without_preamble(&error)))),
        Err(_) => Err(failed(Cause::TimedOut(machine.connect_timeout))),
    }
}

/// Returns the text of gai_strerror(3) without the prefix of std.
fn without_preamble(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    /// A server that accepts nothing and whose queue is full: the kernel drops what arrives next, as a firewall does.
    fn silent() -> (TcpListener, Vec<TcpStream>) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&server, 0).unwrap();
        let address = server.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let waiting = std::iter::from_fn(connect).collect();
        (server, waiting)
    }

    #[test]
    fn an_address_that_does_not_answer_leaves_time_for_the_next_one() {
        let (silent, _waiting) = silent();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [&silent, &server].map(|server| server.local_addr().unwrap());
        let machine = Machine::new("b1", "root", Vec::new(), Vec::new());
        let limit = |time| Instant::now() + Duration::from_secs(time);
        connect_to(&addresses, &machine, limit(4)).unwrap();
        // Without another address it has the whole time, and the last failure is the one that is reported.
        let error = connect_to(&addresses[..1], &machine, limit(1)).unwrap_err();
        assert!(matches!(error.cause, Cause::TimedOut(_)), "{error}");
        drop(server);
        let error = connect_to(&addresses, &machine, limit(1)).unwrap_err();
        assert!(matches!(error.cause, Cause::ConnectionRefused { .. }), "{error}");
    }
}
