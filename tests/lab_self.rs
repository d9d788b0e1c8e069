//! The lab tests itself, with upstream's `guix offload` as the hook.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lab;

use lab::{Drv, Hook, Lab, max_concurrency};

#[test]
fn upstream_offloads_a_build() {
    let t = std::time::Instant::now();
    let lab = Lab::new();
    eprintln!("lab {:?}", t.elapsed());
    let b1 = lab.build_machine("b1").start();
    eprintln!("b1 {:?}", t.elapsed());
    let head = lab.head().hook(Hook::Upstream).start();
    eprintln!("head {:?}", t.elapsed());
    head.write_machines(&[b1.entry()]);
    let hello = Drv::new("hello").script("echo hi >$out");
    let result = head.build(&[&hello]).succeeded();
    eprintln!("built {:?} {:?}", t.elapsed(), result.elapsed);
    assert_eq!(head.read(result.output("hello")), b"hi\n");
    assert_eq!(b1.built(), ["hello"]);
    assert!(head.built().is_empty());
    head.verify_store();
    eprintln!("verified {:?}", t.elapsed());
    drop((lab, head, b1));
    eprintln!("down {:?}", t.elapsed());
}
