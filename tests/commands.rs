//! The subcommands, run as programs.

use std::fs;
use std::process::{Command, Output};

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
fn eval_prints_the_pool_or_what_is_wrong() {
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
}

#[test]
fn eval_prints_json() {
    let output = offload(&["eval", "--json", "examples/minimal.lua"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["version"], &json["machines"][0]["port"]), (&1.into(), &22.into()));
    assert!(json.get("errors").is_none());
    let output = offload(&["eval", "--json", "/nowhere/machines.lua"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["errors"].as_array().unwrap().len(), 1);
}

#[test]
fn convert_gives_a_file_that_eval_takes() {
    let output = offload(&["convert", "tests/golden/convert/manual.machines"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    fs::write(&file, &output.stdout).unwrap();
    let output = offload(&["eval", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn usage_errors_have_a_status_of_their_own() {
    for arguments in [&[][..], &["evall"], &["eval", "a", "b"], &["x86_64-linux", "0", "0"]] {
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
