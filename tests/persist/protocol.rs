//! A client of an owner, whose requests are those of a hook (`remote/owner/message.rs`).

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;

const PROTOCOL: u8 = 5;

/// Connects to an owner. Outside of the lab's root the path of a socket is too long for a socket address.
pub fn connect(socket: &Path) -> UnixStream {
    let directory = File::open(socket.parent().unwrap()).unwrap();
    let name = socket.file_name().unwrap().to_str().unwrap();
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())).unwrap()
}

pub fn send(socket: &UnixStream, message: &Value, descriptors: &[BorrowedFd<'_>]) {
    let text = message.to_string();
    let frame = [&[PROTOCOL][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    let sent = sendmsg(socket, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    assert_eq!(sent, frame.len());
}

pub fn receive(mut socket: &UnixStream) -> Value {
    let mut header = [0; 5];
    socket.read_exact(&mut header).unwrap();
    let [version, length @ ..] = header;
    assert_eq!(version, PROTOCOL);
    let mut text = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}
