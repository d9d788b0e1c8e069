//! `offload build` on real pools.

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lab::{BuildResult, Drv, Host, LONG, Lab, RELEASES, Said, Signal, derivations, drv, wait_until};
use serde_json::Value;

fn output(result: &BuildResult, name: &str) -> String {
    format!("{}\n", result.output(name).display())
}

fn command(head: &Host, arguments: &[&str]) -> Command {
    let mut command = head.command("/opt/offload/offload");
    command.arg("build").args(arguments);
    command
}

fn build(head: &Host, arguments: &[&str]) -> Said {
    command(head, arguments).output().unwrap().into()
}

/// Runs the command to its end with this standard input.
fn build_from(head: &Host, arguments: &[&str], input: &str) -> Said {
    let mut command = command(head, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// Two machines without a threshold of the load, of which the second is preferred.
fn pool(head: &Host, b1: &Host, b2: &Host, slots: u32) {
    let entry = |host: &Host| host.entry().set("overload_threshold", false).set("parallel_builds", f64::from(slots));
    head.write_machines(&[entry(b1), entry(b2).set("speed", 9)]);
}

#[track_caller]
fn assert_nothing_left(head: &Host) {
    head.await_no_lock("afterwards");
    let strays = head.strays();
    assert!(strays.iter().all(|name| !name.ends_with(".chroot") && !name.ends_with(".lock")), "{strays:?}");
    head.verify_store();
}

/// The build runs until the test lets it go.
const UNTIL_GO: &str = "until [ -e /var/lab/go ]; do sleep 0.05; done; echo $name >$out";

#[test]
fn the_named_machine_builds_and_the_outputs_are_valid_and_rooted() {
    let lab = Lab::new();
    for release in RELEASES {
        let machine = |name: &str| lab.build_machine(&format!("{name}-{release:?}")).release(release).start();
        let (b1, b2) = (machine("b1"), machine("b2"));
        let head = lab.head().name(&format!("head-{release:?}")).release(release).start();
        // The input is built by the daemon here, which has its hook build it.
        let input = Drv::new("input").script("echo input >$out");
        let twin = Drv::new("twin")
            .script("cat $input >$out; mkdir -p $lib/d; ln -s $out $lib/d/l; echo the log")
            .outputs(&["out", "lib"])
            .input(&input);
        let plain = Drv::new("plain").script("echo $name >$out");
        let result = derivations(&head, &[&twin, &plain]);
        pool(&head, &b1, &b2, 4);
        let names = [&b1, &b2].map(|host| host.name().to_owned());

        let said = build(&head, &[drv(&result, "twin"), "--on", &names[0], "--root", "/root/result"]);
        assert_eq!(said.status, Some(0), "{said:?}");
        let lib = result.output_of("twin", "lib").display();
        assert_eq!(said.out, format!("{lib}\n{}", output(&result, "twin")), "{said:?}");
        assert!(said.messages.contains("\nthe log\n"), "{said:?}");
        assert!(said.messages.contains("guix-daemon provides 1 input of "), "{said:?}");
        assert!(said.messages.contains(&format!("twin.drv' was built on '{}' in ", names[0])), "{said:?}");
        assert!(b1.built().contains(&"twin".to_owned()) && !b2.built().contains(&"twin".to_owned()));
        let builder = [&b1, &b2].into_iter().find(|host| host.built().contains(&"input".to_owned()));
        assert!(builder.is_some(), "the daemon has not built the input");
        for id in ["out", "lib"] {
            assert!(head.path_info(result.output_of("twin", id)).is_some(), "{id}: {said:?}");
        }
        // The roots count for the garbage collector.
        let roots = ["/root/result-0", "/root/result-1"].map(|link| fs::read_link(head.path(link)).unwrap());
        assert_eq!(roots, [result.output_of("twin", "lib"), result.output("twin")]);
        head.run("guix", &["gc"]);
        assert!(head.path_info(result.output("twin")).is_some());
        fs::remove_file(head.path("/root/result-1")).unwrap();
        fs::remove_file(head.path("/root/result-0")).unwrap();
        head.run("guix", &["gc"]);
        assert!(head.path_info(result.output("twin")).is_none());
        assert_nothing_left(&head);

        // Without a name the best machine builds. A link that exists is not replaced, and then nothing is built.
        let result = derivations_again(&head, &[&plain]);
        head.write("/root/result", "precious");
        let said = build(&head, &[drv(&result, "plain"), "-r", "/root/result"]);
        assert_eq!((said.status, head.read("/root/result")), (Some(1), b"precious".to_vec()), "{said:?}");
        assert!(said.messages.contains("cannot make the root '/root/result': "), "{said:?}");
        assert!(!b2.built().contains(&"plain".to_owned()));
        let said = build(&head, &[drv(&result, "plain")]);
        assert_eq!((said.status, said.out), (Some(0), output(&result, "plain")), "{}", said.messages);
        assert!(b2.built().contains(&"plain".to_owned()));
        // Valid outputs are not built again.
        let said = build(&head, &[drv(&result, "plain"), "--on", &names[0]]);
        assert_eq!((said.status, said.out), (Some(0), output(&result, "plain")), "{}", said.messages);
        assert!(said.messages.contains("are valid: nothing to build"), "{}", said.messages);
    }
}

/// Puts derivations into the store that the collector has taken.
fn derivations_again(head: &Host, drvs: &[&Drv]) -> BuildResult {
    let file = head.path("/etc/guix/machines.lua");
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let result = derivations(head, drvs);
    fs::write(file, kept).unwrap();
    result
}

#[test]
fn a_closure_is_built_in_order_and_the_rest_at_the_same_time() {
    let lab = Lab::new();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    let first = Drv::new("first").script(UNTIL_GO);
    // It is not given, but another one needs the first through it.
    let between = Drv::new("between").script("cat $first >$out").input(&first);
    let last = Drv::new("last").script("cat $between >$out; echo a line").input(&between);
    let other = Drv::new("other").script(UNTIL_GO);
    let failing = Drv::new("failing").script("echo out of luck; exit 3");
    let never = Drv::new("never").script("cat $failing >$out").input(&failing);
    let result = derivations(&head, &[&last, &other, &never]);
    pool(&head, &b1, &b2, 1);
    // The one that comes last is given first, and one is given twice.
    let names = ["last", "never", "other", "first", "failing", "other"].map(|name| drv(&result, name));
    let mut command = command(&head, &["-", "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(names.join("\n").as_bytes()).unwrap();
    let is_building = |host: &Host| host.is_building() && !host.built().contains(&"failing".to_owned());
    wait_until("both machines build", LONG, || {
        [&b1, &b2].iter().all(|host| is_building(host) || host.built().len() > 1)
    });
    assert!(b1.built().iter().chain(&b2.built()).all(|name| name != "between" && name != "last"));
    b1.write("/var/lab/go", "");
    b2.write("/var/lab/go", "");
    let said: Said = child.wait_with_output().unwrap().into();
    assert_eq!(said.status, Some(100), "{said:?}");
    let report = json(&said);
    let results: Vec<&str> =
        report["builds"].as_array().unwrap().iter().map(|build| build["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["built", "skipped", "built", "built", "failed"], "{said:?}");
    assert_eq!(report["builds"][0]["outputs"]["out"], result.output("last").to_str().unwrap());
    let machines = [2, 3].map(|index| report["builds"][index]["machine"].as_str().unwrap());
    assert_ne!(machines[0], machines[1], "{said:?}");
    // Log lines say whose they are.
    assert!(
        said.messages.contains("\nlast: a line\n") && said.messages.contains("\nfailing: out of luck\n"),
        "{said:?}"
    );
    assert!(said.messages.contains("2 of 5 derivations were not built"), "{said:?}");
    for name in ["first", "between", "last", "other"] {
        assert!(head.path_info(result.output(name)).is_some(), "{name}: {said:?}");
    }
    assert!(!b1.built().iter().chain(&b2.built()).any(|name| name == "never"));
    assert_nothing_left(&head);
}

#[test]
fn the_tree_of_a_failed_build_is_found_on_the_machine() {
    let lab = Lab::new();
    for release in RELEASES {
        let b1 = lab.build_machine(&format!("b1-{release:?}")).release(release).start();
        let head = lab.head().name(&format!("head-{release:?}")).start();
        // The message of a builder is not the daemon's.
        let failing = Drv::new("failing")
            .script("echo half >half-made; echo \"note: keeping build directory \\`/etc'\"; echo out of luck; exit 3");
        let result = derivations(&head, &[&failing]);
        head.write_machines(&[b1.entry().set("overload_threshold", false)]);
        let kept = |said: &Said| json(said)["builds"][0]["kept"].as_str().map(str::to_owned);
        // Without the option nothing is kept. The stream of this build is not used for the next one.
        let said = build(&head, &[drv(&result, "failing"), "--json"]);
        assert_eq!((said.status, kept(&said)), (Some(100), None), "{said:?}");
        let said = build(&head, &[drv(&result, "failing"), "--keep-failed", "--json"]);
        assert_eq!(said.status, Some(100), "{said:?}");
        let directory = kept(&said).unwrap_or_else(|| panic!("{said:?}"));
        assert!(said.messages.contains(&format!(" ls -lA {directory}")), "{said:?}");
        assert!(said.messages.contains("out of luck"), "{said:?}");
        let found = b1.run("find", &[&directory, "-name", "half-made", "-type", "f"]);
        assert!(!found.is_empty(), "{directory} has no file: {said:?}");
        assert_eq!(json(&said)["builds"][0]["machine"], b1.name());
        assert_nothing_left(&head);
    }
}

#[test]
fn an_interrupt_ends_the_build_on_the_machine() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let drvs = ["one", "two"].map(|name| Drv::new(name).script(&format!("sleep 1000; : {name}")));
    let result = derivations(&head, &drvs.each_ref());
    head.write_machines(&[b1.entry().set("overload_threshold", false).set("parallel_builds", 1)]);
    let mut command = command(&head, &[drv(&result, "one"), drv(&result, "two")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the machine builds", LONG, || b1.is_building());
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let mut messages = String::new();
    child.stderr.take().unwrap().read_to_string(&mut messages).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{messages}");
    assert_eq!(messages.matches("' was cancelled").count(), 2, "{messages}");
    wait_until("the build has ended on the machine", LONG, || !b1.is_building());
    assert_eq!(b1.built().len(), 1);
    head.await_no_lock("after the interrupt");
    // The daemon has left the locks of what it could not build.
    let strays = head.strays();
    assert!(strays.iter().all(|name| !name.ends_with(".chroot") && !name.ends_with("-one.lock")), "{strays:?}");
    head.verify_store();
}

/// Starts the command, and returns it when the machine builds.
fn start(mut command: Command, machine: &Host) -> Child {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the machine builds", LONG, || machine.is_building());
    child
}

#[test]
fn a_finished_build_keeps_no_connection() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let mut drvs: Vec<Drv> = (0..16).map(|number| Drv::new(&format!("valid-{number}"))).collect();
    head.client().no_offload().max_jobs(1).build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    drvs.push(Drv::new("last").script(UNTIL_GO));
    let result = derivations(&head, &drvs.iter().collect::<Vec<_>>());
    head.write_machines(&[b1.entry().set("overload_threshold", false).set("parallel_builds", 1)]);
    let mut command = head.command("prlimit");
    command.args(["--nofile=200:4096", "/opt/offload/offload", "build"]);
    command.args(drvs.iter().map(|drv| result.derivation(drv.name())));
    let child = start(command, &b1);
    let of_process = format!("/proc/{}", child.id());
    let open = fs::read_dir(format!("{of_process}/fd")).unwrap().flatten();
    let sockets: Vec<_> = open.filter_map(|file| fs::read_link(file.path()).ok()).collect();
    let sockets = sockets.iter().filter(|file| file.to_string_lossy().starts_with("socket:")).count();
    let limits = fs::read_to_string(format!("{of_process}/limits")).unwrap();
    b1.write("/var/lab/go", "");
    let said: Said = child.wait_with_output().unwrap().into();
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(sockets < 16, "{sockets} sockets are open");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(!files.contains(" 200 "), "the limit was not raised: {files}");
}

#[test]
fn a_terminal_gets_the_log_without_control_sequences() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let drvs = ["one", "two"].map(|name| {
        Drv::new(name).script("printf 'a\\033]0;title\\007b\\n100 %%\\rdone \\033[31mred\\n'; echo $name >$out")
    });
    let result = derivations(&head, &drvs.each_ref());
    head.write_machines(&[b1.entry().set("overload_threshold", false)]);
    let [one, two] = ["one", "two"].map(|name| drv(&result, name).to_owned());
    for (derivations, prefix, red) in [(one.clone(), "", "\u{1b}[31mred"), (format!("{one} {two}"), "two: ", "red")] {
        let program = format!("chroot {} /opt/offload/offload build {derivations}", head.root().display());
        let mut script = Command::new("script");
        script.args(["-qec", &program, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null());
        let said: Said = script.output().unwrap().into();
        assert_eq!(said.status, Some(0), "{said:?}");
        let text = said.out.replace("\r\n", "\n");
        let shown = format!("\n{prefix}a\\u{{1b}}]0;title\\u{{7}}b\n{prefix}100 %\n{prefix}done {red}");
        assert!(text.contains(&shown), "{said:?}");
    }
    // A file gets the bytes of the builder.
    let raw = Drv::new("raw").script("printf '\\033]0;title\\007\\n'; echo $name >$out");
    let result = derivations_again(&head, &[&raw]);
    let said = build(&head, &[drv(&result, "raw")]);
    assert!(said.messages.contains("\n\u{1b}]0;title\u{7}\n"), "{said:?}");
}

#[test]
fn links_are_made_in_the_directory_that_was_named_and_all_or_none() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let drvs = ["moved", "taken"]
        .map(|name| Drv::new(name).outputs(&["out", "lib"]).script(&format!("{UNTIL_GO}; echo $name >$lib")));
    let result = derivations(&head, &drvs.each_ref());
    head.write_machines(&[b1.entry().set("overload_threshold", false)]);
    head.run("mkdir", &["/root/named", "/root/other"]);

    // Somebody else could replace a directory of their own during a long build.
    let child = start(command(&head, &[drv(&result, "moved"), "--root", "/root/named/result"]), &b1);
    fs::rename(head.path("/root/named"), head.path("/root/moved")).unwrap();
    symlink("other", head.path("/root/named")).unwrap();
    b1.write("/var/lab/go", "");
    let said: Said = child.wait_with_output().unwrap().into();
    assert_eq!(said.status, Some(0), "{said:?}");
    let names = |directory: &str| fs::read_dir(head.path(directory)).unwrap().count();
    assert_eq!((names("/root/moved"), names("/root/other")), (2, 0), "{said:?}");
    head.run("guix", &["gc"]);
    assert!(head.path_info(result.output("moved")).is_some(), "the links are no roots");

    // A name that was taken meanwhile is not replaced, and then there is no link, and no output is printed.
    fs::remove_file(b1.path("/var/lab/go")).unwrap();
    let result = derivations_again(&head, &[&drvs[1]]);
    let child = start(command(&head, &[drv(&result, "taken"), "--root", "/root/result"]), &b1);
    head.write("/root/result-1", "precious");
    b1.write("/var/lab/go", "");
    let said: Said = child.wait_with_output().unwrap().into();
    assert_eq!((said.status, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.messages.contains("cannot make the root '/root/result-1': "), "{said:?}");
    assert_eq!(head.read("/root/result-1"), b"precious");
    assert!(fs::symlink_metadata(head.path("/root/result-0")).is_err(), "{said:?}");
}

#[test]
fn a_plan_is_printed_and_nothing_is_done() {
    let lab = Lab::new();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    let input = Drv::new("input");
    let plain = Drv::new("plain").input(&input);
    let picky = Drv::new("picky").features(&["kvm"]);
    let valid = Drv::new("valid");
    head.client().no_offload().max_jobs(1).build(&[&valid]).succeeded();
    let result = derivations(&head, &[&plain, &picky, &valid]);
    pool(&head, &b1, &b2, 1);
    let [plain, input, valid] = ["plain", "input", "valid"].map(|name| drv(&result, name));
    let said = build_from(&head, &["-", "--dry-run"], &format!("{plain}\n{valid}\n"));
    let expected = format!(
        "{plain}: would be built on b2\n  guix-daemon of this machine would provide first:\n    {input}\n\
         {valid}: nothing to build, the outputs are valid\n"
    );
    assert_eq!((said.status, said.out), (Some(0), expected), "{}", said.messages);
    let said = build(&head, &[plain, "-n", "--json", "--on", "b1"]);
    let plan = &json(&said)["builds"][0];
    assert_eq!((&plan["result"], &plan["machine"]), (&"would build".into(), &"b1".into()), "{said:?}");
    assert_eq!(plan["missing_inputs"], Value::from(vec![input]), "{said:?}");

    // A drained machine is skipped, unless the user wants otherwise.
    head.run("/opt/offload/offload", &["drain", "b1"]);
    let said = build(&head, &[plain, "-n", "--on", "b1:2022"]);
    assert!(said.out.starts_with(&format!("{plain}: would wait for a machine (")), "{said:?}");
    let said = build(&head, &[plain, "-n", "--on", "b1", "--ignore-drain"]);
    assert!(said.out.starts_with(&format!("{plain}: would be built on b1\n")), "{said:?}");
    assert!(b1.built().is_empty() && b2.built().is_empty());
    // Without the option it would wait.
    let entries = [&b1, &b2].map(|host| host.entry().set("overload_threshold", false).lua());
    head.write_machine_file(&format!("return {{ {}, wait_for_slot = 20 }}", entries.join(",\n")));
    let said = build(&head, &[plain, "--on", "b1", "--ignore-drain"]);
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(b1.built().contains(&"plain".to_owned()));
    pool(&head, &b1, &b2, 1);

    // If a derivation cannot be built, nothing is.
    let picky = drv(&result, "picky");
    head.client().no_offload().max_jobs(1).build(&[]).succeeded();
    for (arguments, status, words) in [
        (&[picky][..], 5, "no machine can build '"),
        (&[picky], 5, "b1: it lacks the feature kvm; b2: it lacks the feature kvm"),
        (&[plain, "--on", "b3"], 5, "no machine matches 'b3'; the machine file has b1, b2"),
        (&["plain"], 2, "'plain' is not a derivation: "),
        (&["/gnu/store/00000000000000000000000000000000-x.drv"], 1, "No such file"),
        (&[plain, "--machine-file", "/nowhere.lua"], 3, "there is no machine file '/nowhere.lua'"),
    ] {
        let said = build(&head, arguments);
        assert_eq!(said.status, Some(status), "{said:?}");
        assert!(said.messages.contains(words) && said.out.is_empty(), "{words}: {said:?}");
    }
}

/// The store is read-only outside of the daemon.
#[test]
fn beside_an_unprivileged_daemon_builds_are_imported_all_the_same() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().unprivileged().start();
    let drvs =
        ["one", "two"].map(|name| Drv::new(name).script("mkdir $out; echo $name >$out/file; ln -s file $out/link"));
    let result = derivations(&head, &drvs.each_ref());
    head.write_machines(&[b1.entry().set("overload_threshold", false)]);
    assert!(fs::write(head.path("/gnu/store/x"), "").is_err(), "the store is writable outside of the daemon");
    let owner = fs::metadata(head.path("/var/guix")).unwrap().uid();
    let owns_all =
        |path: &Path| fs::read_dir(path).unwrap().all(|entry| entry.unwrap().metadata().unwrap().uid() == owner);

    // More derivations than arguments of a process have room for.
    let many: String = (0..40_000).map(|number| format!("/gnu/store/{number:032}-missing.drv\n")).collect();
    let said = build_from(&head, &["-", "--dry-run"], &many);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.messages.contains("00-missing.drv") && said.messages.contains("No such file"), "{said:?}");
    // A root that the daemon cannot see would protect nothing.
    let said = build(&head, &[drv(&result, "one"), "--root", "/root/one"]);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.messages.contains("cannot make the root '/root/one': ") && b1.built().is_empty(), "{said:?}");
    head.run("mkdir", &["/var/roots"]);
    let said = build_from(&head, &["-", "--root", "/var/roots/one"], drv(&result, "one"));
    assert_eq!((said.status, said.out), (Some(0), output(&result, "one")), "{}", said.messages);
    assert_eq!(fs::read_link(head.path("/var/roots/one")).unwrap(), result.output("one"));
    let user = ["--reuid=guix-daemon", "--regid=guix-daemon", "--init-groups", "/opt/offload/offload", "build"];
    let said: Said = head.command("setpriv").args(user).arg(drv(&result, "two")).output().unwrap().into();
    assert_eq!((said.status, said.out), (Some(0), output(&result, "two")), "{}", said.messages);
    for name in ["one", "two"] {
        assert_eq!(head.read(result.output(name).join("link")), format!("{name}\n").as_bytes());
        assert!(head.path_info(result.output(name)).is_some());
    }
    assert!(owns_all(&head.path("/var/guix/offload")), "root's files in the state");
    let left: Vec<_> = fs::read_dir(head.path("/tmp")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("offload-")), "{left:?}");
    head.run("guix", &["gc"]);
    assert!(head.path_info(result.output("one")).is_some() && head.path_info(result.output("two")).is_none());
    assert_nothing_left(&head);
}

#[test]
fn another_user_is_told_to_be_root() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let plain = Drv::new("plain");
    let result = derivations(&head, &[&plain]);
    head.write_machines(&[b1.entry()]);
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "/opt/offload/offload", "build"];
    let said: Said = head.command("setpriv").args(user).arg(drv(&result, "plain")).output().unwrap().into();
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.messages.contains("run this command as root"), "{said:?}");
    assert!(b1.built().is_empty());
}
