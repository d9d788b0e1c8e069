//! The main job: guix-daemon offloads builds to build machines through `offload`.

mod lab;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lab::{Drv, Host, Lab, max_concurrency};

/// Head and machine must have the same record of the output of `name`, except for the time of its arrival.
#[track_caller]
fn assert_same_item(head: &Host, machines: &[&Host], name: &str, path: &Path) {
    let builder = machines.iter().find(|machine| machine.built().iter().any(|built| built == name));
    let builder = builder.unwrap_or_else(|| panic!("{name} was built on no machine"));
    let there = builder.path_info(path);
    assert!(there.is_some(), "{} is not valid on {}", path.display(), builder.name());
    assert_eq!(head.path_info(path), there, "{}", path.display());
}

#[test]
fn a_single_build_is_offloaded() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);

    let hello = Drv::new("hello").script("echo hi >$out; echo the log line");
    let result = head.build(&[&hello]).succeeded();

    assert_eq!(head.read(result.output("hello")), b"hi\n");
    assert_eq!(b1.built(), ["hello"]);
    assert!(head.built().is_empty());
    assert!(result.log.contains("the log line"), "{}", result.log);
    let own: Vec<&str> = result.log.lines().filter(|line| line.starts_with("offload: ")).collect();
    assert!(matches!(own[..], [one] if one.starts_with("offload: building '") && one.ends_with(" on 'b1'")), "{own:?}");
    assert_same_item(&head, &[&b1], "hello", result.output("hello"));
    assert_eq!(head.path_info(result.output("hello")).unwrap().deriver.as_deref(), result.derivation("hello").to_str());
    head.verify_store();
    // The head has looked for substitutes of the output; the machine does not.
    assert_eq!(lab.substitute_requests(), [""; 0]);

    // Again: nothing to do.
    head.build(&[&hello]).succeeded();
    assert_eq!(b1.built(), ["hello"]);
}

#[test]
fn a_graph_of_builds_uses_all_slots() {
    let lab = Lab::with_substitutes();
    let machines = [lab.build_machine("b1").max_jobs(2).start(), lab.build_machine("b2").max_jobs(2).start()];
    let head = lab.head().start();
    let entries = machines.each_ref().map(|machine| machine.entry().set("overload_threshold", false));
    head.write_machines(&entries);

    // Five layers of four; each needs two of the layer before it.
    let mut layers: Vec<Vec<Drv>> = Vec::new();
    for layer in 0..5 {
        let drvs = (0..4).map(|number| {
            let drv = Drv::new(&format!("item-{layer}-{number}"));
            match layers.last() {
                None => drv.script("sleep 0.2; echo $name >$out"),
                Some(below) => {
                    let (one, two) = (&below[number], &below[(number + 1) % 4]);
                    let [one_variable, two_variable] = [one, two].map(|drv| drv.name().replace('-', "_"));
                    drv.input(one).input(two).script(&format!(
                        "sleep 0.2; mkdir $out; cat ${one_variable}* ${two_variable}* >$out/text 2>/dev/null || true; \
                         echo ${one_variable} ${two_variable} >>$out/text; seq 1 3000 >$out/large"
                    ))
                }
            }
        });
        let drvs = drvs.collect();
        layers.push(drvs);
    }
    let top: Vec<&Drv> = layers[4].iter().collect();
    let result = head.client().build(&top).succeeded();

    let mut built: Vec<String> = machines.iter().flat_map(Host::built).collect();
    built.sort();
    let mut expected: Vec<String> = layers.iter().flatten().map(|drv| drv.name().to_owned()).collect();
    expected.sort();
    assert_eq!(built, expected);
    assert!(head.built().is_empty());
    for machine in &machines {
        assert!(max_concurrency(&machine.builds()) <= 2, "{:#?}", machine.builds());
        assert!(!machine.built().is_empty(), "{:?}", machine.built());
    }

    let both = machines.each_ref();
    for drv in layers.iter().flatten() {
        assert_same_item(&head, &both, drv.name(), result.output(drv.name()));
    }
    head.verify_store();
    assert_eq!(lab.substitute_requests(), [""; 0]);

    // Identical large files are one file.
    let inode = |name: &str| std::fs::metadata(head.path(result.output(name).join("large"))).unwrap().ino();
    assert_eq!(inode("item-4-0"), inode("item-4-3"));

    head.client().build(&top).succeeded();
    assert_eq!(machines.iter().map(|machine| machine.built().len()).sum::<usize>(), 20);
}
