//! Who lends a connection to whom: only processes of the same user, whatever the rights of the files say. Here the hook is
//! root's, and the directory of the sockets belongs to the owner of the state.

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

/// The owner of the state, who is not the user of the hook.
fn stranger(pool: &Pool) -> u32 {
    let owner = fs::metadata(pool.head.path(PERSIST_DIRECTORY)).unwrap().uid();
    assert_ne!(owner, 0);
    owner
}

/// Does something as the stranger: in Linux each thread has a user of its own.
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

/// Lets everybody pass through the directories of the lab. The short name of the directory of the sockets is that of the
/// file `kept` in the directory returned.
fn open_directory(pool: &Pool) -> TempDir {
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(pool.lab.directory());
    let short = TempDir::new().unwrap();
    open(short.path());
    symlink(pool.head.path(PERSIST_DIRECTORY), short.path().join("kept")).unwrap();
    short
}

/// Kills the keeper. Returns the path of a socket in its place: the name that another process of the same kind would
/// give it.
fn take_place(pool: &Pool, short: &TempDir, holder: &Process) -> PathBuf {
    let name = pool.sockets()[0].file_name().unwrap().to_str().unwrap().replace(&holder.pid.to_string(), "1");
    holder.signal(Signal::KILL);
    wait_until("the keeper is gone", LONG, || pool.holders().is_empty());
    pool.sockets().iter().for_each(|socket| fs::remove_file(socket).unwrap());
    short.path().join("kept").join(name)
}

/// Waits for somebody to connect and returns what comes as the first message, with or without a descriptor.
fn first_message(listener: &UnixListener) -> Vec<u8> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut bytes = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty()).unwrap();
    bytes[..received.bytes].to_vec()
}

#[test]
fn a_connection_is_not_borrowed_from_another_user() {
    let pool = Pool::new();
    let holder = pool.kept_by(&Drv::new("first"));
    let short = open_directory(&pool);
    let path = take_place(&pool, &short, &holder);
    let stranger = stranger(&pool);
    let listener = as_stranger(stranger, || {
        let listener = UnixListener::bind(&path).unwrap();
        // The hook of root connects as the owner of the state.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        listener
    });
    let told = thread::spawn(move || first_message(&listener));
    let result = pool.build(&Drv::new("second"));
    assert!(!is_reused(&result), "{}", result.log);
    assert!(result.log.contains(&format!("the owner belongs to another user (user ID {stranger})")), "{}", result.log);
    assert_eq!(told.join().unwrap(), b"");
}

#[test]
fn a_connection_is_not_lent_to_another_user() {
    let pool = Pool::new();
    let holder = pool.kept_by(&Drv::new("first"));
    let short = open_directory(&pool);
    // What a borrower says, as one hears it who is of the same user.
    let path = take_place(&pool, &short, &holder);
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let told = thread::spawn(move || first_message(&listener));
    pool.build(&Drv::new("second"));
    let request = told.join().unwrap();
    assert!(!request.is_empty());
    // Whoever found nobody behind it may have removed it.
    let _ = fs::remove_file(&path);
    pool.await_idle(1);

    let socket = pool.sockets().remove(0);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let path = short.path().join("kept").join(socket.file_name().unwrap());
    let answer = || {
        let stream = UnixStream::connect(&path).unwrap();
        let ((_data, their_data), (mut status, their_status)) =
            (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        status.set_read_timeout(Some(LONG)).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [their_data.as_fd(), their_status.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        // It may have been turned away by now.
        let _ = sendmsg(&stream, &[IoSlice::new(&request)], &mut ancillary, SendFlags::NOSIGNAL);
        drop((their_data, their_status));
        matches!(status.read(&mut [0]), Ok(1))
    };
    assert!(!as_stranger(stranger(&pool), answer));
    // The request is a good one.
    wait_until("it is offered", LONG, || socket.exists());
    assert!(answer());
}
