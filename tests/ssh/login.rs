//! From a name to a session: host keys, user keys, and what stands in the way.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use offload::machine::{Compression, HostKey, Machine};
use offload::ssh::{Cause, Error, Phase, Session};
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
    // The server never heard a user's name.
    server.await_log("Disconnected from 127.0.0.1");
    let log = server.log();
    assert!(log.contains("Connection from 127.0.0.1") && !log.contains("root"), "{log}");
}

#[test]
fn a_type_that_the_server_has_not_is_answered_with_those_it_has() {
    let server = Server::start(&Options { host_key: &["-t", "ecdsa", "-b", "256"], ..SID });
    let mut machine = server.machine();
    let directory = TempDir::new().unwrap();
    let other = directory.path().join("other");
    keygen(&other, &["-t", "ed25519"]);
    machine.host_keys = vec![host_key(&other.with_extension("pub"))];
    let error = refusal(&machine);
    let text = "the server has no host key of a pinned type (ssh-ed25519); it offers ecdsa-sha2-nistp256";
    assert!(error.to_string().ends_with(text), "{error}");
    // What the command prints is accepted. What ssh-keyscan prints is not.
    let hint = error.hint().unwrap();
    let command = format!("offload add --port {} {}", machine.port, machine.name);
    assert!(hint.starts_with(&format!("`{command}`")), "{hint}");
    let output = Command::new(env!("CARGO_BIN_EXE_offload")).args(command.split(' ').skip(1)).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let key = printed.split("host_key = \"").nth(1).unwrap().split('"').next().unwrap();
    machine.host_keys = vec![HostKey::parse(key).unwrap()];
    Session::connect(&machine).unwrap();
}

/// No hint says to write what would be refused.
#[test]
fn a_server_whose_keys_cannot_be_pinned_gets_no_hint_to_pin_them() {
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
fn every_kind_of_user_key_opens_the_account() {
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

/// Signatures of RSA keys are of several kinds; the server says which it takes.
#[test]
fn an_rsa_key_signs_as_the_server_wants() {
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
fn a_key_that_is_not_authorized_is_refused_with_the_line_to_add() {
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
fn a_useless_private_key_is_reported_without_a_connection() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str| directory.path().join(name);
    keygen(&file("good"), &["-t", "ed25519"]);
    keygen(&file("locked"), &["-t", "ed25519", "-N", "secret"]);
    keygen(&file("exposed"), &["-t", "ed25519"]);
    fs::set_permissions(file("exposed"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(file("good.pub"), Permissions::from_mode(0o600)).unwrap();
    // Nobody listens there: trying would give another error.
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

/// A machine that is only an address.
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
fn what_is_no_ssh_server_is_told_apart() {
    let directory = TempDir::new().unwrap();
    let error = refusal(&nowhere(&directory, "nowhere.invalid", 22));
    assert!(matches!(error.cause, Cause::NameNotResolved(_)), "{error}");
    assert_eq!(error.phase, Phase::Resolve);

    let nobody = own_address();
    let error = refusal(&nowhere(&directory, &nobody.ip().to_string(), nobody.port()));
    assert!(matches!(error.cause, Cause::ConnectionRefused { .. }), "{error}");

    // Answers with `text` and hangs up.
    let serve = |text: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // No server that has to start a process answers at once, and what is said at once may go unseen.
            let client = BufReader::new(&stream).lines().next().unwrap().unwrap();
            assert!(client.starts_with("SSH-2.0-"), "{client}");
            stream.write_all(text.as_bytes()).unwrap();
        });
        refusal(&nowhere(&directory, "localhost", port)).cause
    };
    assert!(
        matches!(serve("220 mail.example.org ESMTP\r\n"), Cause::NotSsh(said) if said == "220 mail.example.org ESMTP")
    );
    assert!(matches!(serve(""), Cause::Dropped { has_reason: false }));
    assert!(matches!(serve("Exceeded MaxStartups\r\n"), Cause::Dropped { has_reason: true }));
    assert!(matches!(serve("SSH-2.0-dropbear\r\n"), Cause::Closed));
}

#[test]
fn a_server_that_says_nothing_costs_the_connect_timeout() {
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
fn a_server_that_says_a_little_now_and_then_costs_no_more() {
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
    assert!(matches!(&error.cause, Cause::NotSsh(said) if said == "please hold the line"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

/// A plain packet of a type that is `kind`, with so many bytes of content and no padding.
fn packet(kind: u8, length: u32) -> Vec<u8> {
    let mut packet = (length + 2).to_be_bytes().to_vec();
    packet.extend([0, kind]);
    packet.resize(packet.len() + length as usize, 0);
    packet
}

/// Left to itself libssh2 does not return as long as there is something to read, and keeps each packet that it does not
/// know.
#[test]
fn a_server_that_never_stops_talking_is_given_up() {
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
        // A program by itself, since only a process has a limit of memory.
        let output = Command::new("prlimit")
            .arg(format!("--data={}", 64 << 20))
            .args([env!("CARGO_BIN_EXE_offload"), "add", "127.0.0.1", "--port", &machine.port.to_string()])
            .arg("--private-key")
            .arg(machine.private_key.unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Its words are known if they were there before libssh2 took them.
        assert!(said.contains(expected) || version.is_empty() && said.contains(too_much), "{said}");
    }
}

#[test]
fn a_banned_address_is_an_error_of_its_own() {
    let server = Server::start(&Options { sshd: &["PerSourcePenalties=authfail:60s min:1s"], ..SID });
    let machine = server.machine();
    let directory = TempDir::new().unwrap();
    let mut stranger = machine.clone();
    stranger.private_key = nowhere(&directory, "x", 1).private_key;
    assert!(matches!(refusal(&stranger).cause, Cause::UserKeyRefused { .. }));
    // The ban begins when the server's process for that connection has ended.
    let start = Instant::now();
    loop {
        match Session::connect(&machine) {
            Ok(_) => assert!(start.elapsed() < Duration::from_secs(40), "no ban"),
            Err(error) if matches!(error.cause, Cause::TemporarilyRefused) => break,
            // What is said at once may go unseen.
            Err(error) => assert!(start.elapsed() < Duration::from_secs(40), "{error}"),
        }
    }
}

#[test]
fn one_connection_too_many_is_told_apart() {
    for options in [&SID, &BULLSEYE] {
        let server = Server::start(&Options { sshd: &["MaxStartups=1:100:1"], ..*options });
        // The first place may still be taken by the fixture's own connection.
        let _waiting = loop {
            let mut waiting = TcpStream::connect(server.address).unwrap();
            let mut begin = [0; 4];
            if waiting.read_exact(&mut begin).is_ok() && begin == *b"SSH-" {
                break waiting;
            }
        };
        // What is said may be lost with a connection that is reset.
        let causes: Vec<Cause> = (0..10).map(|_| refusal(&server.machine()).cause).collect();
        let is_told = |cause: &Cause| match options.root {
            "sid" => matches!(cause, Cause::TemporarilyRefused),
            _ => matches!(cause, Cause::Dropped { has_reason: true }),
        };
        assert!(causes.iter().any(is_told), "{causes:?}");
        assert!(causes.iter().all(|cause| is_told(cause) || matches!(cause, Cause::Dropped { .. })), "{causes:?}");
    }
}

#[test]
fn zlib_is_used_when_it_is_asked_for() {
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
fn what_a_server_has_not_in_common_is_named() {
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
fn a_program_can_carry_the_connection() {
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

/// Nothing that a terminal would obey, and no line without the prefix.
#[test]
fn what_a_program_complains_of_is_logged() {
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
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.contains("way")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.starts_with("offload: proxy command 'sh': no ") && !said.contains('\x1b'), "{said}");
}
