//! The process that owns a session: its descriptors, its end, and the clients that it rejects.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::lab::{Drv, LONG, Signal, wait_until};
use crate::pool::{PERSIST_DIRECTORY, Pool, is_reused};
use crate::protocol;

#[test]
fn an_owner_holds_only_its_sockets_and_ends_with_its_session() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    let owner = pool.owner_after(&Drv::new("first"));
    let files = format!("/proc/{}/fd", owner.pid);
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
    // One socket is the SSH connection, and one listens. The others report events: a signal, or the end of the daemon.
    let (events, files): (Vec<_>, Vec<_>) =
        descriptors[3..].iter().partition(|(_, file)| file.to_string_lossy().starts_with("anon_inode:"));
    let sockets: Vec<String> = files.iter().map(|(_, file)| inode(file)).collect();
    assert_eq!((sockets.len(), events.len()), (4, 1), "{descriptors:?}");
    let (unix, tcp) = (fs::read_to_string("/proc/net/unix").unwrap(), fs::read_to_string("/proc/net/tcp").unwrap());
    // The kernel reports the name that the socket was bound to.
    let offered = |line: &str| line.contains(PERSIST_DIRECTORY) && line.ends_with(&format!("/.{}-0", owner.pid));
    assert_eq!(sockets.iter().filter(|inode| has_line(&unix, inode, offered)).count(), 1, "{sockets:?}\n{unix}");
    // The remote port is 2022.
    let is_to_machine = |line: &str| line.split_whitespace().nth(2).is_some_and(|remote| remote.ends_with(":07E6"));
    assert_eq!(sockets.iter().filter(|inode| has_line(&tcp, inode, is_to_machine)).count(), 1, "{sockets:?}\n{tcp}");

    let stat = fs::read_to_string(format!("/proc/{}/stat", owner.pid)).unwrap();
    let session: u32 = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, owner.pid, "the owner is not the leader of its process session");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", owner.pid)).unwrap(), head.path("/"));
    assert_eq!(fs::read_dir(format!("/proc/{}/task", owner.pid)).unwrap().count(), 1);

    // Only its user can connect to the socket.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(&head.path(PERSIST_DIRECTORY)), mode(&pool.sockets()[0]) & 0o077], [0o700, 0]);

    // The machine's SSH server ends the session.
    machine.stop_sshd();
    pool.await_idle(0);
    machine.start_sshd();
    pool.owner_after(&Drv::new("second"));

    // The machine's daemon, which has a child for each client, ends the stream.
    let daemons = || machine.processes().into_iter().filter(|process| process.name == "guix-daemon");
    let all: Vec<u32> = daemons().map(|process| process.pid).collect();
    let server = daemons().find(|process| all.contains(&process.parent)).expect("the daemon serves a client");
    let connections = pool.link.connections();
    server.signal(Signal::KILL);
    // The session is still open, and opens another stream.
    let result = pool.build(&Drv::new("another"));
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(pool.link.connections(), connections);

    // The session has been idle for `keep_connection`.
    head.write_machines(&[pool.entry().set("keep_connection", 1)]);
    pool.build(&Drv::new("third"));
    pool.await_idle(0);
    wait_until("the machine has no session", LONG, || pool.has_no_session());
    head.await_no_lock("afterwards");
}

/// Returns the number in `socket:[NUMBER]`.
fn inode(link: &Path) -> String {
    let text = link.to_str().unwrap();
    let inode = text.strip_prefix("socket:[").and_then(|text| text.strip_suffix(']'));
    inode.unwrap_or_else(|| panic!("{text} is not a socket")).to_owned()
}

/// Whether a table of the kernel has a line about this socket that satisfies `is_so`.
fn has_line(table: &str, inode: &str, is_so: impl Fn(&str) -> bool) -> bool {
    table.lines().any(|line| line.split_whitespace().any(|field| field == inode) && is_so(line))
}

/// The clients run as the daemon's user, who may enter the directory: they are mistakes, not attacks.
#[test]
fn an_owner_rejects_clients_that_break_the_protocol() {
    let pool = Pool::new();
    let owner = pool.owner_after(&Drv::new("first"));
    let socket = pool.sockets().remove(0);
    let connect = || {
        let stream = protocol::connect(&socket);
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    let offers = || pool.sockets().iter().any(|socket| socket.to_str().unwrap().contains(&format!(".{}-", owner.pid)));
    let mut silent = [connect(), connect()];
    let mut wordy = connect();
    wordy.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let hasty = connect();
    drop(hasty);
    // No such client delays a build.
    let result = pool.build(&Drv::new("second"));
    assert!(is_reused(&result), "{}", result.log);
    // The owner closes their connections, one after the other. A client that has written may read an error.
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
    assert!(pool.owners().iter().any(|process| process.pid == owner.pid));
}
