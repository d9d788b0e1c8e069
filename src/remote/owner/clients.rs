//! Those who are connected to an owner, and what they want of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::message::{Frames, Keep, Request};

/// Somebody who is connected.
pub(super) struct Client {
    control: Frames,
    /// Until when the first request must have come.
    asks_until: Option<Instant>,
    is_gone: bool,
}

impl Client {
    /// The hook that has started the owner, and has asked for the session.
    pub fn starter(control: Frames) -> io::Result<Client> {
        control.socket().set_nonblocking(true)?;
        Ok(Client { control, asks_until: None, is_gone: false })
    }

    /// Who has connected.
    pub fn new(control: UnixStream, asks_until: Instant) -> io::Result<Client> {
        Ok(Client { asks_until: Some(asks_until), ..Client::starter(Frames::new(control))? })
    }

    pub fn socket(&self) -> &UnixStream {
        self.control.socket()
    }

    pub fn asks_until(&self) -> Option<Instant> {
        self.asks_until
    }

    /// Whether nothing more comes: it has left, says what is no request, or has had the time for one.
    pub fn is_over(&self, now: Instant) -> bool {
        self.is_gone || self.asks_until.is_some_and(|until| until <= now)
    }

    /// What it wants, with the descriptors that belong to that.
    pub fn requests(&mut self) -> Vec<(Request, VecDeque<OwnedFd>)> {
        let mut requests = Vec::new();
        loop {
            match self.control.receive() {
                Ok(Some(request)) => {
                    self.asks_until = None;
                    let count = match request {
                        Request::Open { .. } | Request::Resume { .. } => 2,
                        Request::Report | Request::Keep(Keep { has_daemon: true, .. }) => 1,
                        Request::Keep(_) | Request::Start(_) | Request::Retire => 0,
                    };
                    let descriptors = (0..count).map_while(|_| self.control.descriptor()).collect();
                    requests.push((request, descriptors));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An end, or what is no request.
                Ok(None) | Err(_) => {
                    self.is_gone = true;
                    break;
                }
            }
        }
        requests
    }
}
