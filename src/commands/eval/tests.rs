use super::*;
use std::fs;
use tempfile::TempDir;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG";

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Table,
    Json,
}

/// Returns the output for a machine file, without the name of its directory: status, standard output, standard error.
fn eval(text: &str, form: Form) -> (ExitStatus, String, String) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("machines.lua");
    fs::write(&file, text.replace("$KEY", KEY)).unwrap();
    fs::write(directory.path().join("key"), "").unwrap();
    let context = LoadContext { home: Some(directory.path().to_owned()), ..LoadContext::default() };
    let (mut output, mut messages) = (Vec::new(), Vec::new());
    let ended = print(&file, &context, "x86_64-linux", form == Form::Json, &mut output, &mut messages);
    let status = ended.unwrap_or_else(|error| error.print(&mut messages));
    let relative =
        |text: Vec<u8>| String::from_utf8(text).unwrap().replace(&format!("{}/", directory.path().display()), "");
    (status, relative(output), relative(messages))
}

const POOL: &str = r#"
local base = { user = "offload", host_key = "$KEY", private_key = "~/key" }
return {
  build_machine { inherit = base, name = "eightysix.example.org", systems = { "x86_64-linux", "i686-linux" },
    parallel_builds = 12, speed = 2.5, features = { "kvm", "big-parallel" }, overload_threshold = false,
    keep_connection = false },
  build_machine { inherit = base, name = "arm", port = 2222, system = "aarch64-linux", enabled = false,
    accepts = function() return true end, proxy_command = { "nc", "%h", "%p" } },
  local_machine { speed = 0.5 },
  when_busy = function() return "wait" end,
}
"#;

#[test]
fn a_pool_is_printed_as_a_table() {
    let (status, output, messages) = eval(POOL, Form::Table);
    assert_eq!(status, ExitStatus::Success);
    let expected = "\
machines.lua: 2 build machines

NAME                   SYSTEMS                   SLOTS  SPEED  FEATURES           NOTES
eightysix.example.org  x86_64-linux, i686-linux     12    2.5  kvm, big-parallel  no persistent connection
arm:2222               aarch64-linux                 1      1  -                  disabled, accepts, proxy
localhost              its own                       -    0.5  -                  the head itself

accepts           every build
score             speed / (1 + load)
when_busy         a function
when_unreachable  local
max_attempts      3
wait_for_slot     as long as the daemon allows
on_event          none
wait_for_machine  60 s
limits            5 s to evaluate, 0.5 s to decide, 10 s for an event, 64 MiB
";
    assert_eq!(output, expected);
    assert_eq!(
        messages,
        "machines.lua:7: warning: build_machine<arm>: system: deprecated\n  hint: write systems = { \"aarch64-linux\" }\n"
    );
}

#[test]
fn a_pool_is_printed_as_json() {
    let (status, output, messages) = eval(POOL, Form::Json);
    assert_eq!((status, messages.as_str()), (ExitStatus::Success, ""));
    let object: serde_json::Value = serde_json::from_str(&output).unwrap();
    let expected = serde_json::json!({
        "version": 1,
        "file": "machines.lua",
        "machines": [
            {
                "name": "eightysix.example.org", "port": 22, "systems": ["x86_64-linux", "i686-linux"],
                "host_key": [KEY], "private_key": "key", "speed": 2.5, "overload_threshold": null,
                "connect_timeout": 5, "keep_connection": null, "proxy_command": null, "accepts": false, "line": 4
            },
            {
                "name": "arm", "port": 2222, "systems": ["aarch64-linux"], "enabled": false, "features": [],
                "proxy_command": ["nc", "%h", "%p"], "keep_connection": 30, "accepts": true, "score": false, "line": 7
            }
        ],
        "local_machine": { "name": "localhost", "systems": null, "speed": 0.5, "overload_threshold": 0.8 },
        "settings": {
            "accepts": false, "score": false, "when_busy": "function", "when_unreachable": "local",
            "limits": { "evaluate": 5, "decide": 0.5, "memory": 67108864 }
        },
        "warnings": [{
            "severity": "warning", "file": "machines.lua", "line": 7, "field": "system",
            "message": "build_machine<arm>: system: deprecated", "hint": "write systems = { \"aarch64-linux\" }"
        }]
    });
    assert!(has(&object, &expected), "{object:#}");
}

/// Returns whether `actual` has all the expected fields. It may have others.
fn has(actual: &serde_json::Value, expected: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Object};
    match (actual, expected) {
        (Object(actual), Object(expected)) => {
            expected.iter().all(|(name, value)| actual.get(name).is_some_and(|actual| has(actual, value)))
        }
        (Array(actual), Array(expected)) => {
            actual.len() == expected.len()
                && actual.iter().zip(expected).all(|(actual, expected)| has(actual, expected))
        }
        _ => actual == expected,
    }
}

#[test]
fn errors_of_the_file_are_printed_in_both_forms() {
    let text = "return {\n  build_machine { name = 'a', speeed = 2, user = 'u', systems = { 'x86_64-linux' }, host_key = '$KEY' }\n}";
    let (status, output, messages) = eval(text, Form::Table);
    assert_eq!((status, output.as_str()), (ExitStatus::MachineFile, ""));
    assert_eq!(
        messages,
        "machines.lua:2: error: build_machine<a>: unknown field 'speeed'\n  hint: did you mean 'speed'?\n"
    );
    let (status, output, messages) = eval(text, Form::Json);
    assert_eq!((status, messages.as_str()), (ExitStatus::MachineFile, ""));
    let expected = serde_json::json!({
        "version": 1,
        "file": "machines.lua",
        "warnings": [],
        "errors": [{
            "severity": "error", "file": "machines.lua", "line": 2, "field": "speeed",
            "message": "build_machine<a>: unknown field 'speeed'", "hint": "did you mean 'speed'?"
        }]
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&output).unwrap(), expected);
}

#[test]
fn an_empty_pool_is_valid_and_a_missing_file_is_not() {
    let (status, output, messages) = eval("return {}", Form::Table);
    assert_eq!((status, messages.as_str()), (ExitStatus::Success, ""));
    assert!(output.starts_with("machines.lua: no build machines\n\naccepts "), "{output}");
    let (mut output, mut messages) = (Vec::new(), Vec::new());
    let file = Path::new("/nonexistent/machines.lua");
    let status = print(file, &LoadContext::default(), "x86_64-linux", false, &mut output, &mut messages).unwrap();
    assert_eq!((status, output.len()), (ExitStatus::MachineFile, 0));
    assert_eq!(
        String::from_utf8(messages).unwrap(),
        "/nonexistent/machines.lua: error: the machine file does not exist, so there are no machines\n"
    );
}

#[test]
fn the_environment_of_the_file_is_checked() {
    let (status, _, messages) = eval(
        "local base = { user = 'u', systems = { 'aarch64-linux' }, host_key = '$KEY' }\nreturn {\n\
         build_machine { inherit = base, name = 'a', private_key = '~/nothing' },\n\
         build_machine { inherit = base, name = 'b' },\n\
         build_machine { inherit = base, name = 'c', private_key = '~/nothing', enabled = false, systems = { 'x86_64-linux' } } }",
        Form::Table,
    );
    assert_eq!(status, ExitStatus::Success);
    let expected = "\
machines.lua:4: warning: build_machine<b>: host_key: build_machine<a> on line 3 has the same one: if that is one machine under two names, its build slots are counted twice
  hint: write name = \"a\" in both, if it is one
machines.lua:3: warning: build_machine<a>: private_key: nothing: No such file or directory (os error 2)
  hint: make one with ssh-keygen -t ed25519 -N '', and add its public half to the account's ~/.ssh/authorized_keys on the build machine
machines.lua:4: warning: build_machine<b>: private_key: not given, and none of .ssh/id_ed25519, .ssh/id_ecdsa, .ssh/id_rsa can be read
machines.lua: warning: no build machine is enabled for x86_64-linux, the head's own system
";
    assert_eq!(messages, expected);
}

/// Entries with the same name share slots, in any spelling of the name.
#[test]
fn entries_for_one_machine_must_agree() {
    let pool = |first: &str, second: &str| {
        eval(
            &format!(
                "local base = {{ user = 'u', systems = {{ 'x86_64-linux' }}, host_key = '$KEY', private_key = '/dev/null' }}\nreturn {{\n\
                 build_machine {{ inherit = base, name = 'good.lan', {first} }},\n\
                 build_machine {{ inherit = base, {second} }} }}"
            ),
            Form::Table,
        )
    };
    for second in ["name = 'Good.lan'", "name = 'good.lan.'"] {
        let (status, _, messages) = pool("speed = 2", second);
        assert_eq!((status, messages.contains("the same one")), (ExitStatus::Success, false), "{messages}");
        // So they must agree in what concerns the machine.
        let (status, _, messages) = pool("speed = 2", &format!("{second}, parallel_builds = 4"));
        assert_eq!(status, ExitStatus::MachineFile);
        assert!(
            messages.contains("parallel_builds: differs from that of the entry for the same machine on line 3"),
            "{messages}"
        );
    }
    for (second, is_warning) in
        [("name = '192.0.2.7'", true), ("name = 'good'", true), ("name = 'good.lan', port = 2022", false)]
    {
        let (status, _, messages) = pool("speed = 2", second);
        assert_eq!(status, ExitStatus::Success);
        assert_eq!(
            messages.contains("build_machine<good.lan> on line 3 has the same one"),
            is_warning,
            "{second}: {messages}"
        );
    }
}
