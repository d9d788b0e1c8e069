//! `compression = "auto"`: what goes over a slow line is compressed from the second transfer on.

mod lab;

use lab::{Direction, Drv, Host, Lab, Proxy};

const MIB: u64 = 1 << 20;

/// Builds a copy of a file; returns the bytes that passed in each direction.
fn pass(head: &Host, link: &Proxy, name: &str, make: &str) -> [u64; 2] {
    let path = format!("/tmp/{name}");
    head.run("sh", &["-c", &format!("{make} | head -c {} >{path}", 3 * MIB)]);
    let passed = || [Direction::ToTarget, Direction::FromTarget].map(|way| link.passed(way));
    let before = passed();
    let drv = Drv::new(name).file("data", &path).script("cat $data >$out");
    let result = head.build(&[&drv]).succeeded();
    assert_eq!(head.read(result.output(name)), std::fs::read(head.path(&path)).unwrap());
    let after = passed();
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn a_slow_link_is_compressed_if_that_pays() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let link = lab.proxy("link", machine.ssh_address());
    let head = lab.head().start();
    let machines =
        |compression: &str| head.write_machines(&[machine.entry().via(&link).set("compression", compression)]);
    // The common inputs are sent first.
    machines("none");
    head.build(&[&Drv::new("first")]).succeeded();
    machines("auto");
    link.throttle(Some(2_000_000));
    let first = pass(&head, &link, "text-1", "seq 1 1000000");
    assert!(first.iter().all(|bytes| *bytes > 3 * MIB), "the first transfer was compressed: {first:?}");
    let second = pass(&head, &link, "text-2", "seq 2 1000000");
    assert!(second.iter().all(|bytes| *bytes < 2 * MIB), "the second transfer was not compressed: {second:?}");
    // What is not compressible passes as it is, and changes nothing for what is.
    let noise = pass(&head, &link, "noise", "cat /dev/urandom");
    assert!(noise.iter().all(|bytes| (3 * MIB..4 * MIB).contains(bytes)), "{noise:?}");
    let third = pass(&head, &link, "text-3", "seq 3 1000000");
    assert!(third.iter().all(|bytes| *bytes < 2 * MIB), "{third:?}");
    // An explicit choice applies.
    machines("none");
    let none = pass(&head, &link, "text-4", "seq 4 1000000");
    assert!(none.iter().all(|bytes| *bytes > 3 * MIB), "{none:?}");
}
