//! From a name to a session: host keys, user keys, and the errors of each step.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use offload::internals::machine::{Compression, HostKey, Machine};
use offload::internals::ssh::{Cause, Error, Phase, Session};
use tempfile::TempDir;

use crate::roots::made_by_setup;
use crate::sshd::{BULLSEYE, Options, SID, Server, host_key, keygen, own_address, processes};

pub fn refusal(machine: &Machine) -> Error {
    match Session::connect(machine) {
        Ok(_) => panic!("the connection was opened"),
        Err(error) => {
            assert!(error.to_string().starts_with(&machine.address()), "{error}");
            error
        }
    }
}

#[test]
fn every_type_of_host_key_is_recognized() {
    let kinds: [&[&str]; 5] = [
        &["-t", "ed25519"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-b", "3072"],
    ];
    for (options, kinds) in [(&SID, &kinds[..]), (&BULLSEYE, &kinds[4..])] {
        for kind in kinds {
            let server = Server::start(&Options { host_key: kind, ..*options });
            let session = Session::connect(&server.machine()).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            if kind[1] == "rsa" {
                assert!(session.algorithms().contains(" rsa-sha2-512 "), "{}", session.algorithms());
            }
        }
    }
}

#[test]
fn one_of_several_pinned_keys_suffices() {
    let server = Server::start(&SID);
    let mut machine = server.machine();
    let directory = TempDir::new().unwrap();
    let other = directory.path().join("other");
    keygen(&other, &["-t", "rsa"]);
    machine.host_keys.insert(0, host_key(&other.with_extension("pub")));
    Session::connect(&machine).unwrap();
}

#[test]
fn another_host_key_is_refused_before_authentication() {
    let server = Server::start(&SID);
    let mut machine = server.machine();
    let shown = fs::read_to_string(server.shared().join("host_key.pub")).unwrap();
    let directory = TempDir::new().unwrap();
    let other = directory.path().join("other");
    keygen(&other, &["-t", "ed25519"]);
    machine.host_keys = vec![host_key(&other.with_extension("pub"))];

    let error = refusal(&machine);
    assert_eq!(error.phase, Phase::HostKey);
    let Cause::HostKeyDiffers { offered, fingerprint } = &error.cause else { panic!("{error}") };
    assert_eq!(Some(offered.as_str()), shown.trim_end().strip_suffix(" test"));
    let printed = Command::new("ssh-keygen").arg("-lf").arg(server.shared().join("host_key.pub")).output().unwrap();
    assert!(String::from_utf8_lossy(&printed.stdout).contains(fingerprint), "{fingerprint}");
    assert!(error.hint().unwrap().contains(offered));
    // The server has received no user name.
    server.await_log("Disconnected from 127.0.0.1");
    let log = server.log();
    assert!(log.contains("Connection from 127.0.0.1") && !log.contains("root"), "{log}");
}

#[test]
fn an_error_about_a_missing_key_type_lists_the_offered_types() {
    let server = Server::start(&Options { host_key: &["-t", "ecdsa", "-b", "256"], ..SID });
    let mut machine = server.machine();
    let directory = TempDir::new().unwrap();
    let other = directory.path().join("other");
    keygen(&other, &["-t", "ed25519"]);
    machine.host_keys = vec![host_key(&other.with_extension("pub"))];
    let error = refusal(&machine);
    let text = "the server has no host key of a pinned type (ssh-ed25519); it offers ecdsa-sha2-nistp256";
    assert!(error.to_string().ends_with(text), "{error}");
    // The program accepts the key that the command prints. It does not accept the output of ssh-keyscan.
    let hint = error.hint().unwrap();
    let command = format!("offload add --port {} {}", machine.port, machine.name);
    assert!(hint.starts_with(&format!("`{command}`")), "{hint}");
    let output = Command::new(env!("CARGO_BIN_EXE_offload")).args(command.split(' ').skip(1)).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let key = printed.split("host_key = \"").nth(1).unwrap().split('"').next().unwrap();
    machine.host_keys = vec![HostKey::parse(key).unwrap()];
    Session::connect(&machine).unwrap();
}

/// No hint suggests a key that the program would refuse.
#[test]
fn no_hint_pins_a_key_that_would_be_refused() {
    let directory = TempDir::new().unwrap();
    let other = directory.path().join("other");
    keygen(&other, &["-t", "rsa", "-b", "3072"]);
    for options in [&SID, &BULLSEYE] {
        let server = Server::start(&Options { host_key: &["-t", "rsa", "-b", "1024"], ..*options });
        let machine = Machine { host_keys: vec![host_key(&other.with_extension("pub"))], ..server.machine() };
        let differs = refusal(&machine);
        assert!(matches!(differs.cause, Cause::HostKeyDiffers { .. }), "{differs}");
        for error in [differs, Session::host_key(&machine).unwrap_err()] {
            let hint = error.hint().unwrap();
            assert!(hint.contains("at least 2048") && hint.contains("ssh-keygen -A"), "{hint}");
            assert!(!hint.contains("host_key = "), "{hint}");
        }
    }
    let options = Options { host_key: &["-t", "rsa", "-b", "3072"], sshd: &["HostKeyAlgorithms=ssh-rsa"], ..BULLSEYE };
    let server = Server::start(&options);
    let error = refusal(&server.machine());
    assert!(matches!(error.cause, Cause::NoCommonHostKeyType { .. }), "{error}");
    assert!(error.hint().unwrap().starts_with("none of these types is supported"), "{error}");
}

#[test]
fn every_type_of_user_key_logs_in() {
    let sid = Server::start(&SID);
    let bullseye = Server::start(&BULLSEYE);
    let directory = TempDir::new().unwrap();
    let kinds: [&[&str]; 5] = [
        &["-t", "ed25519"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-b", "3072"],
    ];
    let mut authorized = String::new();
    let mut keys = Vec::new();
    for kind in kinds {
        for form in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
            let key = directory.path().join(format!("{}", keys.len()));
            keygen(&key, &[kind, form].concat());
            authorized += &fs::read_to_string(key.with_extension("pub")).unwrap();
            keys.push((key, kind, form));
        }
    }
    for server in [&sid, &bullseye] {
        fs::write(server.shared().join("authorized_keys"), &authorized).unwrap();
        let mut machine = server.machine();
        for (key, kind, form) in &keys {
            machine.private_key = Some(key.clone());
            Session::connect(&machine).unwrap_or_else(|error| panic!("{kind:?} {form:?}: {error}"));
        }
    }
}

/// RSA keys have several signature algorithms. The server lists those that it accepts.
#[test]
fn an_rsa_key_signs_with_an_algorithm_that_the_server_accepts() {
    let directory = TempDir::new().unwrap();
    let key = directory.path().join("rsa");
    keygen(&key, &["-t", "rsa", "-b", "2048"]);
    for (options, setting) in [
        (&SID, "PubkeyAcceptedAlgorithms=rsa-sha2-256"),
        (&SID, "PubkeyAcceptedAlgorithms=rsa-sha2-512"),
        (&BULLSEYE, "PubkeyAcceptedKeyTypes=rsa-sha2-512,ssh-rsa"),
    ] {
        let server = Server::start(&Options { sshd: &[setting], ..*options });
        fs::copy(key.with_extension("pub"), server.shared().join("authorized_keys")).unwrap();
        let machine = Machine { private_key: Some(key.clone()), ..server.machine() };
        Session::connect(&machine).unwrap_or_else(|error| panic!("{setting}: {error}\n{}", server.log()));
    }
}

#[test]
fn an_unauthorized_key_is_reported_with_the_line_to_add() {
    let server = Server::start(&SID);
    let mut machine = server.machine();
    let directory = TempDir::new().unwrap();
    let other = directory.path().join("other");
    keygen(&other, &["-t", "ed25519"]);
    machine.private_key = Some(other.clone());
    let error = refusal(&machine);
    assert_eq!(error.phase, Phase::Authenticate);
    assert!(error.to_string().ends_with(&format!("user 'root' may not log in with key '{}'", other.display())));
    let line = fs::read_to_string(other.with_extension("pub")).unwrap();
    assert!(error.hint().unwrap().ends_with(line.trim_end().strip_suffix(" test").unwrap()));
}

#[test]
fn an_unusable_private_key_is_reported_without_a_connection() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str| directory.path().join(name);
    keygen(&file("good"), &["-t", "ed25519"]);
    keygen(&file("locked"), &["-t", "ed25519", "-N", "secret"]);
    keygen(&file("exposed"), &["-t", "ed25519"]);
    fs::set_permissions(file("exposed"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(file("good.pub"), Permissions::from_mode(0o600)).unwrap();
    // No server listens on this port: a connection would fail with another error.
    let mut machine = Machine::new("127.0.0.1", "root", vec![], vec![host_key(&file("good.pub"))]);
    machine.port = 1;
    let mut cause = |path: &Path| {
        machine.private_key = Some(path.to_owned());
        let error = refusal(&machine);
        assert_eq!(error.phase, Phase::PrivateKey);
        assert!(error.to_string().contains(&path.display().to_string()) && error.hint().is_some(), "{error}");
        error.cause
    };
    assert!(matches!(cause(&file("none")), Cause::PrivateKeyMissing { .. }));
    assert!(matches!(cause(&file("locked")), Cause::PrivateKeyEncrypted { .. }));
    assert!(matches!(cause(&file("exposed")), Cause::PrivateKeyExposed { mode: 0o644, .. }));
    assert!(matches!(cause(&file("good.pub")), Cause::NotAPrivateKey { .. }));
}

/// Returns a machine at an address without a server.
fn nowhere(directory: &TempDir, name: &str, port: u16) -> Machine {
    let key = directory.path().join("key");
    if !key.exists() {
        keygen(&key, &["-t", "ed25519"]);
    }
    let mut machine = Machine::new(name, "root", vec![], vec![host_key(&key.with_extension("pub"))]);
    machine.port = port;
    machine.private_key = Some(key);
    machine
}

#[test]
fn each_reason_for_no_ssh_connection_has_its_own_error() {
    let directory = TempDir::new().unwrap();
    let error = refusal(&nowhere(&directory, "nowhere.invalid", 22));
    assert!(matches!(error.cause, Cause::NameNotResolved(_)), "{error}");
    assert_eq!(error.phase, Phase::Resolve);

    let unused = own_address();
    let error = refusal(&nowhere(&directory, &unused.ip().to_string(), unused.port()));
    assert!(matches!(error.cause, Cause::ConnectionRefused { .. }), "{error}");

    // Replies with `text` and closes the connection.
    let serve = |text: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A real server starts a process before it replies. An immediate reply may be lost.
            let client = BufReader::new(&stream).lines().next().unwrap().unwrap();
            assert!(client.starts_with("SSH-2.0-"), "{client}");
            stream.write_all(text.as_bytes()).unwrap();
        });
        refusal(&nowhere(&directory, "localhost", port)).cause
    };
    assert!(
        matches!(serve("220 mail.example.org ESMTP\r\n"), Cause::NotSsh(text) if text == "220 mail.example.org ESMTP")
    );
    assert!(matches!(serve(""), Cause::Dropped { has_reason: false }));
    assert!(matches!(serve("Exceeded MaxStartups\r\n"), Cause::Dropped { has_reason: true }));
    assert!(matches!(serve("SSH-2.0-dropbear\r\n"), Cause::Closed));
}

#[test]
fn a_silent_server_is_abandoned_after_the_connect_timeout() {
    let directory = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut machine = nowhere(&directory, "127.0.0.1", listener.local_addr().unwrap().port());
    machine.connect_timeout = Duration::from_millis(700);
    machine.stall_timeout = Duration::from_millis(300);
    let start = Instant::now();
    let error = refusal(&machine);
    let took = start.elapsed();
    assert!(error.to_string().ends_with("SSH handshake: timed out after 0.7 s"), "{error}");
    assert!((Duration::from_millis(700)..Duration::from_secs(30)).contains(&took), "{took:?}");
}

#[test]
fn a_slow_banner_does_not_extend_the_connect_timeout() {
    let directory = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut machine = nowhere(&directory, "127.0.0.1", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(b"please hold the line\r\n").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    machine.connect_timeout = Duration::from_secs(2);
    let start = Instant::now();
    let error = refusal(&machine);
    assert!(matches!(&error.cause, Cause::NotSsh(text) if text == "please hold the line"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

/// Returns an unencrypted packet of type `kind`, with `length` bytes of content and no padding.
fn packet(kind: u8, length: u32) -> Vec<u8> {
    let mut packet = (length + 2).to_be_bytes().to_vec();
    packet.extend([0, kind]);
    packet.resize(packet.len() + length as usize, 0);
    packet
}

/// Without this limit libssh2 reads as long as data arrives, and stores each packet of an unknown type.
#[test]
fn a_flood_from_a_server_is_abandoned() {
    const IGNORE: u8 = 2;
    const UNKNOWN: u8 = 250;
    let too_much = "SSH handshake: the server sent more than 1024 KiB before the login";
    for (version, flood, expected) in [
        ("", b"please hold the line\r\n".repeat(1000), "please hold the line"),
        ("", vec![b'x'; 20_000], "not an SSH server"),
        ("SSH-2.0-x\r\n", packet(IGNORE, 10).repeat(1000), too_much),
        ("SSH-2.0-x\r\n", packet(UNKNOWN, 30_000), too_much),
        ("SSH-2.0-x\r\n", packet(UNKNOWN, 0).repeat(1000), too_much),
    ] {
        let directory = TempDir::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let machine = nowhere(&directory, "127.0.0.1", listener.local_addr().unwrap().port());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.write_all(version.as_bytes()).unwrap();
                while stream.write_all(&flood).is_ok() {}
            }
        });
        // A separate process, because a memory limit applies to a process.
        let output = Command::new("prlimit")
            .arg(format!("--data={}", 64 << 20))
            .args([env!("CARGO_BIN_EXE_offload"), "add", "127.0.0.1", "--port", &machine.port.to_string()])
            .arg("--private-key")
            .arg(machine.private_key.unwrap())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        // The message has the server's text only if the text arrived before libssh2 read it.
        assert!(printed.contains(expected) || version.is_empty() && printed.contains(too_much), "{printed}");
    }
}

#[test]
fn a_banned_address_has_its_own_error() {
    let server = Server::start(&Options { sshd: &["PerSourcePenalties=authfail:60s min:1s"], ..SID });
    let machine = server.machine();
    let directory = TempDir::new().unwrap();
    let mut stranger = machine.clone();
    stranger.private_key = nowhere(&directory, "x", 1).private_key;
    assert!(matches!(refusal(&stranger).cause, Cause::UserKeyRefused { .. }));
    // The ban starts when the server's process for that connection has ended.
    let start = Instant::now();
    loop {
        match Session::connect(&machine) {
            Ok(_) => assert!(start.elapsed() < Duration::from_secs(40), "no ban"),
            Err(error) if matches!(error.cause, Cause::TemporarilyRefused) => break,
            // An immediate reply may be lost.
            Err(error) => assert!(start.elapsed() < Duration::from_secs(40), "{error}"),
        }
    }
}

#[test]
fn a_connection_beyond_max_startups_has_its_own_error() {
    for options in [&SID, &BULLSEYE] {
        let server = Server::start(&Options { sshd: &["MaxStartups=1:100:1"], ..*options });
        // The connection of `Server::start` may still occupy the only place.
        let _waiting = loop {
            let mut waiting = TcpStream::connect(server.address).unwrap();
            let mut begin = [0; 4];
            if waiting.read_exact(&mut begin).is_ok() && begin == *b"SSH-" {
                break waiting;
            }
        };
        // A reset of the connection may discard the reply.
        let causes: Vec<Cause> = (0..10).map(|_| refusal(&server.machine()).cause).collect();
        let is_distinct = |cause: &Cause| match options.root {
            "sid" => matches!(cause, Cause::TemporarilyRefused),
            _ => matches!(cause, Cause::Dropped { has_reason: true }),
        };
        assert!(causes.iter().any(is_distinct), "{causes:?}");
        assert!(causes.iter().all(|cause| is_distinct(cause) || matches!(cause, Cause::Dropped { .. })), "{causes:?}");
    }
}

#[test]
fn zlib_is_used_only_on_request() {
    let server = Server::start(&SID);
    let mut machine = server.machine();
    for (compression, expected) in
        [(Compression::Zlib, "zlib@openssh.com"), (Compression::None, "none"), (Compression::Auto, "none")]
    {
        machine.compression = compression;
        let session = Session::connect(&machine).unwrap();
        assert!(session.algorithms().ends_with(expected), "{}", session.algorithms());
        let output = session.exec("seq 1 200000").unwrap().output(8 << 20).unwrap();
        let expected: String = (1..=200000).map(|i| format!("{i}\n")).collect();
        assert!(output.stdout == expected.as_bytes());
    }
}

#[test]
fn an_error_names_the_algorithms_that_the_server_offers() {
    for (setting, what, offered) in [
        ("KexAlgorithms=sntrup761x25519-sha512@openssh.com", "key exchange", "sntrup761x25519-sha512@openssh.com"),
        ("Ciphers=chacha20-poly1305@openssh.com", "cipher", "chacha20-poly1305@openssh.com"),
        ("MACs=umac-64@openssh.com", "MAC", "umac-64@openssh.com"),
    ] {
        let ciphers = if what == "MAC" { "Ciphers=aes128-ctr" } else { "LogLevel=INFO" };
        let server = Server::start(&Options { sshd: &[setting, ciphers], ..SID });
        let error = refusal(&server.machine());
        let text = format!("the server has no {what} in common with this program; it offers {offered}");
        assert!(error.to_string().contains(&text), "{error}");
        let hint = error.hint().unwrap();
        let setting = setting.split('=').next().unwrap();
        assert!(hint.contains(&format!("`{setting}` must allow one of ")) && !hint.contains("ext-info"), "{hint}");
    }
}

#[test]
fn a_proxy_command_carries_the_connection() {
    let server = Server::start(&SID);
    let mut machine = server.machine();
    let busybox = made_by_setup("sid").join("bin/busybox").display().to_string();
    let host = std::mem::replace(&mut machine.name, "a name that is not resolved".to_owned());
    machine.proxy_command = Some([&busybox, "nc", &host, "%p"].map(str::to_owned).to_vec());
    let session = Session::connect(&machine).unwrap();
    assert_eq!(session.exec("echo hello").unwrap().output(100).unwrap().stdout, b"hello\n");
    let part = format!("nc {host} {}", server.address.port());
    let running = || !processes(std::process::id(), |command| command.contains(&part)).is_empty();
    assert!(running());
    drop(session);
    assert!(!running());

    for (command, expected) in [
        (vec!["/nonexistent/program"], "cannot be started: No such file or directory (os error 2)"),
        (vec!["false"], "ended with exit status: 1"),
        (vec![], "the list is empty"),
    ] {
        machine.proxy_command = Some(command.into_iter().map(str::to_owned).collect());
        let error = refusal(&machine);
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

/// Each line has the prefix, and no control character for a terminal.
#[test]
fn errors_of_a_proxy_command_are_logged_without_control_characters() {
    let directory = TempDir::new().unwrap();
    let machines = directory.path().join("machines.lua");
    let machine = nowhere(&directory, "behind", 22);
    let text = format!(
        r#"return {{ build_machine {{
            name = "behind", user = "root", systems = {{ "x86_64-linux" }}, private_key = {:?}, host_key = {:?},
            proxy_command = {{ "sh", "-c", [[printf 'no \\033[2Jway\\n' >&2; exit 3]] }},
        }} }}"#,
        machine.private_key.unwrap(),
        machine.host_keys[0].to_openssh(),
    );
    fs::write(&machines, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_offload"))
        .args(["status", "--machine-file"])
        .arg(&machines)
        .env("GUIX_STATE_DIRECTORY", directory.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    let line = printed.lines().find(|line| line.contains("way")).unwrap_or_else(|| panic!("{printed}"));
    assert!(line.starts_with("offload: proxy command 'sh': no ") && !printed.contains('\x1b'), "{printed}");
}
