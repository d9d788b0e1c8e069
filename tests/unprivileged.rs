//! A head whose guix-daemon runs without privileges, as the service unit of Guix 1.5 has it.

mod lab;

use lab::{Drv, Lab};

#[test]
fn builds_are_offloaded_by_a_daemon_without_privileges() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().unprivileged().start();
    head.write_machines(&[b1.entry()]);
    let daemon = head.processes().into_iter().find(|process| process.name == "guix-daemon").unwrap();
    eprintln!("{}", std::fs::read_to_string(format!("/proc/{}/status", daemon.pid)).unwrap());

    let below = Drv::new("below").script("echo below >$out");
    let top = Drv::new("top").input(&below).script("mkdir $out; cp $below $out/file; echo '#!/bin/sh' >$out/run; chmod +x $out/run");
    head.run("ls", &["-la", "/etc/guix", "/etc/guix/keys", "/var/guix"]);
    let result = head.client().start(&[&top]).wait();
    eprintln!("{}", result.log);
    eprintln!("{}", head.run("ls", &["-la", "/etc/guix", "/etc/guix/keys", "/var/guix", "/gnu/store"]));
    let result = result.succeeded();
    assert_eq!(b1.built(), ["below", "top"]);
    let _ = result;
}
