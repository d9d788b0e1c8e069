//! Logins that a server refuses: what is said of why, and what to do.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::thread;

use offload::ssh::{Cause, Session};

use crate::login::refusal;
use crate::sshd::{BULLSEYE, Options, SID, Server};

/// A key that is there is not to be added once more: without its options it would be let in from everywhere.
#[test]
fn a_key_with_a_restriction_is_not_added_without_it() {
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
fn a_second_method_that_is_wanted_is_named() {
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
fn a_server_without_login_by_key_says_what_it_has() {
    for setting in ["PubkeyAuthentication=no", "AuthenticationMethods=password"] {
        let server = Server::start(&Options { sshd: &[setting], ..SID });
        let error = refusal(&server.machine());
        let Cause::KeyLoginDisabled { methods, .. } = &error.cause else { panic!("{setting}: {error}") };
        assert!(methods.iter().any(|method| method == "password"), "{error}");
        assert!(!error.hint().unwrap().contains("authorized_keys"), "{error}");
    }
}

#[test]
fn a_login_that_is_refused_after_its_key_fitted_does_not_blame_the_key() {
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
fn the_reason_that_a_server_gives_for_the_end_is_passed_on() {
    let server = Server::start(&Options { sshd: &["MaxAuthTries=1", "PermitRootLogin=no"], ..SID });
    let error = refusal(&server.machine());
    assert!(matches!(&error.cause, Cause::Disconnected(why) if why == "Too many authentication failures"), "{error}");
    assert!(error.hint().unwrap().contains("log of sshd"));
}

#[test]
fn a_text_before_the_login_may_be_as_long_as_libssh2_takes() {
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

/// An SSH_MSG_DISCONNECT in place of the key exchange, with what a terminal would obey.
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
        // Until the other side has read it.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let error = refusal(&machine);
    assert!(matches!(&error.cause, Cause::Disconnected(why) if why == "go \\u{1b}[2Jaway"), "{error}");
}
