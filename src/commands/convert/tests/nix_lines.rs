//! Nix's format, line by line.

use super::*;

fn entries(text: &str) -> Vec<Entry> {
    nix::document(Path::new("machines"), text.as_bytes()).unwrap_or_else(|error| panic!("{error}")).entries
}

fn entry(line: &str) -> Entry {
    let entries = entries(line);
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.into_iter().next().unwrap()
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_owned()))
}

#[test]
fn uris_are_split_into_account_host_and_port() {
    for (uri, name, user, port) in [
        ("b1", "b1", "root", None),
        ("ssh://b1", "b1", "root", None),
        ("ssh-ng://nix@b1.example.org/", "b1.example.org", "nix", None),
        ("nix@b1:2222", "b1", "nix", Some(2222)),
        ("ssh://b1:22", "b1", "root", None),
        ("ssh://me%40home@b1", "b1", "me@home", None),
        ("ssh://me@home@b1", "b1", "me@home", None),
        ("ssh://[::1]:23", "::1", "root", Some(23)),
        ("ssh://[fe80::1%25eth0]", "fe80::1%eth0", "root", None),
        ("ssh://2001:db8::1", "2001:db8::1", "root", None),
        // The zone follows the escape of RFC 6874, or a bare '%'; then two hexadecimal digits are a zone.
        ("ssh://[fe80::1%2518]", "fe80::1%18", "root", None),
        ("ssh://[fe80::1%18]", "fe80::1%18", "root", None),
        ("ssh://[fe80::1%25]", "fe80::1%25", "root", None),
        ("ssh://[fe80::1%eb0]:23", "fe80::1%eb0", "root", Some(23)),
        ("ssh://[fe80::1%eth0]", "fe80::1%eth0", "root", None),
        ("ssh://[fe80::1%25eth%30]", "fe80::1%eth0", "root", None),
        ("ssh://fe80::1%18", "fe80::1%18", "root", None),
        ("ssh://b%31", "b1", "root", None),
        ("ssh://b%zz%", "b%zz%", "root", None),
        ("ssh://b%ff", "b%ff", "root", None),
    ] {
        let entry = entry(uri);
        assert_eq!(entry.get("name").cloned(), text(name), "{uri}");
        assert_eq!(entry.get("user").cloned(), text(user), "{uri}");
        assert_eq!(entry.get("port").cloned(), port.map(Value::Whole), "{uri}");
    }
}

#[test]
fn other_stores_are_left_out() {
    for uri in ["local", "auto?x=1", "daemon", "/tmp/store", "https://b1", "unix:///run/x", "?root=/x"] {
        let entry = entry(&format!("{uri} x86_64-linux - 3"));
        assert!(entry.fields.is_empty(), "{entry:?}");
        assert!(entry.notes[0].warning && entry.notes[0].text.starts_with("left out"), "{entry:?}");
    }
}

#[test]
fn syntax_errors_have_their_column() {
    for (line, error) in [
        ("- x86_64-linux", "1:1: error: expected the URI of a machine, found '-'"),
        ("\n  b1;  ssh://b:0", "2:8: error: expected a port from 1 to 65535 after the host in 'ssh://b:0'"),
        ("b:65536", "1:1: error: expected a port from 1 to 65535 after the host in 'b:65536'"),
        ("b:", "1:1: error: expected a port from 1 to 65535 after the host in 'b:'"),
        ("ssh://", "1:1: error: expected a host name in 'ssh://'"),
        ("ssh://@b", "1:1: error: expected an account before '@' in 'ssh://@b'"),
        ("ssh://b%18", "1:1: error: found a control character ('%' and two hexadecimal digits) in 'ssh://b%18'"),
        ("ssh://a%0ab@b", "1:1: error: found a control character ('%' and two hexadecimal digits) in 'ssh://a%0ab@b'"),
        ("ssh://[::1", "1:1: error: expected ']' after an IPv6 address in 'ssh://[::1'"),
        ("ssh://[::1]22", "1:1: error: expected ':' after ']' in 'ssh://[::1]22'"),
        ("é\tö - -1", "1:7: error: expected a number of jobs, found '-1'"),
        ("b - - 1 -2", "1:9: error: expected a speed factor, found '-2'"),
        ("b - - 1 inf", "1:9: error: expected a speed factor, found 'inf'"),
        (
            "b - - - - - - ssh-ed25519",
            "1:15: error: expected the host key in base64, such as 'base64 -w0' makes of a .pub file",
        ),
        (
            " b?base64-ssh-public-host-key=%2f%2f%2f%2f",
            "1:2: error: expected the host key in base64, such as 'base64 -w0' makes of a .pub file",
        ),
    ] {
        let result = nix::document(Path::new("m"), line.as_bytes());
        assert_eq!(result.unwrap_err().to_string(), format!("m:{error}"), "{line}");
    }
    let result = nix::document(Path::new("m"), b"b1 # \xff\nb\xc3\xa92 \xff\n");
    assert_eq!(result.unwrap_err().to_string(), "m:2:5: error: this is not UTF-8");
}

#[test]
fn every_error_of_a_file_is_reported() {
    let result = nix::document(Path::new("m"), b"-\nb1\n-\n");
    assert_eq!(result.unwrap_err().to_string().lines().count(), 2);
}

#[test]
fn comments_are_ignored_and_separators_begin_a_machine() {
    let names =
        |text: &str| entries(text).iter().map(|entry| (entry.line, entry.get("name").cloned())).collect::<Vec<_>>();
    assert_eq!(names(""), []);
    assert_eq!(names("# b1; b2\n \t\r\n;;\n"), []);
    let expected = [(Some(2), text("b1")), (Some(2), text("b2")), (Some(3), text("b3"))];
    assert_eq!(names("\nb1;b2 ; # b\nb3#;b4\r\n"), expected);
}

#[test]
fn the_command_for_a_missing_host_key_has_the_port_and_the_user() {
    for (uri, command) in
        [("b1", "'offload add --user root b1'"), ("ssh://nix@b1:2222", "'offload add --port 2222 --user nix b1'")]
    {
        assert!(entry(uri).notes.iter().any(|note| note.warning && note.text.contains(command)), "{uri}");
    }
}

#[test]
fn the_host_key_may_lack_its_padding() {
    // "ssh-ed25519 AAAA\n"
    for encoded in ["c3NoLWVkMjU1MTkgQUFBQQo=", "c3NoLWVkMjU1MTkgQUFBQQo"] {
        let entry = entry(&format!("b - - - - - - {encoded}"));
        assert_eq!(entry.get("host_key").cloned(), text("ssh-ed25519 AAAA"));
    }
}

#[test]
fn a_column_wins_over_the_parameter() {
    let entry = entry("b?ssh-key=/one&base64-ssh-public-host-key=x - /two - - - - c3NoLWVkMjU1MTkgQUFBQQo=");
    assert_eq!(entry.get("private_key").cloned(), text("/two"));
    let warnings: Vec<&str> = entry.notes.iter().filter(|note| note.warning).map(|note| note.text.as_str()).collect();
    assert_eq!(
        warnings,
        [
            "the parameter 'ssh-key' of its URI has no counterpart",
            "the parameter 'base64-ssh-public-host-key' of its URI has no counterpart"
        ]
    );
}

#[test]
fn the_system_of_this_machine_is_the_default() {
    let expected = if cfg!(target_arch = "x86_64") { "x86_64-linux" } else { "aarch64-linux" };
    assert_eq!(entry("b").get("systems"), Some(&Value::List(vec![expected.to_owned()])));
}

/// Calls the function that replaces mandatory features.
#[test]
fn mandatory_features_are_required_of_a_build() {
    let document = nix::document(Path::new("m"), b"b x86_64-linux - - - kvm,a b,a").unwrap();
    assert_eq!(
        document.entries[0].get("features"),
        Some(&Value::List(vec!["kvm".to_owned(), "a".to_owned(), "b".to_owned()]))
    );
    for (required, expected) in [
        ("", "false only for builds that require b"),
        ("'b', 'kvm'", "false only for builds that require a"),
        ("'a', 'b'", "true nil"),
        ("'kvm', 'a', 'b'", "true nil"),
    ] {
        let text = document.to_string();
        let call = format!(
            "local pool = (function() {text} end)()
             local yes, why = pool[1].accepts({{ features = {{ {required} }} }})
             return tostring(yes) .. ' ' .. tostring(why)"
        );
        assert!(lua(&call, |value| is_text(&value, expected)), "{required}");
    }
}

proptest! {
    /// Any sequence of plausible words is an error, or becomes a text that Lua reads.
    #[test]
    fn plausible_lines_are_converted_or_refused(words in prop::collection::vec(
        prop_oneof![
            hostile(),
            prop::sample::select(vec![
                "-", "ssh://a@b:1?x=%41&ssh-key=~", "ssh-ng://[::1]", "1", "0.5", "a,b,,a", "x86_64-linux", ";", "#", "@x",
                "c3NoLWVkMjU1MTkgQUFBQQo=", "\n", "%", "[", "@", "?",
            ]).prop_map(str::to_owned),
        ],
        0..30,
    )) {
        if let Ok(document) = nix::document(Path::new("m"), words.join(" ").as_bytes()) {
            let machines = document.entries.iter().filter(|entry| !entry.fields.is_empty());
            prop_assert_eq!(count(&document.to_string()), machines.count());
        }
    }

    #[test]
    fn any_bytes_are_converted_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(mut document) = nix::document(Path::new("m"), &bytes) {
            document.keep_nix_comments(&bytes);
        }
        Document::new("m".to_owned(), &[], Vec::new()).keep_scheme_comments(&bytes);
    }
}
