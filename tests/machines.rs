//! Build machines of every kind: an old Guix, servers with restrictions, types of key, ways of getting there.

mod lab;

use std::io::Read;
use std::path::Path;

use lab::{BuildResult, Drv, Entry, Host, LONG, Lab, Release, USER_KEYS, wait_until};
use offload::internals::machine::HostKeyKind;

const MIB: u64 = 1 << 20;

/// The item is the same on both sides: hash, size, references, deriver.
#[track_caller]
fn assert_same_item(head: &Host, machine: &Host, path: &Path) {
    let here = head.path_info(path);
    assert!(here.is_some(), "{} is not valid on the head", path.display());
    assert_eq!(here, machine.path_info(path), "{}", path.display());
}

/// Makes the head take this machine alone, and forget what it knew of it.
fn use_only(head: &Host, entry: Entry) {
    head.write_machines(&[entry]);
    let _ = std::fs::remove_dir_all(head.path("/var/guix/offload"));
}

/// A derivation that is built on the machine with the feature `on`, and makes so many MiB of noise out of its inputs.
fn noise(name: &str, on: &str, mib: u64, inputs: &[&Drv]) -> Drv {
    let needs: Vec<String> = inputs.iter().map(|input| format!("${}", input.name())).collect();
    let script = format!(
        "needs=\"{}\"; mkdir $out; for input in $needs; do sha256sum $input/noise >>$out/sums; done
         head -c {} /dev/urandom >$out/noise; echo $needs >$out/needs",
        needs.join(" "),
        mib * MIB
    );
    let drv = Drv::new(name).features(&[on]).script(&script);
    inputs.iter().fold(drv, |drv, input| drv.input(input))
}

/// Builds a graph in which each release gets what the other made.
fn exchange(head: &Host, old: &Host, new: &Host) -> BuildResult {
    head.write_machines(&[old.entry().set("features", ["old"]), new.entry().set("features", ["new"])]);
    let one = noise("one", "old", 20, &[]);
    let two = noise("two", "new", 20, &[&one]);
    let three = noise("three", "old", 1, &[&one, &two]);
    let result = head.build(&[&three]).succeeded();
    assert_eq!(old.built(), ["one", "three"]);
    assert_eq!(new.built(), ["two"]);
    for (name, machine) in [("one", old), ("two", new), ("three", old)] {
        assert_same_item(head, machine, result.output(name));
    }
    // What was sent arrived as it was.
    assert_same_item(head, new, result.output("one"));
    assert_same_item(head, old, result.output("two"));
    head.verify_store();
    old.verify_store();
    result
}

#[test]
fn guix_1_2_and_the_newest_pass_items_to_each_other() {
    let lab = Lab::new();
    let old = lab.build_machine("old").release(Release::Bullseye).start();
    let new = lab.build_machine("new").start();
    let head = lab.head().start();
    assert!(old.run("guix", &["--version"]).contains(" 1.2.0"));
    let result = exchange(&head, &old, &new);
    assert!(!result.log.contains("guix repl"), "{}", result.log);
}

#[test]
fn builds_work_through_the_relay() {
    let lab = Lab::new();
    let no = "AllowStreamLocalForwarding no";
    let old = lab.build_machine("old").release(Release::Bullseye).sshd_option(no).start();
    let new = lab.build_machine("new").sshd_option(no).start();
    let head = lab.head().start();
    exchange(&head, &old, &new);

    for machine in [&old, &new] {
        let name = machine.name();
        use_only(&head, machine.entry());
        let warning = format!("{name}:2022: its SSH server does not forward to sockets");
        // Said once a day, not by each hook.
        for count in [1, 0] {
            head.forget_health();
            let result = head.build(&[&Drv::new(&format!("{name}-{count}"))]).succeeded();
            assert_eq!(result.log.matches(&warning).count(), count, "{}", result.log);
        }
    }
}

#[test]
fn keys_of_every_type_are_accepted() {
    use HostKeyKind::{EcdsaP256, EcdsaP384, EcdsaP521, Ed25519, Rsa};
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").host_keys(&[Ed25519, EcdsaP256, EcdsaP384, EcdsaP521, Rsa]).start();
    let head = lab.head().start();
    let pairs = [(Rsa, "rsa"), (EcdsaP256, "ecdsa"), (Ed25519, "ed25519"), (EcdsaP384, "rsa"), (EcdsaP521, "ed25519")];
    for (host_key, user_key) in pairs {
        let entry = b1.entry().set("private_key", format!("{USER_KEYS}/{user_key}"));
        use_only(&head, entry.set("host_key", b1.host_key(host_key)));
        let drv = Drv::new(&format!("{host_key}-{user_key}"));
        head.build(&[&drv]).succeeded();
        assert_eq!(b1.built().last().map(String::as_str), Some(drv.name()));
    }
    for kind in ["RSA", "ECDSA", "ED25519"] {
        let accepted =
            |line: &str| line.starts_with("Accepted publickey for root") && line.contains(&format!(": {kind} "));
        assert!(b1.sshd_log().lines().any(accepted), "no login with a key of type {kind}:\n{}", b1.sshd_log());
    }
}

#[test]
fn transfers_survive_new_session_keys_and_compression() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").sshd_option("RekeyLimit 16M").sshd_option("LogLevel DEBUG1").start();
    let head = lab.head().start();
    for (compression, size, least_exchanges) in [("none", 110 * MIB, 12), ("zlib", 20 * MIB, 2)] {
        let mut input = vec![0; size as usize];
        std::fs::File::open("/dev/urandom").and_then(|mut noise| noise.read_exact(&mut input)).unwrap();
        head.write("/tmp/large", &input);
        use_only(&head, b1.entry().set("compression", compression));
        let drv = Drv::new(&format!("copy-{compression}")).file("large", "/tmp/large").script("cat $large >$out");

        let before = new_keys(&b1);
        let result = head.build(&[&drv]).succeeded();
        let exchanges = new_keys(&b1) - before;
        assert_same_item(&head, &b1, result.output(drv.name()));
        assert!(head.read(result.output(drv.name())) == input, "the output differs from the input");
        assert!(exchanges >= least_exchanges, "{exchanges} exchanges of keys");
        assert_eq!(b1.sshd_log().contains("compression: zlib@openssh.com"), compression == "zlib");
    }
    head.verify_store();
}

/// How often sshd has put new keys to use.
fn new_keys(machine: &Host) -> usize {
    machine.sshd_log().matches("SSH2_MSG_NEWKEYS received").count()
}

/// The name does not resolve: only the proxy command makes the connection.
#[test]
fn a_proxy_command_makes_the_connection() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let command = ["sh", "-c", "echo \"$0 $1\" >>/tmp/proxied; exec busybox nc b1 2022", "%h", "%p"];
    head.write_machines(&[b1.entry().set("name", "behind").set("proxy_command", command)]);
    head.build(&[&Drv::new("proxied").script("head -c 1000000 /dev/urandom >$out")]).succeeded();
    assert_eq!(b1.built(), ["proxied"]);
    // A line for each connection: one, unless the machine took too long to answer before the reply.
    let proxied = String::from_utf8(head.read("/tmp/proxied")).unwrap();
    assert!(!proxied.is_empty() && proxied.lines().all(|line| line == "behind 2022"), "{proxied}");
    wait_until("the commands are gone", LONG, || {
        !head.processes().iter().any(|process| process.command.contains("nc b1"))
    });
}

/// What the head remembers of the machine's load; `null` where it could not ask.
fn remembered_load(head: &Host) -> String {
    let record = head.read("/var/guix/offload/b1:2022/health.json");
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    record["status"]["load1"].to_string()
}

#[test]
fn an_account_needs_neither_a_shell_nor_root() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").account("offload").start();
    let head = lab.head().start();
    let build = |name: &str| {
        let input = Drv::new(&format!("{name}-input")).script("head -c 3000000 /dev/urandom >$out");
        let drv = Drv::new(name).input(&input).script("echo >$out");
        use_only(&head, b1.entry());
        head.build(&[&drv, &input]).succeeded();
        assert_eq!(b1.built().last().map(String::as_str), Some(name));
    };
    // A machine that takes long to answer is not asked before the reply.
    let is_asked = (0..10).any(|number| {
        build(&format!("ordinary-{number}"));
        remembered_load(&head) != "null"
    });
    assert!(is_asked);

    b1.run("usermod", &["--shell", "/usr/sbin/nologin", "offload"]);
    build("nologin");
    assert_eq!(remembered_load(&head), "null");
    head.verify_store();
}

#[test]
fn a_server_need_not_run_commands() {
    let lab = Lab::new();
    let head = lab.head().start();
    for (number, command) in ["/bin/false", "internal-sftp", "echo nothing for you"].into_iter().enumerate() {
        let name = format!("b{number}");
        let b = lab.build_machine(&name).sshd_option(&format!("ForceCommand {command}")).start();
        // The limit of the probe, which is not waited for.
        use_only(&head, b.entry().set("connect_timeout", 2 * LONG.as_secs() as i32));
        let start = std::time::Instant::now();
        head.build(&[&Drv::new(&name)]).succeeded();
        assert!(start.elapsed() < LONG, "{command}: {:?}", start.elapsed());
        assert_eq!(b.built(), [name]);
    }
}

/// Two builds at a time would meet in the directory.
#[test]
fn one_host_under_two_spellings_of_its_name_has_its_slots_once() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    let entry = || machine.entry().set("parallel_builds", 1);
    head.write_machines(&[entry(), entry().set("name", "B1").set("speed", 2), entry().set("name", "b1.")]);
    let alone = "mkdir /tmp/busy || exit 1; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; rmdir /tmp/busy; echo >$out";
    let builds: Vec<Drv> = ["one", "two", "three"].map(|name| Drv::new(name).script(alone)).into();
    head.build(&builds.iter().collect::<Vec<_>>()).succeeded();
    assert_eq!(machine.built().len(), 3);
}
