//! Logins that a server refuses: the reasons and hints that the program prints.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::thread;

use offload::internals::ssh::{Cause, Session};

use crate::login::refusal;
use crate::sshd::{BULLSEYE, Options, SID, Server};

/// A second line with the same key and no options would allow logins from all addresses.
#[test]
fn no_hint_adds_a_restricted_key_without_its_restriction() {
    let server = Server::start(&SID);
    let file = server.shared().join("authorized_keys");
    let line = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("from=\"192.0.2.1\" {line}")).unwrap();
    let error = refusal(&server.machine());
    assert!(matches!(error.cause, Cause::UserKeyRefused { .. }), "{error}");
    let hint = error.hint().unwrap();
    for words in ["log of sshd", "do not add it again", "from=", "PubkeyAcceptedAlgorithms", "AllowUsers"] {
        assert!(hint.contains(words), "{words}: {hint}");
    }
}

#[test]
fn a_required_second_method_is_named() {
    for options in [&SID, &BULLSEYE] {
        let sshd = ["AuthenticationMethods=publickey,password publickey,keyboard-interactive"];
        let server = Server::start(&Options { sshd: &sshd, ..*options });
        let error = refusal(&server.machine());
        let Cause::MoreMethodsRequired { methods, .. } = &error.cause else { panic!("{error}") };
        assert!(methods.iter().any(|method| method == "password"), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("`AuthenticationMethods publickey`") && !hint.contains("authorized_keys"), "{hint}");
    }
}

#[test]
fn an_error_about_disabled_key_logins_lists_the_allowed_methods() {
    for setting in ["PubkeyAuthentication=no", "AuthenticationMethods=password"] {
        let server = Server::start(&Options { sshd: &[setting], ..SID });
        let error = refusal(&server.machine());
        let Cause::KeyLoginDisabled { methods, .. } = &error.cause else { panic!("{setting}: {error}") };
        assert!(methods.iter().any(|method| method == "password"), "{error}");
        assert!(!error.hint().unwrap().contains("authorized_keys"), "{error}");
    }
}

#[test]
fn a_login_that_is_refused_after_its_key_matched_does_not_blame_the_key() {
    for setting in ["PermitRootLogin=no", "AuthenticationMethods=publickey,publickey"] {
        let server = Server::start(&Options { sshd: &[setting], ..SID });
        let error = refusal(&server.machine());
        assert!(matches!(error.cause, Cause::LoginRefused { .. }), "{setting}: {error}");
        let hint = error.hint().unwrap();
        let name = setting.split('=').next().unwrap();
        assert!(hint.contains(name) && hint.contains("log of sshd") && !hint.contains("authorized_keys"), "{hint}");
    }
}

#[test]
fn the_reason_of_a_disconnect_is_reported() {
    let server = Server::start(&Options { sshd: &["MaxAuthTries=1", "PermitRootLogin=no"], ..SID });
    let error = refusal(&server.machine());
    assert!(matches!(&error.cause, Cause::Disconnected(why) if why == "Too many authentication failures"), "{error}");
    assert!(error.hint().unwrap().contains("log of sshd"));
}

#[test]
fn a_banner_may_be_as_long_as_libssh2_accepts() {
    for (length, is_taken) in [(35_000, true), (80_000, false)] {
        for options in [&SID, &BULLSEYE] {
            let server = Server::start(&Options { sshd: &["Banner=/mnt/banner"], ..*options });
            fs::write(server.shared().join("banner"), "welcome\n".repeat(length / 8)).unwrap();
            if is_taken {
                Session::connect(&server.machine()).unwrap_or_else(|error| panic!("{error}"));
                continue;
            }
            let error = refusal(&server.machine());
            assert!(matches!(error.cause, Cause::MessageInvalid), "{error}");
            assert!(error.hint().unwrap().contains("`Banner`"), "{error}");
        }
    }
}

/// The server sends an SSH_MSG_DISCONNECT instead of the key exchange, with a control character for a terminal.
#[test]
fn a_reason_is_shown_without_control_characters() {
    let server = Server::start(&SID);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut machine = server.machine();
    machine.name = "127.0.0.1".to_owned();
    machine.port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let why = b"go \x1b[2Jaway";
        let mut payload = vec![1, 0, 0, 0, 2];
        payload.extend((why.len() as u32).to_be_bytes());
        payload.extend(why);
        payload.extend([0; 4]);
        let padding = 8 + (8 - (payload.len() + 5) % 8) % 8;
        let mut packet = ((payload.len() + padding + 1) as u32).to_be_bytes().to_vec();
        packet.push(padding as u8);
        packet.extend(payload);
        packet.extend(vec![0; padding]);
        stream.write_all(b"SSH-2.0-x\r\n").unwrap();
        stream.write_all(&packet).unwrap();
        // The connection stays open until the other side has read the packet.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let error = refusal(&machine);
    assert!(matches!(&error.cause, Cause::Disconnected(why) if why == "go \\u{1b}[2Jaway"), "{error}");
}
