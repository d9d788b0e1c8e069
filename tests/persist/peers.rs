//! Hooks and owners trust only processes of their own user, also if the permissions of the files allow more. In these
//! tests the hook runs as root, and the directory of the sockets belongs to the user that owns the state directory.

use std::fs;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::Uid;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::thread::set_thread_res_uid;
use tempfile::TempDir;

use crate::lab::{Drv, LONG, Process, Signal, wait_until};
use crate::pool::{PERSIST_DIRECTORY, Pool, is_reused};

/// Returns the user that owns the state directory, which is not the user of the hook.
fn stranger(pool: &Pool) -> u32 {
    let owner = fs::metadata(pool.head.path(PERSIST_DIRECTORY)).unwrap().uid();
    assert_ne!(owner, 0);
    owner
}

/// Runs `work` as the stranger. In Linux each thread has its own user.
fn as_stranger<T: Send>(stranger: u32, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let task = || {
            let stranger = Uid::from_raw(stranger);
            set_thread_res_uid(stranger, stranger, stranger).unwrap();
            work()
        };
        scope.spawn(task).join().unwrap()
    })
}

/// Lets all users enter the directories of the lab. Returns a directory with a symbolic link `open` to the directory of
/// the sockets, whose own path is too long for a socket address.
fn open_directory(pool: &Pool) -> TempDir {
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(pool.lab.directory());
    let short = TempDir::new().unwrap();
    open(short.path());
    symlink(pool.head.path(PERSIST_DIRECTORY), short.path().join("open")).unwrap();
    short
}

/// Kills the owner and removes its socket. Returns a path for a new socket, with the name that another owner would
/// choose.
fn take_over_socket(pool: &Pool, short: &TempDir, owner: &Process) -> PathBuf {
    let name = pool.sockets()[0].file_name().unwrap().to_str().unwrap().replace(&owner.pid.to_string(), "1");
    owner.signal(Signal::KILL);
    wait_until("the owner is gone", LONG, || pool.owners().is_empty());
    pool.sockets().iter().for_each(|socket| fs::remove_file(socket).unwrap());
    short.path().join("open").join(name)
}

/// Waits for a client and returns its first message, with or without a descriptor.
fn receive_first_message(listener: &UnixListener) -> Vec<u8> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut bytes = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty()).unwrap();
    bytes[..received.bytes].to_vec()
}

#[test]
fn a_hook_does_not_use_the_session_of_another_user() {
    let pool = Pool::new();
    let owner = pool.owner_after(&Drv::new("first"));
    let short = open_directory(&pool);
    let path = take_over_socket(&pool, &short, &owner);
    let stranger = stranger(&pool);
    let listener = as_stranger(stranger, || {
        let listener = UnixListener::bind(&path).unwrap();
        // The hook of root connects as the owner of the state.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        listener
    });
    let message = thread::spawn(move || receive_first_message(&listener));
    let result = pool.build(&Drv::new("second"));
    assert!(!is_reused(&result), "{}", result.log);
    assert!(result.log.contains(&format!("the owner belongs to another user (user ID {stranger})")), "{}", result.log);
    assert_eq!(message.join().unwrap(), b"");
}

#[test]
fn an_owner_does_not_serve_another_user() {
    let pool = Pool::new();
    let owner = pool.owner_after(&Drv::new("first"));
    let short = open_directory(&pool);
    // The request of a hook, received by a process of the same user.
    let path = take_over_socket(&pool, &short, &owner);
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let message = thread::spawn(move || receive_first_message(&listener));
    pool.build(&Drv::new("second"));
    let request = message.join().unwrap();
    assert!(!request.is_empty());
    // A hook may have removed the socket because no process accepts on it.
    let _ = fs::remove_file(&path);
    pool.await_idle(1);

    let socket = pool.sockets().remove(0);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let path = short.path().join("open").join(socket.file_name().unwrap());
    let answer = || {
        let stream = UnixStream::connect(&path).unwrap();
        let ((_data, their_data), (mut status, their_status)) =
            (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        status.set_read_timeout(Some(LONG)).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [their_data.as_fd(), their_status.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        // The owner may have closed the connection by now.
        let _ = sendmsg(&stream, &[IoSlice::new(&request)], &mut ancillary, SendFlags::NOSIGNAL);
        drop((their_data, their_status));
        matches!(status.read(&mut [0]), Ok(1))
    };
    assert!(!as_stranger(stranger(&pool), answer));
    // The request is valid.
    wait_until("the owner listens", LONG, || socket.exists());
    assert!(answer());
}
