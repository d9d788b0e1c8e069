//! A build log that is longer than there is room for on the head.

mod lab;

use std::fs;
use std::process::Command;

use lab::{Drv, Host, LONG, Lab, wait_until};

const MIB: u64 = 1 << 20;

/// How large the file system of the logs is.
const SIZE: u64 = 20 * MIB;

/// Gives a host a small file system at `place`.
fn mount(host: &Host, place: &str, size: u64) {
    let options = format!("size={size}");
    fs::create_dir_all(host.path(place)).unwrap();
    let command = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(host.path(place)).status();
    assert!(command.unwrap().success());
}

fn free(host: &Host, place: &str) -> u64 {
    let status = rustix::fs::statvfs(host.path(place)).unwrap();
    status.f_bavail * status.f_frsize
}

#[test]
fn an_endless_log_leaves_a_reserve() {
    for (variable, place) in [(None, "/var/log/guix"), (Some("GUIX_LOG_DIRECTORY"), "/var/lab/logs")] {
        let lab = Lab::new();
        let machines = ["b1", "b2"].map(|name| lab.build_machine(name).start());
        let head = variable.into_iter().fold(lab.head(), |head, variable| head.env(variable, place)).start();
        head.write_machines(&machines.each_ref().map(Host::entry));
        mount(&head, place, SIZE);

        // Half of it remains when it is compressed.
        let endless = Drv::new("endless").script("while true; do head -c 100000 /dev/urandom | od -x; done");
        let result = head.build(&[&endless]);
        let end = result.log.get(result.log.len().saturating_sub(2000)..).unwrap_or_default();
        assert_eq!(result.status, Some(1), "{end}");
        assert!(end.contains("offload: error: the build log does not fit: "), "{end}");
        assert!(
            end.contains(&format!("KiB are free in the file system of '{place}', and 204 KiB are reserved")),
            "{end}"
        );
        assert!(end.contains("hint: free some space there"), "{end}");
        assert!(free(&head, place) > SIZE / 100, "{} bytes", free(&head, place));

        // Another machine would print as much.
        assert_eq!(machines.iter().map(|machine| machine.built().len()).sum::<usize>(), 1, "{end}");
        wait_until("the build has ended", LONG, || !machines.iter().any(Host::is_building));
        head.await_no_lock("afterwards");
        head.build(&[&Drv::new("quiet").script("echo a line; echo >$out")]).succeeded();
    }
}

#[test]
fn a_log_that_fits_is_complete() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[machine.entry()]);
    mount(&head, "/var/log/guix", 4 * MIB);
    // 24 MiB, of which next to nothing remains.
    let wordy = Drv::new("wordy").script("yes 'a line of the log' | head -c 25165824; echo; echo THE END; echo >$out");
    let result = head.build(&[&wordy]).succeeded();
    assert!(head.build_log(result.derivation("wordy")).trim_end().ends_with("THE END"));
}
