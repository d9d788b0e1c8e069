//! `offload challenge` on real pools.

mod lab;

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use lab::{Drv, Host, LONG, Lab, RELEASES, Release, Said, Signal, derivations, drv, wait_until};
use serde_json::{Value, json};

fn challenge(head: &Host, arguments: &[&str]) -> Said {
    head.offload(&[&["challenge"], arguments].concat())
}

/// The result for the first derivation.
fn report(said: &Said) -> Value {
    let mut whole: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    whole["derivations"][0].take()
}

fn write_machines(head: &Host, machines: &[&Host]) {
    let entries: Vec<_> = machines.iter().map(|machine| machine.entry().set("overload_threshold", false)).collect();
    head.write_machines(&entries);
}

/// Asserts that no output of a build is in the store, and that nothing is left.
#[track_caller]
fn assert_nothing_entered(head: &Host, outputs: &[&Path]) {
    head.await_no_lock("afterwards");
    for output in outputs {
        assert!(head.path_info(output).is_none() && !head.path(output).exists(), "{} is here", output.display());
    }
    let left = fs::read_dir(head.path("/tmp")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("offload-")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(head.strays().iter().all(|name| !name.ends_with(".chroot")), "{:?}", head.strays());
    head.verify_store();
}

/// A file whose contents depend on the machine, and that is outside of its store.
fn mark(host: &Host, text: &str) {
    host.write("/var/lab/mark", text);
}

#[test]
fn a_derivation_that_embeds_the_time_differs_and_another_one_does_not() {
    let lab = Lab::new();
    for release in RELEASES {
        let machine = |name: &str| lab.build_machine(&format!("{name}-{release:?}")).release(release).start();
        let (b1, b2) = (machine("b1"), machine("b2"));
        let head = lab.head().name(&format!("head-{release:?}")).release(release).start();
        let input = Drv::new("input").script("echo input >$out");
        let same = Drv::new("same")
            .script("mkdir $out; cat $input >$out/file; ln -s $lib $out/link; echo lib >$lib; echo the log")
            .outputs(&["out", "lib"])
            .input(&input);
        let timed = Drv::new("timed").script("sleep 0.1; cat /proc/uptime >$out");
        let result = derivations(&head, &[&same, &timed]);
        write_machines(&head, &[&b1, &b2]);
        let outputs = [result.output("same"), result.output_of("same", "lib"), result.output("timed")];

        // By default the two best machines build.
        let said = challenge(&head, &[drv(&result, "same"), "--json"]);
        assert_eq!(said.status, Some(0), "{said:?}");
        let found = report(&said);
        assert_eq!((&found["reproducible"], &found["copies"].as_array().unwrap().len()), (&json!(true), &2), "{found}");
        for id in ["out", "lib"] {
            let hashes = found["outputs"][id]["hashes"].as_array().unwrap();
            assert!(hashes[0].is_string() && hashes[0] == hashes[1], "{found}");
        }
        assert!(said.messages.contains(&format!("\n{}: the log\n", b1.name())), "{said:?}");
        for machine in [&b1, &b2] {
            assert_eq!(machine.built().iter().filter(|name| *name == "same").count(), 1);
        }
        // The machines have the outputs now: they build again. Sessions of other builds do not hinder that.
        let said = challenge(&head, &[drv(&result, "same"), "--on", b1.name(), "--on", b2.name()]);
        assert_eq!(said.status, Some(0), "{said:?}");
        assert!(said.out.starts_with(&format!("{}: the outputs are the same\n", drv(&result, "same"))), "{said:?}");
        assert_eq!(b1.built().iter().filter(|name| *name == "same").count(), 2);

        // One machine builds twice.
        let said = challenge(&head, &[drv(&result, "timed"), "--on", b1.name(), "--json"]);
        assert_eq!(said.status, Some(6), "{said:?}");
        let found = report(&said);
        let copies = &found["copies"];
        assert_eq!((&copies[0]["round"], &copies[1]["round"]), (&json!(1), &json!(2)), "{found}");
        assert_eq!(found["outputs"]["out"]["differences"][0]["files"][0]["difference"], "contents", "{found}");
        let said = challenge(&head, &[drv(&result, "timed"), "--on", b1.name(), "--rounds", "3"]);
        assert_eq!(said.status, Some(6), "{said:?}");
        assert!(said.out.contains("first: ") && said.out.contains(", round 3"), "{said:?}");
        assert_eq!(b1.built().iter().filter(|name| *name == "timed").count(), 5);
        assert_nothing_entered(&head, &outputs);
        // On request, what a machine built last enters the store. It is not built again.
        let said = head.offload(&["build", drv(&result, "timed"), "--on", b1.name()]);
        assert_eq!(said.status, Some(0), "{said:?}");
        assert_eq!(b1.built().iter().filter(|name| *name == "timed").count(), 5);
        assert_eq!(head.read(outputs[2]), b1.read(outputs[2]));
        assert!(head.path_info(outputs[2]).is_some());
    }
}

#[test]
fn the_files_that_differ_are_named() {
    let lab = Lab::new();
    let [b1, b2] = ["b1", "b2"].map(|name| lab.build_machine(name));
    let (b1, b2) = (b1.start(), b2.release(Release::Bullseye).start());
    mark(&b1, "1");
    mark(&b2, "2");
    let head = lab.head().start();
    let tree =
        "mkdir -p $out/a/b/c/d $out/a/bin; head -c 200000 /dev/zero >$out/a/b/c/d/file; echo tool >$out/a/bin/tool;";
    let byte =
        Drv::new("byte").script(&format!("{tree} cat /var/lab/mark >>$out/a/b/c/d/file; echo x >>$out/a/b/c/d/file"));
    let executable =
        Drv::new("executable").script(&format!("{tree} if grep -q 2 /var/lab/mark; then chmod +x $out/a/bin/tool; fi"));
    let entry = Drv::new("entry")
        .script(&format!("{tree} mkdir $out/only-$(cat /var/lab/mark); ln -s $(cat /var/lab/mark) $out/z"));
    let result = derivations(&head, &[&byte, &executable, &entry]);
    write_machines(&head, &[&b1, &b2]);
    let files = |name: &str| {
        let said = challenge(&head, &[drv(&result, name), "--on", "b1", "--on", "b2", "--json"]);
        assert_eq!(said.status, Some(6), "{said:?}");
        let mut found = report(&said);
        assert_eq!(found["copies"][0]["machine"], "b1", "{found}");
        found["outputs"]["out"]["differences"][0]["files"].take()
    };
    let file = |path: &str, difference: &str, more: Value| {
        let mut file = json!({ "path": path, "difference": difference, "at": null, "sizes": null, "values": null, "only_in": null });
        for (name, value) in more.as_object().unwrap() {
            file[name] = value.clone();
        }
        file
    };
    assert_eq!(
        files("byte"),
        json!([file("a/b/c/d/file", "contents", json!({ "at": 200_000, "sizes": [200_003, 200_003] }))])
    );
    assert_eq!(files("executable"), json!([file("a/bin/tool", "executable", json!({ "only_in": "second" }))]));
    assert_eq!(
        files("entry"),
        json!([
            file("only-1", "missing", json!({ "only_in": "first" })),
            file("only-2", "missing", json!({ "only_in": "second" })),
            file("z", "target", json!({ "values": ["1", "2"] }))
        ])
    );

    // For people, and with diffoscope, which sees both copies.
    let said = challenge(&head, &[drv(&result, "byte")]);
    assert!(said.messages.contains("install diffoscope to see how the contents differ"), "{said:?}");
    head.write(
        "/usr/bin/diffoscope",
        "#!/bin/sh\necho \"diffoscope: $(cmp -l $3/a/b/c/d/file $4/a/b/c/d/file) $1 $(wc -c)\"\nexit 1\n",
    );
    head.run("chmod", &["755", "/usr/bin/diffoscope"]);
    let said = challenge(&head, &[drv(&result, "byte"), drv(&result, "executable")]);
    assert_eq!(said.status, Some(6), "{said:?}");
    for line in [
        ": the outputs differ\n",
        "      a/b/c/d/file: the contents differ from byte 200000 on (200003 bytes)\n",
        "      a/bin/tool: executable only in the ",
        "diffoscope: 200001  6",
        "--exclude-directory-metadata=yes 0\n",
    ] {
        assert!(said.out.contains(line), "{line}: {said:?}");
    }
    assert!(!said.messages.contains("diffoscope"), "{said:?}");
    head.write("/usr/bin/diffoscope", "#!/bin/sh\necho broken >&2\nexit 2\n");
    let said = challenge(&head, &[drv(&result, "byte")]);
    assert_eq!(said.status, Some(6), "{said:?}");
    assert!(said.messages.contains("diffoscope has failed: exit status: 2"), "{said:?}");
    head.write("/usr/bin/diffoscope", "#!/bin/sh\necho $$ >/tmp/started\nexec sleep 1000\n");
    let mut command = head.command("/opt/offload/offload");
    let mut child = command.args(["challenge", drv(&result, "byte")]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("diffoscope runs", LONG, || head.path("/tmp/started").exists());
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let mut messages = String::new();
    child.stderr.take().unwrap().read_to_string(&mut messages).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6), "{messages}");
    assert!(messages.contains("diffoscope was ended"), "{messages}");
    assert_nothing_entered(&head, &["byte", "executable", "entry"].map(|name| result.output(name)));
}

#[test]
fn a_machine_that_needs_its_outputs_keeps_them_and_builds_nothing() {
    let lab = Lab::new();
    for release in RELEASES {
        let b1 = lab.build_machine(&format!("b1-{release:?}")).release(release).start();
        let head = lab.head().name(&format!("head-{release:?}")).start();
        let timed = Drv::new("timed").script("sleep 0.1; cat /proc/uptime >$out");
        let result = derivations(&head, &[&timed]);
        write_machines(&head, &[&b1]);
        let output = result.output("timed").to_str().unwrap();
        // One copy would be compared with nothing.
        let said = challenge(&head, &[drv(&result, "timed"), "--rounds", "1"]);
        assert_eq!(said.status, Some(6), "{said:?}");
        assert!(said.out.contains(&format!(" {}, round 2\n", b1.name())), "{said:?}");
        assert_eq!(b1.built(), ["timed", "timed"]);
        b1.run("ln", &["-s", output, "/var/guix/gcroots/timed"]);
        let (before, contents) = (b1.path_info(output).unwrap(), b1.read(output));
        let said = challenge(&head, &[drv(&result, "timed")]);
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(said.messages.contains(&format!("it has '{output}' and needs it")), "{said:?}");
        assert!(said.messages.contains("still alive"), "{said:?}");
        assert_eq!(b1.built(), ["timed", "timed"]);
        assert_eq!((b1.path_info(output), b1.read(output)), (Some(before), contents));
        b1.run("rm", &["/var/guix/gcroots/timed"]);
        assert_eq!(challenge(&head, &[drv(&result, "timed")]).status, Some(6));
        assert_nothing_entered(&head, &[result.output("timed")]);
    }
}

#[test]
fn nothing_but_the_outputs_is_deleted_on_a_machine() {
    let lab = Lab::new();
    for release in RELEASES {
        let machine = lab.build_machine(&format!("b1-{release:?}")).release(release);
        let b1 = machine.daemon_argument("--gc-keep-outputs").start();
        let head = lab.head().name(&format!("head-{release:?}")).start();
        let shared = Drv::new("shared").script("echo $lib >$out; echo lib >$lib").outputs(&["out", "lib"]);
        let user = Drv::new("user").script("echo $shared >$out").input(&shared);
        let result = derivations(&head, &[&user, &shared]);
        write_machines(&head, &[&b1]);
        let shared = drv(&result, "shared");
        // An output that only another output needs is deleted, also if the machine keeps the outputs of derivations.
        for _ in 0..2 {
            let said = challenge(&head, &[shared]);
            assert_eq!(said.status, Some(0), "{said:?}");
        }
        assert_eq!(b1.built(), ["shared"; 4]);
        // No root keeps the item that needs an output, so a garbage collector would delete it.
        let output = result.output("user").to_str().unwrap();
        let said = challenge(&head, &[drv(&result, "user")]);
        assert_eq!(said.status, Some(0), "{said:?}");
        let before = b1.built().len();
        let said = challenge(&head, &[shared, "--json"]);
        assert_eq!(said.status, Some(1), "{said:?}");
        let failed = report(&said);
        assert_eq!(failed["result"], "no machine", "{failed}");
        assert!(failed["error"].as_str().unwrap().contains(&format!("because '{output}' needs it")), "{failed}");
        assert!(failed["hint"].as_str().unwrap().contains("guix gc --referrers"), "{failed}");
        assert!(b1.path_info(output).is_some(), "{output} was deleted");
        assert_eq!(b1.built().len(), before);
        b1.run("/usr/bin/guix", &["gc", "--delete", output]);
        assert_eq!(challenge(&head, &[shared]).status, Some(0));
    }
}

#[test]
fn the_outputs_in_the_store_take_part() {
    let lab = Lab::new();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").release(Release::Bullseye).start());
    mark(&b1, "1");
    mark(&b2, "2");
    let head = lab.head().start();
    let marked = Drv::new("marked").script("cat /var/lab/mark >$out");
    let same = Drv::new("same").script("echo $name >$out");
    let result = derivations(&head, &[&marked, &same]);
    write_machines(&head, &[&b1, &b2]);
    let [marked, same] = ["marked", "same"].map(|name| drv(&result, name));
    let said = head.offload(&["build", "--on", "b1", marked, same]);
    assert_eq!(said.status, Some(0), "{said:?}");
    let before = head.path_info(result.output("marked")).unwrap();
    // One copy of a machine is enough then. The open session of the build does not keep the machine from building again.
    for (arguments, status) in [
        (&[marked, "--on", "b1"][..], 0),
        (&[marked, "--on", "b2"], 6),
        (&[same, "--on", "b2"], 0),
        (&[same, marked, "--on", "b2"], 6),
    ] {
        let said = challenge(&head, &[arguments, &["--json"]].concat());
        assert_eq!(said.status, Some(status), "{said:?}");
        let found = report(&said);
        assert_eq!(found["copies"].as_array().unwrap().len(), 2, "{found}");
        assert_eq!(found["copies"][0]["source"], "this machine", "{found}");
    }
    assert_eq!(b1.built().iter().filter(|name| *name == "marked").count(), 2);
    // Its copy stays as long as diffoscope reads it.
    head.write(
        "/usr/bin/diffoscope",
        "#!/bin/sh\nguix gc >/dev/null 2>&1\nshift 2\nfor file; do cat $file; done\nexit 1\n",
    );
    head.run("chmod", &["755", "/usr/bin/diffoscope"]);
    let said = challenge(&head, &[marked, "--on", "b2"]);
    assert_eq!(said.status, Some(6), "{said:?}");
    assert!(said.out.ends_with("12"), "{said:?}");
    // Nothing has replaced it.
    assert_eq!(head.path_info(result.output("marked")), Some(before));
    assert_eq!(head.read(result.output("marked")), b"1");
    head.verify_store();
}

#[test]
fn failures_and_interrupts_end_a_challenge() {
    let lab = Lab::new();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    let failing = Drv::new("failing").script("echo out of luck; exit 3");
    let endless = Drv::new("endless").script("sleep 1000");
    let picky = Drv::new("picky").features(&["kvm"]);
    let timed = Drv::new("timed").script("sleep 0.1; cat /proc/uptime >$out");
    let result = derivations(&head, &[&failing, &endless, &picky, &timed]);
    write_machines(&head, &[&b1, &b2]);
    for (arguments, status, words) in [
        (&[drv(&result, "failing")][..], 100, "failed to build on 'b"),
        (&[drv(&result, "failing")], 100, ": out of luck\n"),
        (&[drv(&result, "failing"), drv(&result, "picky")], 5, "picky.drv': b1: "),
        (&[drv(&result, "picky"), "--on", "b2"], 5, "b2: it lacks the feature kvm"),
        (&[drv(&result, "failing"), "--on", "b3"], 5, "no enabled machine matches 'b3'; the machine file has b1, b2"),
        (&[drv(&result, "failing"), "--rounds", "0"], 2, "0 is not in 1..=100"),
        (&["failing"], 2, "'failing' is not a derivation: "),
    ] {
        let said = challenge(&head, arguments);
        assert_eq!(said.status, Some(status), "{said:?}");
        assert!(said.messages.contains(words) && said.out.is_empty(), "{words}: {said:?}");
    }
    // The failure counts more than the difference, in both orders, and both are in the result.
    let (failing, timed) = (drv(&result, "failing"), drv(&result, "timed"));
    for order in [[failing, timed], [timed, failing]] {
        let said = challenge(&head, &[&order[..], &["--on", "b1", "--json"]].concat());
        assert_eq!(said.status, Some(100), "{said:?}");
        let whole: Value = serde_json::from_str(&said.out).unwrap();
        let entry = |name: &str| &whole["derivations"][order.iter().position(|one| *one == name).unwrap()];
        let (failed, compared) = (entry(failing), entry(timed));
        assert_eq!((&failed["derivation"], &failed["result"]), (&json!(failing), &json!("failed")), "{whole}");
        assert!(failed["error"].as_str().unwrap().contains("failed to build on 'b1'"), "{whole}");
        assert!(failed.get("copies").is_none(), "{whole}");
        assert_eq!((&compared["derivation"], &compared["result"]), (&json!(timed), &json!("different")), "{whole}");
        assert_eq!(compared["error"], Value::Null, "{whole}");
    }
    let mut command = head.command("/opt/offload/offload");
    let mut child = command.args(["challenge", drv(&result, "endless")]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("both machines build", LONG, || b1.is_building() && b2.is_building());
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let mut messages = String::new();
    child.stderr.take().unwrap().read_to_string(&mut messages).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{messages}");
    assert!(messages.contains("endless.drv' was cancelled"), "{messages}");
    wait_until("the builds have ended on the machines", LONG, || !b1.is_building() && !b2.is_building());
    assert_nothing_entered(&head, &["failing", "endless"].map(|name| result.output(name)));
}

#[test]
fn another_machine_replaces_one_that_fails_and_a_failed_build_ends_the_others() {
    let lab = Lab::new();
    let hosts = ["b1", "b2", "b3"].map(|name| lab.build_machine(name).start());
    let head = lab.head().start();
    let same = Drv::new("same").script("echo same >$out");
    let picky = Drv::new("fails-on-b1").script("if grep -q b1 /var/lab/mark; then exit 3; fi; sleep 1000");
    let result = derivations(&head, &[&same, &picky]);
    let entries = hosts.iter().zip([90.0, 2.0, 1.0]).map(|(host, speed)| {
        mark(host, host.name());
        host.entry().set("overload_threshold", false).set("speed", speed)
    });
    head.write_machines(&entries.collect::<Vec<_>>());
    let [b1, b2, b3] = &hosts;
    let output = result.output("same").to_str().unwrap();
    assert_eq!(challenge(&head, &[drv(&result, "same"), "--on", "b1"]).status, Some(0));
    b1.run("ln", &["-s", output, "/var/guix/gcroots/same"]);
    let said = challenge(&head, &[drv(&result, "same"), "--json"]);
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.messages.contains("needs it"), "{said:?}");
    let found = report(&said);
    let mut machines = [0, 1].map(|index| found["copies"][index]["machine"].as_str().unwrap_or("none"));
    machines.sort_unstable();
    assert_eq!(machines, ["b2", "b3"], "{found}");
    // A machine that is named has no replacement.
    let said = challenge(&head, &[drv(&result, "same"), "--on", "b1", "--on", "b2"]);
    assert_eq!(said.status, Some(1), "{said:?}");
    let mut command = head.command("timeout");
    let arguments =
        ["60", "/opt/offload/offload", "challenge", drv(&result, "fails-on-b1"), "--on", "b1", "--on", "b2"];
    let said = Said::from(command.args(arguments).output().unwrap());
    assert_eq!(said.status, Some(100), "{said:?}");
    assert!(said.messages.contains("failed to build on 'b1'"), "{said:?}");
    wait_until("the other build has ended", LONG, || !b2.is_building());
    assert!(b3.built().iter().all(|name| name == "same"));
    assert_nothing_entered(&head, &["same", "fails-on-b1"].map(|name| result.output(name)));
}

#[test]
fn the_user_of_an_unprivileged_daemon_challenges_and_another_one_is_told_to_be_root() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().unprivileged().start();
    let timed = Drv::new("timed").script("mkdir $out; sleep 0.1; cat /proc/uptime >$out/file");
    let result = derivations(&head, &[&timed]);
    write_machines(&head, &[&b1]);
    let said = challenge(&head, &[drv(&result, "timed")]);
    assert_eq!(said.status, Some(6), "{said:?}");
    assert!(said.out.contains("      file: the contents differ"), "{said:?}");
    let owner = fs::metadata(head.path("/var/guix")).unwrap().uid();
    let state = fs::read_dir(head.path("/var/guix/offload")).unwrap();
    assert!(state.map(|entry| entry.unwrap().metadata().unwrap().uid()).all(|uid| uid == owner));
    let run_as = |user: &[&str]| -> Said {
        let arguments = ["/opt/offload/offload", "challenge", drv(&result, "timed")];
        head.command("setpriv").args(user).args(arguments).output().unwrap().into()
    };
    let said = run_as(&["--reuid=guix-daemon", "--regid=guix-daemon", "--init-groups"]);
    assert_eq!(said.status, Some(6), "{said:?}");
    let before = b1.built().len();
    let said = run_as(&["--reuid=65534", "--regid=65534", "--clear-groups"]);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.messages.contains("run this command as root"), "{said:?}");
    assert_eq!(b1.built().len(), before);
    assert_nothing_entered(&head, &[result.output("timed")]);
}
