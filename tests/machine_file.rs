//! Functions of the machine file, called while real builds are offloaded.

mod lab;

use lab::{Drv, Host, Lab};

/// A head and two machines with equal entries, and a machine file made of them and of `policy`, the rest of the table.
fn pool(policy: &str) -> (Lab, [Host; 2], Host) {
    let lab = Lab::new();
    let machines = [lab.build_machine("b1").start(), lab.build_machine("b2").start()];
    let head = lab.head().start();
    let [one, two] = machines.each_ref().map(|machine| machine.entry().lua());
    head.write_machine_file(&format!("return {{\n{one},\n{two},\n{policy}\n}}\n"));
    (lab, machines, head)
}

#[test]
fn a_score_can_use_the_load() {
    let (_lab, [b1, b2], head) = pool(
        "score = function(request, machine, status)
           if status.load == nil then return machine.name == 'b1' and 9 or 0 end
           return machine.name == 'b2' and 1 / (1 + status.load) or 0
         end",
    );
    // Both are probed; b1 would win if the load stayed unknown.
    head.run("/opt/offload/offload", &["explain", "--system", lab::SYSTEM, "--probe"]);
    for name in ["first", "second", "third"] {
        head.build(&[&Drv::new(name)]).succeeded();
    }
    assert_eq!(b2.built(), ["first", "second", "third"]);
    assert!(b1.built().is_empty());
}

#[test]
fn accepts_can_read_the_derivation() {
    let (_lab, [b1, b2], head) = pool(
        "accepts = function(request, machine)
           local wanted = request:read_derivation().env.machine
           if wanted and wanted ~= machine.name then return false, 'it wants ' .. wanted end
           return true
         end",
    );
    for name in ["b2", "b1", "b2"] {
        let drv = Drv::new(&format!("for-{name}-{}", b1.built().len() + b2.built().len())).env("machine", name);
        head.build(&[&drv]).succeeded();
    }
    assert_eq!((b1.built().len(), b2.built().len()), (1, 2));

    let drv = Drv::new("for-nobody").env("machine", "b3");
    let result = head.build(&[&drv]);
    assert_ne!(result.status, Some(0));
    assert!(result.log.contains("b1, b2: it wants b3"), "{}", result.log);
}

#[test]
fn functions_that_misbehave_do_not_fail_a_build() {
    for (policy, warning) in [
        ("score = function() error('no idea') end", "no idea"),
        ("score = function() while true do end end", "took longer than 0.5 s"),
        ("score = function() return {} end", "score"),
    ] {
        let (_lab, [b1, _b2], head) = pool(policy);
        let result = head.build(&[&Drv::new("nevertheless")]).succeeded();
        assert_eq!(b1.built(), ["nevertheless"], "{policy}");
        assert!(result.log.contains(warning), "{policy}: {}", result.log);
        assert!(result.log.contains("/etc/guix/machines.lua:"), "{policy}: {}", result.log);
    }
}

/// Clients choose the name of a derivation, and so whether a function that goes by it fails.
#[test]
fn an_accepts_that_fails_refuses() {
    let (_lab, [b1, b2], head) = pool(
        "accepts = function(request, machine)
           if request.name == 'raises' and machine.name == 'b1' then error('no idea') end
           if request.name == 'loops' then while true do pcall(error) end end
           return true
         end",
    );
    let result = head.build(&[&Drv::new("raises")]).succeeded();
    assert_eq!(b2.built(), ["raises"], "{}", result.log);
    assert!(result.log.contains("accepts: no idea; it counts as false"), "{}", result.log);
    let derivation = result.derivation("raises").to_str().unwrap();
    let explained = head.command("/opt/offload/offload").args(["explain", derivation]).output().unwrap();
    let said = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(said.contains("b1:2022  score -  accepts failed: no idea\n"), "{said}");
    assert!(said.contains("→ built on b2"), "{said}");

    let result = head.build(&[&Drv::new("loops")]);
    assert_ne!(result.status, Some(0), "{}", result.log);
    assert!(result.log.contains("b1: accepts took longer than 0.5 s (limits.decide)"), "{}", result.log);
    assert!(result.log.contains("b2: accepts was not called"), "{}", result.log);
    assert!(b1.built().is_empty());
    assert_eq!(b2.built(), ["raises"]);
}
