//! The probe on machines that lack files or programs. A value that they cannot report is unknown, and not a failure.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use offload::internals::machine::Machine;
use offload::internals::remote::Connection;
use offload::internals::status::MachineStatus;

use crate::sshd::{Options, SID, Server};

/// Starts a server that runs this script for each command, in a separate mount namespace.
fn server(script: &str) -> Server {
    let server = Server::start(&Options { sshd: &["ForceCommand=exec unshare --mount /mnt/account"], ..SID });
    let account = server.shared().join("account");
    fs::write(&account, format!("#!/bin/bash\n{script}\n")).unwrap();
    fs::set_permissions(&account, fs::Permissions::from_mode(0o755)).unwrap();
    server
}

fn probe(server: &Server) -> MachineStatus {
    Connection::open(&server.machine()).unwrap().probe("/gnu").unwrap()
}

#[test]
fn busybox_reports_every_value() {
    let server = server(
        "set -e; mount --bind /bin/busybox /bin/dash
        export PATH=/var/lab/busybox/bin
        exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"",
    );
    let status = probe(&server);
    assert!(status.clock > Some(1_700_000_000), "{status:?}");
    assert!(status.load1.is_some() && status.cores > Some(0) && status.uptime > Some(0), "{status:?}");
    assert!(status.free_memory > Some(1 << 20) && status.free_disk > Some(1 << 20), "{status:?}");
    assert!(status.build_free > Some(1 << 20), "{status:?}");
    assert!(status.kernel.is_some() && status.architecture.is_some() && status.host_name.is_some(), "{status:?}");
}

#[test]
fn without_proc_the_load_is_unknown() {
    let status = probe(&server("set -e; umount -l /proc; exec sh -c \"$SSH_ORIGINAL_COMMAND\""));
    assert_eq!((status.load1, status.uptime, status.free_memory, status.pressure_cpu), (None, None, None, None));
    assert!(status.clock.is_some() && status.kernel.is_some(), "{status:?}");
    assert!(status.free_disk > Some(1 << 20) && status.build_free > Some(1 << 20), "{status:?}");
}

#[test]
fn without_programs_the_shell_reports_what_it_can_read() {
    let status = probe(&server("export PATH=/nonexistent; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\""));
    assert!(status.load1.is_some() && status.free_memory.is_some(), "{status:?}");
    assert_eq!((status.cores, status.clock, status.kernel, status.free_disk), (None, None, None, None));
}

#[test]
fn a_separate_build_directory_has_its_own_free_space() {
    let server = server(
        "set -e; mount -t tmpfs -o size=8m tmpfs /srv
        export TMPDIR=/srv
        exec sh -c \"$SSH_ORIGINAL_COMMAND\"",
    );
    let status = probe(&server);
    assert!(status.build_free <= Some(8 << 20) && status.free_disk > Some(8 << 20), "{status:?}");
}

#[test]
fn the_probe_of_a_silent_account_ends_after_the_connect_timeout() {
    let server = server("exec sleep 1000");
    let mut machine = server.machine();
    machine.connect_timeout = Duration::from_secs(4);
    let connection = Connection::open(&machine).unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(connection.probe("/gnu").unwrap(), MachineStatus::default());
        assert!((3900..60_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    }
}

#[test]
fn endless_output_of_an_account_is_cut_short() {
    let server = server("yes load 99 99 99");
    // The time limit of the probe. The probe ends before it.
    let machine = Machine { connect_timeout: Duration::from_secs(120), ..server.machine() };
    let start = Instant::now();
    assert_eq!(Connection::open(&machine).unwrap().probe("/gnu").unwrap(), MachineStatus::default());
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}
