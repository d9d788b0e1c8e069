//! The possible answers of `dump.scm`.

use super::*;
use serde_json::{Value as Json, json};

fn fields(change: &[(&str, Json)]) -> Fields {
    let Json::Object(mut fields) = json!({
        "name": "b1", "port": 22, "systems": ["x86_64-linux"], "system": false, "user": "u", "private-key": "/k",
        "host-key": "ssh-ed25519 AAAA", "compression": "zlib@openssh.com,zlib", "compression-level": 3,
        "daemon-socket": "/var/guix/daemon-socket/socket", "overload-threshold": 0.8, "parallel-builds": 1,
        "speed": 1.0, "features": [], "location": ["m.scm", 7],
    }) else {
        unreachable!()
    };
    for (field, value) in change {
        match value {
            Json::Null => fields.remove(*field),
            value => fields.insert((*field).to_owned(), value.clone()),
        };
    }
    fields
}

fn convert(change: &[(&str, Json)]) -> Result<Entry, String> {
    let document = scheme::document(Path::new("m.scm"), vec![fields(change)], Some(Path::new("/home/me")));
    document.map(|mut document| document.entries.remove(0)).map_err(|error| error.to_string())
}

#[test]
fn values_become_fields() {
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    for (field, value, lua_field, expected) in [
        ("port", json!(22), "port", None),
        ("port", json!(2222.0), "port", Some(Value::Whole(2222))),
        ("private-key", json!("/home/me/.ssh/id_rsa"), "private_key", text("~/.ssh/id_rsa")),
        ("private-key", json!(false), "private_key", text("~/.ssh/id_rsa")),
        ("private-key", json!("/root/.ssh/id_rsa"), "private_key", text("/root/.ssh/id_rsa")),
        ("compression", json!("none"), "compression", text("none")),
        ("compression", json!("no"), "compression", text("none")),
        ("compression", json!(false), "compression", text("none")),
        ("compression", json!("zlib,none"), "compression", text("zlib")),
        ("compression", json!("none,zlib"), "compression", text("none")),
        ("compression", json!("zlib@openssh.com,zlib"), "compression", None),
        ("compression", json!("lz4"), "compression", None),
        ("parallel-builds", json!(0), "enabled", Some(Value::Boolean(false))),
        ("parallel-builds", json!(0), "parallel_builds", None),
        ("parallel-builds", json!(1), "enabled", None),
        ("overload-threshold", json!(false), "overload_threshold", Some(Value::Boolean(false))),
        // Guix 1.2 has this default.
        ("overload-threshold", json!(0.6), "overload_threshold", Some(Value::Number(0.6))),
        ("speed", json!(2), "speed", Some(Value::Number(2.0))),
        ("systems", json!([]), "systems", Some(Value::List(Vec::new()))),
        // An older Guix does not have this field, or has no locations.
        ("features", Json::Null, "features", None),
        ("location", Json::Null, "location", None),
    ] {
        assert_eq!(convert(&[(field, value.clone())]).unwrap().get(lua_field).cloned(), expected, "{field} {value}");
    }
}

#[test]
fn values_without_a_counterpart_cause_warnings() {
    for (field, value, said) in [
        ("compression-level", json!(9), "compression-level 9 has no counterpart: libssh2 has one level only"),
        ("compression", json!("lz4\n"), "compression \"lz4\\u{a}\" has no counterpart"),
        ("private-key", json!("id_rsa"), "'private-key' is not an absolute file name, which is needed here"),
        ("new-field", json!("x"), "'new-field' has no counterpart"),
    ] {
        let entry = convert(&[(field, value)]).unwrap();
        assert_eq!(entry.notes.len(), 1, "{entry:?}");
        assert!(entry.notes[0].warning);
        assert_eq!(entry.notes[0].text, said);
    }
}

#[test]
fn values_of_a_wrong_type_are_errors() {
    let other = |text: &str| json!({ "other": text });
    for (field, value, error) in [
        ("port", json!("22"), "('b1'): 'port' is \"22\", not a whole number"),
        ("port", json!(-1), "('b1'): 'port' is -1, not a whole number"),
        ("port", json!(1.5), "('b1'): 'port' is 1.5, not a whole number"),
        ("name", other("b1"), ": 'name' is b1, not a string"),
        ("user", json!(false), "('b1'): 'user' is #f, not a string"),
        ("features", json!("kvm"), "('b1'): 'features' is \"kvm\", not a list of strings"),
        ("features", json!(["a", 1, [true]]), "('b1'): 'features' is (\"a\" 1 (#t)), not a list of strings"),
        ("speed", other("+inf.0"), "('b1'): 'speed' is +inf.0, not a number"),
        ("overload-threshold", json!(true), "('b1'): 'overload-threshold' is #t, not a number or #f"),
        ("host-key", other("#<procedure\n x>"), "('b1'): 'host-key' is #<procedure\\u{a} x>, not a string"),
        ("systems", json!(false), "('b1'): it has no 'systems'"),
    ] {
        let space = if error.starts_with('(') { " " } else { "" };
        assert_eq!(convert(&[(field, value)]).unwrap_err(), format!("m.scm:7: error: build machine 1{space}{error}"));
    }
    let both = convert(&[("user", json!(1)), ("speed", json!("x"))]).unwrap_err();
    assert_eq!(both.lines().count(), 2, "{both}");
}

#[test]
fn a_machine_of_another_file_names_that_file() {
    let entry = convert(&[("location", json!(["lib.scm", 3]))]).unwrap();
    assert_eq!((entry.file.as_deref(), entry.line), (Some("lib.scm"), Some(3)));
}

#[test]
fn errors_of_guile_are_shown_with_their_place() {
    let problem =
        |answer: Json| repl::machines("m.scm", serde_json::from_value(answer).unwrap()).unwrap_err().to_string();
    let raised =
        |message: &str, line: Json| problem(json!({"raised": {"message": message, "line": line, "column": line}}));
    assert_eq!(raised("In procedure +: x\n", json!(3)), "m.scm:3:3: error: In procedure +: x");
    assert_eq!(raised("ERROR:\n  1. &x: \u{1b}[2J", json!(false)), "m.scm: error: 1. &x: \\u{1b}[2J");
    assert_eq!(raised(&"long ".repeat(1000), json!(1)).len(), "m.scm:1:1: error: ".len() + 200 + "…".len());
    assert_eq!(raised(&"line\n".repeat(1000), json!(1)).lines().count(), 8);
    assert_eq!(
        problem(json!({"not-machines": "#<unspecified>"})),
        "m.scm: error: expected a list of build machines, found #<unspecified>"
    );
}

#[test]
fn the_answer_is_found_among_the_replies() {
    let line = |text: &str| repl::answer_line(text.as_bytes()).unwrap();
    let replies = "(repl-version 0 1 1)\n(values (value 1))\n\n";
    assert_eq!(line(&format!("{replies}offload-convert {{}}\nmore")).as_deref(), Some("{}"));
    assert_eq!(line(&format!("{replies} offload-convert {{}}\n")), None);
    assert_eq!(line(""), None);
    assert!(repl::answer_line(&b"\xff\n"[..]).is_err());
}

#[test]
fn a_failing_guix_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("m.scm");
    fs::write(&file, "").unwrap();
    let said = |guix: &str| super::super::convert(&file, || Ok(guix.into())).unwrap_err().to_string();
    assert_eq!(said("/nowhere/guix"), "cannot run '/nowhere/guix repl': No such file or directory (os error 2)");
    assert_eq!(said("/bin/false"), "'/bin/false repl' ended with exit status: 1 before it said what the machines are");
    assert_eq!(said("/bin/echo"), "'/bin/echo repl' ended with exit status: 0 before it said what the machines are");
    let error = super::super::convert(&file, || Err(WrapperError::NotFound)).unwrap_err().to_string();
    assert!(
        error.starts_with("a machines.scm is a program, and needs Guix to run it: no real 'guix' found"),
        "{error}"
    );
}

/// As in Guix, `systems` takes precedence over `system`.
#[test]
fn systems_come_before_system() {
    let list = |systems: &[&str]| Some(Value::List(systems.iter().map(|&system| system.to_owned()).collect()));
    let (none, one, two) = (json!(false), json!("i686-linux"), json!(["x86_64-linux", "armhf-linux"]));
    for (system, systems, expected, has_note) in [
        (&none, &two, list(&["x86_64-linux", "armhf-linux"]), false),
        (&one, &none, list(&["i686-linux"]), true),
        (&one, &two, list(&["x86_64-linux", "armhf-linux"]), false),
    ] {
        let entry = convert(&[("system", system.clone()), ("systems", systems.clone())]).unwrap();
        assert_eq!(entry.get("systems").cloned(), expected, "{system} {systems}");
        assert_eq!(!entry.notes.is_empty(), has_note, "{system} {systems}: {:?}", entry.notes);
    }
    assert!(convert(&[("system", none.clone()), ("systems", none)]).unwrap_err().contains("it has no 'systems'"));
}
