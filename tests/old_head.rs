//! A head of Guix 1.2.0, whose C library is older than the one that the program needs: `packaging/bundle` brings the
//! loader and the libraries along.

mod lab;

use lab::{Drv, Lab, Release};

/// Four layers of five derivations, each with two inputs of the layer before.
fn graph() -> Vec<Drv> {
    let mut layer: Vec<Drv> = Vec::new();
    for depth in 0..4 {
        let next = (0..5).map(|at| {
            let drv = Drv::new(&format!("node-{depth}-{at}"));
            match layer.len() {
                0 => drv.script("echo $name >$out"),
                count => {
                    let [one, two] = [&layer[at], &layer[(at + 1) % count]];
                    let text = "cat $one $two >$out; echo $name >>$out; echo $one >>$out";
                    drv.input_output("one", one, "out").input_output("two", two, "out").script(text)
                }
            }
        });
        layer = next.collect();
    }
    layer
}

#[test]
fn a_graph_is_offloaded_from_a_head_of_guix_1_2() {
    let lab = Lab::new();
    // One machine has the same release as the head.
    let machines = [("b1", Release::Sid), ("b2", Release::Bullseye)];
    let machines = machines.map(|(name, release)| lab.build_machine(name).release(release).max_jobs(2).start());
    let head = lab.head().release(Release::Bullseye).start();
    let said = head.run("guix", &["--version"]);
    assert!(said.starts_with("guix (GNU Guix) 1.2."), "{said}");
    head.write_machines(&machines.each_ref().map(|machine| machine.entry()));

    let said = head.offload(&["test"]);
    assert_eq!(said.status, Some(0), "{said:?}");
    let last = graph();
    let result = head.build(&last.iter().collect::<Vec<_>>()).succeeded();
    let built = machines.each_ref().map(|machine| machine.built().len());
    assert_eq!(built.iter().sum::<usize>(), 20, "{built:?}");
    assert!(!built.contains(&0) && head.built().is_empty(), "{built:?}");
    let text = String::from_utf8(head.read(result.output("node-3-4"))).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("node-0-")).count(), 8, "{text}");
    head.verify_store();
    machines.iter().for_each(|machine| machine.verify_store());

    // The processes that own the sessions run through the loader, too, and respond.
    let said = head.offload(&["status"]);
    assert!(said.status == Some(0) && said.out.contains("b2"), "{said:?}");
    // The program that would be copied is the loader.
    let said = head.offload(&["install"]);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.messages.contains("started through the dynamic loader"), "{said:?}");
}
