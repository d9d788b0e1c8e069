//! The lab itself: what other tests rely on, shown with Guix's own `guix offload` where a hook is needed.

mod lab;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Direction, Drv, Hook, Host, LONG, Lab, Release, Signal, max_concurrency, wait_until};
use offload::internals::machine::HostKeyKind;

/// Fails if anything of a lab is left.
fn assert_gone(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("{}/", directory.display())), "mounts are left in {}", directory.display());
    assert!(!directory.exists(), "{} is left", directory.display());
    let processes = lab::processes(directory);
    assert!(processes.is_empty(), "left: {processes:?}");
}

#[test]
fn upstream_offloads_a_build() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().hook(Hook::Upstream).start();
    head.write_machines(&[b1.entry()]);
    let one = Drv::new("one").script("echo 1 >$out");
    let two = Drv::new("two").input(&one).script("echo $one; cat $one >$out; echo $one >>$out");

    let result = head.build(&[&two]).succeeded();

    let first = result.output("one").to_str().unwrap();
    assert_eq!(head.read(result.output("two")), format!("1\n{first}\n").as_bytes());
    assert!(result.log.contains(first), "no build log in:\n{}", result.log);
    assert_eq!(b1.built(), ["one", "two"]);
    assert!(head.built().is_empty());
    head.verify_store();
    b1.verify_store();
    let info = head.path_info(result.output("two")).unwrap();
    assert_eq!(info.references, [first]);
    assert_eq!(Some(info), b1.path_info(result.output("two")));
    assert!(head.valid_paths().contains(&result.output("two").to_owned()));

    let directory = lab.directory().to_owned();
    drop((lab, head, b1));
    assert_gone(&directory);
}

#[test]
fn a_failed_build_has_a_status_and_a_log() {
    let lab = Lab::new();
    let host = lab.build_machine("b1").start();
    let bad = Drv::new("bad").script("echo before; false; echo after");
    let slow = Drv::new("slow").script("sleep 60");

    let result = host.build(&[&bad]);
    assert_eq!(result.status, Some(100));
    assert!(result.error.contains("bad.drv"), "{}", result.error);
    assert!(result.log.contains("before") && !result.log.contains("after"), "{}", result.log);
    assert_eq!(host.path_info(result.output("bad")), None);
    assert!(host.path_info(result.derivation("bad")).is_some());

    assert_eq!(host.client().timeout(1).build(&[&slow]).status, Some(101));
    assert_eq!(host.client().max_silent_time(1).build(&[&slow]).status, Some(101));
    assert_eq!(host.built(), ["bad", "slow", "slow"]);
    wait_until("no build is left", LONG, || !host.is_building());
}

#[test]
fn derivations_of_all_kinds_can_be_built() {
    let lab = Lab::new();
    let host = lab.build_machine("b1").start();
    host.write("/tmp/tree/file", "text");
    let both = Drv::new("both").outputs(&["out", "dev"]).script("echo header >$dev; mkdir $out; ln -s $dev $out/dev");
    let user = Drv::new("user")
        .input_output("headers", &both, "dev")
        .file("tree", "/tmp/tree")
        .env("greeting", "hi \"there\"\\n")
        .script("cat $headers $tree/file >$out; echo \"$greeting\" >>$out");
    let fixed = Drv::new("fixed").fixed_file("sha256", &sha256_of(b"fixed\n")).script("echo fixed >$out");
    let wrong = Drv::new("wrong").fixed_file("sha256", &sha256_of(b"right\n")).script("echo wrong >$out");

    let result = host.build(&[&user, &fixed]).succeeded();
    let user = String::from_utf8(host.read(result.output("user"))).unwrap();
    assert_eq!(user, "header\ntexthi \"there\"\\n\n");
    assert_eq!(
        host.path_info(result.output("both")).unwrap().references,
        [result.output_of("both", "dev").to_str().unwrap()]
    );
    assert_eq!(host.read(result.output("fixed")), b"fixed\n");
    let result = host.build(&[&wrong]);
    assert!(result.status == Some(1) && result.error.contains("wrong.drv"), "{result:?}");
}

fn sha256_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn concurrency_is_measured() {
    let lab = Lab::new();
    let host = lab.build_machine("b1").max_jobs(2).start();
    let leaves: Vec<Drv> = (0..4).map(|n| Drv::new(&format!("leaf-{n}")).script("sleep 1.5; true >$out")).collect();
    let top = leaves.iter().fold(Drv::new("top"), Drv::input);

    host.build(&[&top]).succeeded();

    let builds = host.builds();
    assert_eq!(builds.len(), 5);
    assert_eq!(builds[4].name, "top");
    assert_eq!(max_concurrency(&builds), 2, "{builds:?}");
    assert_eq!(max_concurrency(&builds[4..]), 1);
    assert!(builds[..4].iter().all(|build| build.end.unwrap() - build.start >= 1.49), "{builds:?}");
}

#[test]
fn a_client_can_be_interrupted() {
    let lab = Lab::new();
    let host = lab.build_machine("b1").start();
    for signal in [Signal::INT, Signal::KILL] {
        let name = format!("slow-{}", signal.as_raw());
        let mut build = host.client().start(&[&Drv::new(&name).script("echo under way; sleep 60")]);
        build.wait_for_log("under way");
        assert!(host.is_building() && !build.is_done());
        build.interrupt(signal);
        wait_until("the build is gone", LONG, || !host.is_building());
    }
}

#[test]
fn hosts_freeze_and_lose_power() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let slow = Drv::new("slow").script("echo under way; sleep 60");

    b1.freeze();
    assert!(banner(&b1, Duration::from_millis(300)).is_none());
    b1.thaw();
    assert!(banner(&b1, LONG).is_some());

    for stop in [Host::stop_daemon, Host::power_off] {
        let mut build = b1.client().start(&[&slow]);
        build.wait_for_log("under way");
        stop(&b1);
        assert_eq!(build.wait().status, None);
        wait_until("the build is gone", LONG, || !b1.is_building());
        b1.start_daemon();
    }
    assert!(TcpStream::connect(b1.ssh_address()).is_err());
    b1.start_sshd();
    assert!(banner(&b1, LONG).is_some());
    b1.stop_sshd();
    assert!(TcpStream::connect(b1.ssh_address()).is_err());
    b1.build(&[&Drv::new("quick")]).succeeded();
}

/// Returns the first line of sshd, if it sends one within `limit`.
fn banner(host: &Host, limit: Duration) -> Option<String> {
    let stream = TcpStream::connect(host.ssh_address()).unwrap();
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok().map(|_| line)
}

#[test]
fn accounts_open_with_the_keys_they_should() {
    let lab = Lab::new();
    let kinds = [
        HostKeyKind::Ed25519,
        HostKeyKind::EcdsaP256,
        HostKeyKind::EcdsaP384,
        HostKeyKind::EcdsaP521,
        HostKeyKind::Rsa,
    ];
    let b1 = lab.build_machine("b1").host_keys(&kinds).start();
    let b2 = lab.build_machine("b2").closed().sshd_option("MaxSessions 3").start();
    let b3 = lab.build_machine("b3").release(Release::Bullseye).account("offload").start();
    let log_in = |host: &Host, user: &str, key: &str| {
        let mut session = ssh2::Session::new().unwrap();
        session.set_tcp_stream(TcpStream::connect(host.ssh_address()).unwrap());
        session.handshake().unwrap();
        let key = host.path(format!("{}/{key}", lab::USER_KEYS));
        session.userauth_pubkey_file(user, None, &key, Some("secret")).map(|()| {
            let mut channel = session.channel_session().unwrap();
            channel.exec("id -un; command -v guix").unwrap();
            let mut said = String::new();
            channel.read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("{user}\n/usr/bin/guix\n"));
        })
    };
    for key in ["ed25519", "ecdsa", "rsa", "passphrase"] {
        for (host, user) in [(&b1, "root"), (&b1, "offload"), (&b3, "offload")] {
            log_in(host, user, key).unwrap_or_else(|error| panic!("{user} at {} with {key}: {error}", host.name()));
        }
        assert!(log_in(&b2, "root", key).is_err());
    }
    assert!(log_in(&b1, "root", "stranger").is_err());
    assert!(b3.entry().lua().contains("user = \"offload\""));
    for kind in kinds {
        let said = key_scan(&b1, kind);
        assert!(b1.host_key(kind).starts_with(&said), "{said} is not {}", b1.host_key(kind));
    }
}

#[test]
fn the_program_is_in_a_head() {
    let lab = Lab::new();
    let head = lab.head().start();
    for name in ["offload", "guix"] {
        // Here the program and its libraries must be found. Other tests check its output.
        let status = head.command(&format!("/opt/offload/{name}")).arg("--version").status().unwrap();
        assert!(status.code().is_some_and(|code| code < 126), "{name}: {status}");
    }
    let daemon = head.processes().into_iter().find(|process| process.name == "guix-daemon").unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", daemon.pid)).unwrap();
    assert!(String::from_utf8_lossy(&environment).split('\0').any(|pair| pair == "GUIX=/opt/offload/guix"));
}

#[test]
fn an_old_guix_builds() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").release(Release::Bullseye).start();
    assert!(b1.run("guix", &["--version"]).contains(" 1.2.0"));
    let result = b1.build(&[&Drv::new("old").script("echo old >$out")]).succeeded();
    assert_eq!(b1.read(result.output("old")), b"old\n");
    assert!(b1.path_info(result.output("old")).is_some());
    b1.verify_store();
    let said =
        b1.guile("(use-modules (guix config)) (display (cadr (command-line))) (display %store-directory)", &["x "]);
    assert_eq!(String::from_utf8_lossy(&said.stdout), "x /gnu/store");
}

#[test]
fn a_proxy_misbehaves_as_configured() {
    let lab = Lab::new();
    // An echo.
    let echo = TcpListener::bind((lab.unused_address(), 0)).unwrap();
    let proxy = lab.proxy("p1", echo.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in echo.incoming() {
            let mut back = stream.unwrap();
            let mut from = back.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
        }
    });
    let connect = || {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    // Reads until so many bytes have come, or the end, or none for too long.
    let receive = |mut stream: &TcpStream, count: usize| {
        let mut bytes = vec![0; count];
        let mut got = 0;
        while got < count
            && let Ok(more @ 1..) = stream.read(&mut bytes[got..])
        {
            got += more;
        }
        bytes.truncate(got);
        bytes
    };
    let exchange = |mut stream: &TcpStream, bytes: &[u8]| {
        let _ = stream.write_all(bytes);
        receive(stream, bytes.len())
    };
    // Nothing comes, and no end.
    let assert_silence = |mut stream: &TcpStream, bytes: &[u8]| {
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream.write_all(bytes).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
        stream.set_read_timeout(Some(LONG)).unwrap();
    };

    let stream = connect();
    assert_eq!(exchange(&stream, b"hello"), b"hello");
    assert_eq!(
        (proxy.connections(), proxy.passed(Direction::ToTarget), proxy.passed(Direction::FromTarget)),
        (1, 5, 5)
    );

    proxy.delay(Duration::from_millis(30));
    let start = Instant::now();
    assert_eq!(exchange(&stream, b"later"), b"later");
    assert!(start.elapsed().as_millis() >= 60, "{:?}", start.elapsed());
    proxy.delay(Duration::ZERO);

    proxy.throttle(Some(1_000_000));
    let start = Instant::now();
    let large = vec![7; 200_000];
    assert_eq!(exchange(&stream, &large), large);
    assert!(start.elapsed().as_millis() >= 150, "{:?}", start.elapsed());
    proxy.throttle(None);

    proxy.flip_after(Direction::FromTarget, 1);
    assert_eq!(exchange(&stream, b"abc"), [b'a', !b'b', b'c']);
    assert_eq!(exchange(&stream, b"abc"), b"abc");

    proxy.freeze();
    assert_silence(&stream, b"held");
    proxy.thaw();
    assert_eq!(receive(&stream, 4), b"held");

    let stream = connect();
    proxy.cut_after(Direction::FromTarget, 3);
    assert_eq!(exchange(&stream, b"12345"), b"123");
    assert_eq!(exchange(&stream, b"12345"), b"");
    let stream = connect();
    assert_eq!(exchange(&stream, b"12345"), b"12345");
    proxy.cut();
    assert_eq!(exchange(&stream, b"12345"), b"");

    proxy.say_nothing();
    assert_silence(&connect(), b"12345");
    proxy.refuse();
    assert!(TcpStream::connect(proxy.address()).is_err());
    proxy.pass();
    assert_eq!(exchange(&connect(), b"12345"), b"12345");
}

#[test]
fn upstream_builds_through_a_proxy() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let proxy = lab.proxy("p1", b1.ssh_address());
    let head = lab.head().hook(Hook::Upstream).start();
    head.write_machines(&[b1.entry().via(&proxy)]);
    head.build(&[&Drv::new("far")]).succeeded();
    assert_eq!(b1.built(), ["far"]);
    assert!(proxy.passed(Direction::ToTarget) > 0);
}

#[test]
fn labs_are_separate() {
    let (one, two) = (Lab::new(), Lab::new());
    let (first, second) = (one.build_machine("b1").start(), two.build_machine("b1").start());
    assert_ne!(first.ssh_address(), second.ssh_address());
    first.build(&[&Drv::new("mine")]).succeeded();
    assert!(second.valid_paths().is_empty());
    let directory = one.directory().to_owned();
    drop((one, first));
    assert_gone(&directory);
    second.build(&[&Drv::new("mine")]).succeeded();
}

#[test]
fn a_panic_removes_the_lab() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let lab = Lab::new();
        let host = lab.build_machine("b1").start();
        let _build = host.client().start(&[&Drv::new("slow").script("sleep 60")]);
        sender.send(lab.directory().to_owned()).unwrap();
        panic!("a test that fails, to see its lab go");
    });
    assert!(test.join().is_err());
    assert_gone(&receiver.recv().unwrap());
}

#[test]
fn a_killed_process_ends_its_lab() {
    let (mut child, directory) = spawn_with_lab();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the supervisor has cleared up", LONG, || !directory.exists());
    assert_gone(&directory);
}

#[test]
fn a_new_lab_removes_the_remains_of_dead_ones() {
    let (mut child, directory) = spawn_with_lab();
    let supervisor = std::fs::read_to_string(directory.join("supervisor")).unwrap().trim().parse().unwrap();
    assert!(lab::processes(&directory).len() >= 3);
    // From now on any other lab may do it.
    rustix::process::kill_process(rustix::process::Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let living = Lab::new();
    wait_until("another lab has cleared up", LONG, || !directory.exists() || directory == living.directory());
    assert!(living.directory() == directory || lab::processes(&directory).is_empty());
}

/// A process with a lab in which a build runs, and the lab's directory.
fn spawn_with_lab() -> (std::process::Child, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "holds_a_lab"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let directory = lines.map(Result::unwrap).find_map(|line| line.split_once("lab: ").map(|it| it.1.into()));
    (child, directory.expect("the process ended without a lab"))
}

#[test]
#[ignore = "not a test: the process that others start and kill"]
fn holds_a_lab() {
    let lab = Lab::new();
    let host = lab.build_machine("b1").start();
    let mut build = host.client().start(&[&Drv::new("slow").script("echo under way; sleep 60")]);
    build.wait_for_log("under way");
    println!("lab: {}", lab.directory().display());
    build.wait();
}

/// The host key of a type that a host shows, in OpenSSH form.
fn key_scan(host: &Host, kind: HostKeyKind) -> String {
    use base64::Engine;
    let mut session = ssh2::Session::new().unwrap();
    let method = if kind == HostKeyKind::Rsa { "rsa-sha2-512" } else { kind.name() };
    session.method_pref(ssh2::MethodType::HostKey, method).unwrap();
    session.set_tcp_stream(TcpStream::connect(host.ssh_address()).unwrap());
    session.handshake().unwrap();
    let (blob, _) = session.host_key().unwrap();
    format!("{} {}", kind.name(), base64::engine::general_purpose::STANDARD.encode(blob))
}
