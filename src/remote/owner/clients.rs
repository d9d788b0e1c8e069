//! The clients that are connected to an owner, and their requests.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::message::{Frames, KeepOpen, Request};

/// A client: a hook, or a command that reads reports.
pub(super) struct Client {
    control: Frames,
    /// The time by which the first request must arrive; `None` after it.
    first_request_deadline: Option<Instant>,
    is_disconnected: bool,
}

impl Client {
    /// Returns the hook that has started the owner and sent the first request.
    pub fn starter(control: Frames) -> io::Result<Client> {
        control.socket().set_nonblocking(true)?;
        Ok(Client { control, first_request_deadline: None, is_disconnected: false })
    }

    /// Returns a client that has connected to the socket of the owner.
    pub fn new(control: UnixStream, first_request_deadline: Instant) -> io::Result<Client> {
        Ok(Client { first_request_deadline: Some(first_request_deadline), ..Client::starter(Frames::new(control))? })
    }

    pub fn socket(&self) -> &UnixStream {
        self.control.socket()
    }

    pub fn first_request_deadline(&self) -> Option<Instant> {
        self.first_request_deadline
    }

    /// Returns whether the client is to be removed: it has disconnected, has sent something invalid, or has sent no
    /// request in time.
    pub fn is_finished(&self, now: Instant) -> bool {
        self.is_disconnected || self.first_request_deadline.is_some_and(|until| until <= now)
    }

    /// Returns the requests that have arrived, each with its descriptors.
    pub fn requests(&mut self) -> Vec<(Request, VecDeque<OwnedFd>)> {
        let mut requests = Vec::new();
        loop {
            match self.control.receive() {
                Ok(Some(request)) => {
                    self.first_request_deadline = None;
                    let count = match request {
                        Request::Open { .. } | Request::Resume { .. } => 2,
                        Request::Report | Request::LastProbe | Request::KeepOpen(KeepOpen { has_daemon: true, .. }) => {
                            1
                        }
                        Request::KeepOpen(_) | Request::Start(_) | Request::Retire => 0,
                    };
                    let descriptors = (0..count).map_while(|_| self.control.next_descriptor()).collect();
                    requests.push((request, descriptors));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The end, or an invalid request.
                Ok(None) | Err(_) => {
                    self.is_disconnected = true;
                    break;
                }
            }
        }
        requests
    }
}
