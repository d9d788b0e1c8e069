//! The process that owns a session: its descriptors, its end, and the clients that it turns away.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::lab::{Drv, LONG, Signal, wait_until};
use crate::pool::{PERSIST_DIRECTORY, Pool, is_reused};

#[test]
fn the_process_that_keeps() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    let holder = pool.kept_by(&Drv::new("first"));
    let files = format!("/proc/{}/fd", holder.pid);
    let mut descriptors: Vec<(u32, PathBuf)> = fs::read_dir(&files)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_str().unwrap().parse().unwrap(), fs::read_link(entry.path()).unwrap()))
        .collect();
    descriptors.sort();
    for (number, (descriptor, file)) in descriptors.iter().take(3).enumerate() {
        assert_eq!(*descriptor as usize, number);
        assert!(file.ends_with("dev/null"), "{descriptors:?}");
    }
    // The session's and the one to find it by; the others only tell it something: a signal, the end of the daemon.
    let (events, files): (Vec<_>, Vec<_>) =
        descriptors[3..].iter().partition(|(_, file)| file.to_string_lossy().starts_with("anon_inode:"));
    let sockets: Vec<String> = files.iter().map(|(_, file)| inode(file)).collect();
    assert_eq!((sockets.len(), events.len()), (4, 1), "{descriptors:?}");
    let (unix, tcp) = (fs::read_to_string("/proc/net/unix").unwrap(), fs::read_to_string("/proc/net/tcp").unwrap());
    // By the name that it was bound to.
    let offered = |line: &str| line.contains(PERSIST_DIRECTORY) && line.ends_with(&format!("/.{}", holder.pid));
    assert_eq!(sockets.iter().filter(|inode| has_line(&unix, inode, offered)).count(), 1, "{sockets:?}\n{unix}");
    // Port 2022 on the other side.
    let leads_there = |line: &str| line.split_whitespace().nth(2).is_some_and(|remote| remote.ends_with(":07E6"));
    assert_eq!(sockets.iter().filter(|inode| has_line(&tcp, inode, leads_there)).count(), 1, "{sockets:?}\n{tcp}");

    let stat = fs::read_to_string(format!("/proc/{}/stat", holder.pid)).unwrap();
    let session: u32 = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, holder.pid, "its session is another's");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", holder.pid)).unwrap(), head.path("/"));
    assert_eq!(fs::read_dir(format!("/proc/{}/task", holder.pid)).unwrap().count(), 1);

    // What it offers is for its user alone.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(&head.path(PERSIST_DIRECTORY)), mode(&pool.sockets()[0]) & 0o077], [0o700, 0]);

    // The machine's SSH server ends the session.
    machine.stop_sshd();
    pool.await_idle(0);
    machine.start_sshd();
    pool.kept_by(&Drv::new("second"));

    // Its daemon ends the connection: a child of it, one for each client.
    let daemons = || machine.processes().into_iter().filter(|process| process.name == "guix-daemon");
    let all: Vec<u32> = daemons().map(|process| process.pid).collect();
    let server = daemons().find(|process| all.contains(&process.parent)).expect("the daemon serves somebody");
    let connections = pool.link.connections();
    server.signal(Signal::KILL);
    // The session is there, and opens another stream.
    let result = pool.build(&Drv::new("anew"));
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(pool.link.connections(), connections);

    // The time is over.
    head.write_machines(&[pool.entry().set("keep_connection", 1)]);
    pool.build(&Drv::new("third"));
    pool.await_idle(0);
    wait_until("nobody is logged in", LONG, || pool.is_left());
    head.await_no_lock("afterwards");
}

/// The number in `socket:[NUMBER]`.
fn inode(link: &Path) -> String {
    let text = link.to_str().unwrap();
    let inode = text.strip_prefix("socket:[").and_then(|text| text.strip_suffix(']'));
    inode.unwrap_or_else(|| panic!("{text} is no socket")).to_owned()
}

/// Whether a table of the kernel has a line about a socket which is as it should be.
fn has_line(table: &str, inode: &str, is_so: impl Fn(&str) -> bool) -> bool {
    table.lines().any(|line| line.split_whitespace().any(|field| field == inode) && is_so(line))
}

/// All of them are the daemon's user, who may enter the directory: mistakes, not attacks.
#[test]
fn strangers_at_the_socket() {
    let pool = Pool::new();
    let holder = pool.kept_by(&Drv::new("first"));
    let socket = pool.sockets().remove(0);
    // The path is too long for a socket's name, seen from outside.
    let directory = fs::File::open(socket.parent().unwrap()).unwrap();
    let short = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), socket.file_name().unwrap().to_str().unwrap());
    let connect = || {
        let stream = UnixStream::connect(&short).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    let offers = || pool.sockets().iter().any(|socket| socket.to_str().unwrap().contains(&format!(".{}-", holder.pid)));
    let mut silent = [connect(), connect()];
    let mut wordy = connect();
    wordy.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let hasty = connect();
    drop(hasty);
    // None of them is in a build's way.
    let result = pool.build(&Drv::new("second"));
    assert!(is_reused(&result), "{}", result.log);
    // It turns them away, one after the other: an end, or an error where something had been written.
    for stream in silent.iter_mut().chain([&mut wordy]) {
        match stream.read_to_end(&mut Vec::new()) {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(offers());
    let connections = pool.link.connections();
    let result = pool.build(&Drv::new("third"));
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(pool.link.connections(), connections);
    assert!(offers());
    assert!(pool.holders().iter().any(|process| process.pid == holder.pid));
}
