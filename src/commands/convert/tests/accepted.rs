//! `offload eval` accepts each converted value, or `convert` warns that it does not.

use super::*;
use serde_json::{Value as Json, json};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG";
/// "ssh-ed25519 AAAA…" in base64.
const NIX_KEY: &str =
    "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUdpWkM4UkY1VGRJdXozY1oyUlo2cEg2L1dKN216V0tSWDdLUHJHd0VOT0c=";

/// A machine of Guix with one field changed, and the messages about it.
fn of_guix(field: &str, value: Json) -> (Document, check::Check) {
    let Json::Object(mut fields) = json!({
        "name": "b1", "port": 22, "systems": ["x86_64-linux"], "user": "u", "private-key": "/k", "host-key": KEY,
        "daemon-socket": "/var/guix/daemon-socket/socket", "parallel-builds": 1, "speed": 1.0, "features": [],
        "location": ["m.scm", 7],
    }) else {
        unreachable!()
    };
    fields.insert(field.to_owned(), value);
    let document = scheme::document(Path::new("m.scm"), vec![fields], None).unwrap();
    let found = check::check(&document);
    (document, found)
}

#[test]
fn unsupported_values_become_the_nearest_supported_ones() {
    for (field, value, line, warning) in [
        ("daemon-socket", json!("unix:///run/guix/socket"), "daemon_socket = \"/run/guix/socket\"", None),
        ("daemon-socket", json!("file:///run/guix/socket"), "daemon_socket = \"/run/guix/socket\"", None),
        ("daemon-socket", json!("unix:///var/guix/daemon-socket/socket"), "name = \"b1\"", None),
        ("daemon-socket", json!("guix://b1:44146"), "name = \"b1\"", Some("'guix://b1:44146' has no counterpart")),
        ("daemon-socket", json!("ssh://b1"), "name = \"b1\"", Some("'ssh://b1' has no counterpart")),
        ("speed", json!(0.0), "speed = 0.001", Some("its speed is 0, and must be above 0")),
        ("speed", json!(-2), "speed = 0.001", Some("its speed is -2")),
        ("name", json!("[2001:db8::7]"), "name = \"2001:db8::7\"", None),
        ("name", json!("[fe80::1%eth0]"), "name = \"fe80::1%eth0\"", None),
        (
            "features",
            json!(["kvm", "big parallel"]),
            "features = { \"kvm\" }",
            Some("feature 'big parallel', which is left out"),
        ),
        ("features", json!([""]), "name = \"b1\"", Some("feature ''")),
    ] {
        let (document, found) = of_guix(field, value.clone());
        assert_eq!(found.errors, [""; 0], "{field} {value}");
        let text = document.to_string();
        assert!(text.contains(&format!("    {line},\n")), "{field} {value}: {text}");
        let warnings = document.warnings();
        assert_eq!(warnings.len(), usize::from(warning.is_some()), "{warnings:?}");
        assert!(warnings.iter().zip(warning).all(|(said, expected)| said.contains(expected)), "{warnings:?}");
    }
}

#[test]
fn errors_of_eval_name_the_place_in_the_original_file() {
    for (field, value, error) in [
        ("name", json!("b1:22"), "m.scm:7: error: build_machine<b1:22>: name: expected a host name or address, found"),
        ("port", json!(70000), "m.scm:7: error: build_machine<b1>: port: expected"),
        ("systems", json!([]), "m.scm:7: error: build_machine<b1>: systems: expected"),
        ("host-key", json!("b1 x"), "m.scm:7: error: build_machine<b1>: host_key: expected a host key of type"),
        ("daemon-socket", json!("guix/socket"), "m.scm:7: error: build_machine<b1>: daemon_socket: expected"),
        ("overload-threshold", json!(-1), "m.scm:7: error: build_machine<b1>: overload_threshold: expected"),
    ] {
        let (_, found) = of_guix(field, value.clone());
        assert_eq!((found.count, found.errors.len()), (1, 1), "{field} {value}: {found:?}");
        assert!(found.errors[0].starts_with(error), "{found:?}");
    }
    // An error that a warning has announced is only counted.
    let (_, found) = of_guix("private-key", json!("id_rsa"));
    assert_eq!((found.count, found.errors.len()), (1, 0), "{found:?}");
    // Other machines are before it, and all have fields in common.
    let lines = format!("root@b1 x86_64-linux /k 2 3 kvm - {NIX_KEY}\n").repeat(4).replace("b1 x", "b[1] x");
    let (status, out, messages) = run_on("machines", Some(format!("{lines}root@b2 X - 1 1 - - {NIX_KEY}").as_bytes()));
    assert_eq!(status, ExitStatus::MachineFile);
    assert!(out.contains("build_machine {"));
    let places: Vec<&str> = messages.lines().filter_map(|line| line.split(": error: build").next()).collect();
    assert!((1..=5).all(|line| places.contains(&format!("machines:{line}").as_str())), "{messages}");
    assert!(
        messages.contains("offload: error: the machine file is written, but 'offload eval' refuses it"),
        "{messages}"
    );
}

#[test]
fn everything_converted_is_checked_by_the_code_of_eval() {
    for (file, document) in converted() {
        assert_eq!(check::check(&document).count == 0, load(&document.to_string()).is_ok(), "{file:?}");
    }
}

#[test]
fn a_mandatory_feature_that_no_build_can_require_disables_the_machine() {
    let document =
        nix::document(Path::new("m"), format!("root@b1 x86_64-linux - 0 - kvm a/b {NIX_KEY}").as_bytes()).unwrap();
    assert_eq!(check::check(&document).errors, [""; 0]);
    let machine = &machines(&document)[0];
    assert!(!machine.enabled && machine.features == ["kvm"], "{document}");
}

#[test]
fn the_machines_of_a_nix_conf_are_those_of_its_setting() {
    let text = format!(
        "# builders = ssh://no\nmax-jobs = 4\nbuilders = root@b1 x86_64-linux - 1 1 - - {NIX_KEY} ; b2\n\
         extra-builders =\tb3\nsubstituters = https://cache.example.org\n!include more.conf\n"
    );
    let document = nix::document(Path::new("nix.conf"), text.as_bytes()).unwrap();
    let names: Vec<_> = document.entries.iter().map(|entry| (entry.line, entry.get("name").cloned())).collect();
    let name = |line, name: &str| (Some(line), Some(Value::Text(name.to_owned())));
    assert_eq!(names, [name(3, "b1"), name(3, "b2"), name(4, "b3")]);
    // Its setting about substitutes is that of each machine; the last one counts.
    for (lines, expected) in [
        ("", None),
        ("builders-use-substitutes = true", Some("always")),
        ("builders-use-substitutes = true\nbuilders-use-substitutes = false # slow line", Some("never")),
    ] {
        let document = nix::document(Path::new("nix.conf"), format!("{text}{lines}\n").as_bytes()).unwrap();
        let given: Vec<_> = document.entries.iter().map(|entry| entry.get("substitutes").cloned()).collect();
        assert_eq!(given, vec![expected.map(|name| Value::Text(name.to_owned())); 3], "{document}");
    }
    // Columns are those of the file.
    let error = |text: &str| nix::document(Path::new("nix.conf"), text.as_bytes()).unwrap_err().to_string();
    assert!(error("builders = b1 - - x").starts_with("nix.conf:1:19: error: expected a number of jobs"));
    assert!(
        error("max-jobs = 4\nsystem-features = kvm\n")
            .starts_with("nix.conf: error: this is a nix.conf without 'builders'")
    );
    let document = nix::document(Path::new("nix.conf"), b"builders = @/etc/nix/machines\n").unwrap();
    assert!(document.warnings()[0].contains("'@/etc/nix/machines' includes another file"), "{:?}", document.warnings());
}

#[test]
fn the_format_of_lix_is_refused_by_name() {
    for text in [
        "version = 1\n\n[machines.andesite]\nuri = \"ssh://lix@andesite\"\njobs = 8\n",
        "# comment\n[machines.\"a\"]\nuri = \"ssh://b\"\n",
        "machines.b.uri = \"ssh://b\"\n",
    ] {
        let error = nix::document(Path::new("machines"), text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("error: this is TOML, which Lix reads"), "{text}: {error}");
    }
    assert!(nix::document(Path::new("machines"), b"machines.example.org x86_64-linux").is_ok());
}
