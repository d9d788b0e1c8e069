//! The subcommands, run as programs.

use std::fs;
use std::process::{Command, Output};

use clap::CommandFactory;

fn offload(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_offload"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("OFFLOAD_MACHINE_FILE")
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn eval_prints_the_pool_or_its_errors() {
    let output = offload(&["eval", "examples/head.lua"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("build.example.org"), "{}", text(&output.stdout));

    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("machines.lua");
    fs::write(&broken, "return { build_machine { name = 'b1', usr = 'u' } }").unwrap();
    let output = offload(&["eval", broken.to_str().unwrap()]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(3), String::new()));
    assert!(text(&output.stderr).contains("did you mean 'user'?"), "{}", text(&output.stderr));

    let output = offload(&["eval", "/nowhere/machines.lua"]);
    assert_eq!(output.status.code(), Some(3));

    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut eval = Command::new(env!("CARGO_BIN_EXE_offload"));
    let output = eval.args(["eval", "examples/head.lua"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("No space left on device"), "{}", text(&output.stderr));
}

#[test]
fn help_on_a_full_disk_is_an_error() {
    for arguments in [&["--help"][..], &["--version"], &["eval", "--help"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_offload")).args(arguments).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains("No space left on device"), "{}", text(&output.stderr));
    }
}

#[test]
fn a_closed_pipe_gets_no_message() {
    for arguments in [&["--help"][..], &["eval", "--help"], &["--version"], &["eval", "examples/minimal.lua"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
        let output = command.args(arguments).stdout(writer).output().unwrap();
        let said = text(&output.stderr);
        assert!(!said.contains("error"), "{arguments:?}: {said}");
    }
}

#[test]
fn functions_that_are_broken_for_every_request_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let minimal = fs::read_to_string("examples/minimal.lua").unwrap();
    let broken = "score = function(_, machine) return machine.sped end, build_machine";
    fs::write(&file, minimal.replacen("build_machine", broken, 1)).unwrap();
    for command in [&["eval"][..], &["eval", "--json"], &["explain", "--system", "x86_64-linux"]] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_offload"));
        let output = program.env("GUIX_STATE_DIRECTORY", directory.path()).args(command).arg(&file).output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{command:?}: {said}");
        assert!(said.contains("score: machine has no field 'sped'; did you mean 'speed'?"), "{command:?}: {said}");
    }
}

/// Whether a machine matches is not known then.
#[test]
fn a_function_that_fails_outranks_machines_that_do_not_match() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let minimal = fs::read_to_string("examples/minimal.lua").unwrap();
    for (condition, status) in [("machine.sped > 1", 3), ("machine.speed > 1000", 5), ("machine.speed > 0", 0)] {
        let rule = format!("accepts = function(_, machine) return {condition} end, build_machine");
        fs::write(&file, minimal.replacen("build_machine", &rule, 1)).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_offload"));
        let program = program.env("GUIX_STATE_DIRECTORY", directory.path().join("state"));
        let output = program.args(["explain", "--system", "x86_64-linux"]).arg(&file).output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{condition}: {said}");
    }
}

#[test]
fn an_invalid_log_level_is_reported_and_ignored() {
    let mut eval = Command::new(env!("CARGO_BIN_EXE_offload"));
    let output = eval.current_dir(env!("CARGO_MANIFEST_DIR")).env("OFFLOAD_LOG", "debgu");
    let output = output.args(["eval", "examples/minimal.lua"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    let line = said.lines().find(|line| line.contains("OFFLOAD_LOG")).unwrap_or_default();
    assert!(line.starts_with("offload: warning: OFFLOAD_LOG is ignored: 'debgu' is neither a level"), "{said}");
    assert!(!text(&output.stdout).contains("OFFLOAD_LOG"));
}

#[test]
fn a_missing_machine_file_is_distinguished_from_one_without_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let file = file.to_str().unwrap();
    for (written, status) in [(false, 3), (true, 5)] {
        if written {
            fs::write(file, "return {}").unwrap();
        }
        for command in ["drain", "undrain", "authorize"] {
            let output = offload(&[command, "b1", "--machine-file", file]);
            assert_eq!(output.status.code(), Some(status), "{command}: {}", text(&output.stderr));
            assert_eq!(text(&output.stderr).lines().count(), 1, "{command}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn every_command_takes_the_machine_file_as_an_option() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    fs::write(&file, "return {}").unwrap();
    let (file, none) = (file.to_str().unwrap(), "/no/machines.lua");
    let system = ["explain", "--system", "x86_64-linux"];
    for (arguments, status) in [
        (&["eval", "--machine-file", file][..], 0),
        (&[&system[..], &["--machine-file", file]].concat(), 5),
        (&[&system[..], &["--machine-file", none]].concat(), 3),
        (&[&system[..], &[none]].concat(), 3),
        (&[&system[..], &[file, "--machine-file", file]].concat(), 2),
        (&["eval", file, "--machine-file", file], 2),
    ] {
        let output = offload(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", text(&output.stderr));
    }
    for command in ["test", "status"] {
        let run = |rest: &[&str]| offload(&[&[command][..], rest].concat());
        assert_eq!(run(&["--machine-file", none]).status.code(), Some(3));
        assert_eq!(run(&["--machine-file", file, "("]).status.code(), Some(2));
        assert_eq!(run(&["--machine-file", file, file]).status.code(), Some(2));
        let output = run(&["--machine-file", file, "^b1$"]);
        assert_eq!(output.status.code(), Some(5));
        assert!(text(&output.stderr).contains("matches '^b1$'"), "{}", text(&output.stderr));
    }
}

/// The commands that apply to machines.
const COMMANDS_ABOUT_MACHINES: [&str; 5] = ["test", "status", "authorize", "drain", "undrain"];

#[test]
fn a_word_is_the_machine_file_only_with_a_slash_or_the_extension() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let minimal = fs::read_to_string("examples/minimal.lua").unwrap().replace("build.example.org", "127.0.0.1");
    for name in ["machines.lua", "pool", "127.0.0.1"] {
        fs::write(directory.path().join(name), minimal.replace("build_machine {", "build_machine { port = 1,"))
            .unwrap();
    }
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
        command.current_dir(&directory).env("GUIX_STATE_DIRECTORY", &state).env("OFFLOAD_MACHINE_FILE", "machines.lua");
        let output = command.args(arguments).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for command in COMMANDS_ABOUT_MACHINES {
        // The name of the machine is that of a file, too.
        for words in [&["127.0.0.1"][..], &["127.0.0.1", "./pool"], &["pool/../pool", "127.0.0.1:1"]] {
            let (status, said) = run(&[&[command][..], words].concat());
            if words.contains(&"pool/../pool") {
                assert_eq!(status, Some(3), "{command} {words:?}: {said}");
            } else {
                assert_ne!(status, Some(3), "{command} {words:?}: {said}");
                // Without a signing key, that is all that `authorize` says.
                assert!(said.contains("127.0.0.1:1") || command == "authorize", "{command} {words:?}: {said}");
            }
        }
        let (status, said) = run(&[command, "pool"]);
        assert_eq!(status, Some(5), "{command}: {said}");
        assert!(said.contains("no machine matches 'pool'; the machine file has 127.0.0.1\n"), "{command}: {said}");
        assert!(said.contains("hint: 'pool' is a file: to use it as the machine file, write --machine-file pool"));
        assert_eq!(run(&[command, "a.lua", "b.lua"]).0, Some(2), "{command}");
    }
    for command in [&["eval"][..], &["explain", "--system", "x86_64-linux"]] {
        assert_eq!(run(&[command, &["pool"]].concat()).0, Some(2), "{command:?}");
        for word in ["./pool", "machines.lua"] {
            assert_eq!(run(&[command, &[word]].concat()).0, Some(0), "{command:?} {word}");
        }
    }
    let (status, said) = run(&["explain", "pool"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("'pool' is neither a derivation, which ends in '.drv', nor a machine file"), "{said}");
    let (status, said) = run(&["status", "--watch", "2"]);
    assert_eq!(status, Some(5), "{said}");
    assert!(said.contains("hint: the interval follows an equals sign: --watch=2s"), "{said}");
    for command in ["authorize", "drain", "undrain"] {
        assert_eq!(run(&[command]).0, Some(2), "{command}");
    }
    assert_eq!(run(&["drain", "--all", "127.0.0.1"]).0, Some(2));
    assert_eq!(run(&["drain", "--all", "./machines.lua"]).0, Some(0));
}

#[test]
fn drain_warns_when_no_machine_is_left_for_a_system() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    let machine = |name: &str, rest: &str| {
        format!("build_machine {{ name = '{name}', user = 'u', host_key = '{key}', {rest} }},\n")
    };
    let machines = [
        machine("a", "systems = { 'x86_64-linux', 'i686-linux' }"),
        machine("b", "systems = { 'x86_64-linux' }"),
        machine("c", "systems = { 'x86_64-linux', 'i686-linux' }, enabled = false"),
        machine("d", "systems = { 'aarch64-linux' }"),
        machine("d", "systems = { 'armhf-linux' }"),
        machine("d", "port = 2222, systems = { 'riscv64-linux' }"),
    ];
    let drain = |policy: &str, arguments: &[&str]| {
        fs::write(directory.path().join("machines.lua"), format!("return {{ {}{policy} }}", machines.concat()))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
        command.current_dir(&directory).env("GUIX_STATE_DIRECTORY", &state).arg("drain");
        let output = command.args(arguments).arg("machines.lua").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let said = text(&output.stderr);
        said.lines().find_map(|line| line.strip_prefix("offload: warning: no machine is left for ")).map(str::to_owned)
    };
    let local = "such builds run on this machine if it can build them, and wait otherwise";
    let function = "`when_busy` of the machine file decides whether such builds wait";
    assert_eq!(drain("", &["a"]).unwrap(), "i686-linux; such builds wait");
    assert_eq!(drain("when_busy = 'local'", &["b"]).unwrap(), format!("x86_64-linux; {local}"));
    let policy = "when_busy = function() return 'wait' end";
    // Another port is another machine: its systems were reported when it was drained.
    assert_eq!(drain(policy, &["d:2222"]).unwrap(), format!("riscv64-linux; {function}"));
    assert_eq!(drain(policy, &["d:22", "--for", "2h"]).unwrap(), format!("aarch64-linux, armhf-linux; {function}"));
    assert_eq!(drain("", &["c"]), None);
}

#[test]
fn a_command_that_is_mistyped_is_not_taken_for_the_hook() {
    let output = offload(&["drian", "b1", "--for", "2h"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'drain'"), "{}", text(&output.stderr));
}

#[test]
fn eval_prints_json() {
    let output = offload(&["eval", "--json", "examples/minimal.lua"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["version"], &json["machines"][0]["port"]), (&1.into(), &22.into()));
    assert!(json.get("errors").is_none());
    in_the_manual(&[&json]);
    let output = offload(&["eval", "--json", "/nowhere/machines.lua"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["errors"].as_array().unwrap().len(), 1);
}

#[test]
fn eval_accepts_the_result_of_convert() {
    let output = offload(&["convert", "tests/golden/convert/manual.machines"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    fs::write(&file, &output.stdout).unwrap();
    let output = offload(&["eval", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn convert_replaces_a_file_only_by_one_that_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let manual = fs::canonicalize("tests/golden/convert/manual.machines").unwrap();
    let path = |name: &str| directory.path().join(name);
    let convert = |file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
        let output = command.current_dir(&directory).args(["convert", file, "-o", "machines.lua"]).output().unwrap();
        assert_eq!(text(&output.stdout), "", "{}", text(&output.stderr));
        (output.status.code(), text(&output.stderr))
    };
    fs::write(path("machines.lua"), "return {}").unwrap();
    // One that cannot be converted, and one whose result has no host key.
    fs::write(path("broken"), "ssh://").unwrap();
    fs::write(path("nokey"), "ssh-ng://nix@b1:2022 x86_64-linux\n").unwrap();
    for (file, said_of_it) in [
        ("broken", "error: "),
        ("nokey", "'machines.lua' is not written, because 'offload eval' would refuse it: 1 error\n"),
    ] {
        let (status, said) = convert(file);
        assert_eq!(status, Some(3), "{said}");
        assert!(said.contains(said_of_it), "{said}");
        assert_eq!(fs::read_to_string(path("machines.lua")).unwrap(), "return {}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
    }
    // The name of the machine alone would fetch the key of another server.
    assert!(convert("nokey").1.contains("run 'offload add --port 2022 --user nix b1' to get it"));
    let (status, said) = convert(manual.to_str().unwrap());
    assert_eq!(status, Some(0), "{said}");
    assert!(said.ends_with("wrote 'machines.lua'; the old file is 'machines.lua.~1~'\n"), "{said}");
    assert_eq!(fs::read_to_string(path("machines.lua.~1~")).unwrap(), "return {}");
    assert_eq!(offload(&["eval", path("machines.lua").to_str().unwrap()]).status.code(), Some(0));
    assert!(convert(manual.to_str().unwrap()).1.ends_with("'machines.lua' is up to date\n"));
    // The file itself would be lost.
    fs::copy(&manual, path("own.machines")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
    let output =
        command.current_dir(&directory).args(["convert", "own.machines", "-o", "./own.machines"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(path("own.machines")).unwrap(), fs::read(&manual).unwrap());
}

#[test]
fn explain_prints_the_reasons_and_the_outcome() {
    let state = tempfile::tempdir().unwrap();
    let offload = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env("GUIX_STATE_DIRECTORY", state.path());
        command.args(arguments).output().unwrap()
    };
    let machines = ["--machine-file", "examples/minimal.lua"];
    let explain = |system: &str| offload(&["explain", "--system", system, "examples/minimal.lua"]);

    let output = explain("x86_64-linux");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("build.example.org:22  score 1.000  not checked recently; checked before use"), "{said}");
    assert!(said.ends_with("→ built on build.example.org\n"), "{said}");

    let output = explain("riscv64-linux");
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stdout).contains("it does not build for riscv64-linux"), "{}", text(&output.stdout));

    let output = offload(&["drain", "build.example.org", "--for", "2h", machines[0], machines[1]]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&explain("x86_64-linux").stdout);
    assert!(said.contains("drained: it gets no new builds"), "{said}");
    assert!(said.contains("drained for 1 h 59 min more") || said.contains("drained for 2 h 0 min more"), "{said}");
    offload(&["undrain", "build.example.org", machines[0], machines[1]]);
    assert!(text(&explain("x86_64-linux").stdout).contains("not checked recently; checked before use"));

    let output = offload(&["explain", "--json", "--system", "x86_64-linux", "--features", "kvm,big", machines[1]]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["machines"][0]["reason"], "it lacks the features kvm, big");
    assert_eq!((&json["reply"], &json["machine"]), (&"decline".into(), &serde_json::Value::Null));
    in_the_manual(&[&json, &json["machines"][0], &json["request"]]);
}

/// The page of the manual about commands.
fn manual() -> String {
    fs::read_to_string("doc/manual/commands.md").unwrap()
}

/// Every field of these objects is in the manual.
fn in_the_manual(objects: &[&serde_json::Value]) {
    for name in objects.iter().flat_map(|object| object.as_object().unwrap().keys()) {
        assert!(manual().contains(&format!("`{name}`")), "the manual does not know the field `{name}`");
    }
}

#[test]
fn every_command_has_its_section_in_the_manual() {
    let files = fs::read_dir("doc/manual").unwrap().map(|file| file.unwrap().path());
    let pages = files.filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    let pages: String = pages.map(|page| fs::read_to_string(page).unwrap()).collect();
    let headings: Vec<&str> = pages.lines().filter(|line| line.starts_with('#')).collect();
    let definition = offload::internals::commands::CommandLine::command();
    for command in definition.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("`offload {}`", command.get_name());
        assert!(headings.iter().any(|heading| heading.contains(&name)), "no section about {name}");
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        let options = shown.filter_map(|argument| argument.get_long());
        for option in options.filter(|option| *option != "help") {
            assert!(pages.contains(&format!("--{option}")), "{name} --{option} is not in the manual");
        }
    }
    for status in 0..=5 {
        assert!(manual().contains(&format!("\n| {status} | ")), "the status {status} is not in the manual");
    }
}

/// A decline would be a failed build where the daemon may not build itself; what `score` says may be otherwise in a
/// moment.
#[test]
fn a_machine_that_its_score_declines_still_matches() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let minimal = fs::read_to_string("examples/minimal.lua").unwrap();
    let rule = "score = function(_, _, status) return false, 'not with ' .. tostring(status.load) end, build_machine";
    fs::write(&file, minimal.replacen("build_machine", rule, 1)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_offload"))
        .env("GUIX_STATE_DIRECTORY", directory.path().join("state"))
        .args(["explain", "--system", "x86_64-linux", file.to_str().unwrap()])
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(said.contains("not with nil"), "{said}{}", text(&output.stderr));
    assert!(said.ends_with("→ waits: no build machine can take it now\n"), "{said}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn usage_errors_have_a_status_of_their_own() {
    let hosts = ["", "a b", "root@b1", "b1:22", "[::1]", ".b1"].map(|host| ["add", host]);
    let others = [&[][..], &["evall"], &["eval", "a", "b"], &["x86_64-linux", "0", "0"]];
    for arguments in others.into_iter().chain(hosts.iter().map(<[_; 2]>::as_slice)) {
        let output = offload(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stdout).is_empty());
    }
    for arguments in [["--help"], ["--version"]] {
        let output = offload(&arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
}
