//! The engine in another program: `examples/embed.rs`.

mod lab;

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Drv, Lab};

/// The example, next to the program. Cargo builds it before it runs all tests, but not before it runs just these.
fn embed() -> PathBuf {
    let built =
        Command::new(env!("CARGO")).args(["build", "--quiet", "--locked", "--example", "embed"]).status().unwrap();
    assert!(built.success(), "the example does not build");
    Path::new(env!("CARGO_BIN_EXE_offload")).with_file_name("examples").join("embed")
}

#[test]
fn a_program_with_functions_of_its_own_explains() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let minimal = std::fs::read_to_string("examples/minimal.lua").unwrap();
    let text = minimal.replacen("name =", "parallel_builds = fleet 'big-one', name =", 1);
    std::fs::write(&file, text).unwrap();
    let output =
        Command::new(embed()).arg(&file).env("GUIX_STATE_DIRECTORY", directory.path().join("state")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "build.example.org (16 slots): would have to be asked\nthe decision would be: accept\n");
}

#[test]
fn a_program_has_a_derivation_built() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    // Without a machine file nothing is built, but the derivation is in the store.
    let drv = Drv::new("embedded").script("echo built >$out; echo the log");
    let result = head.build(&[&drv]);
    assert_ne!(result.status, Some(0));

    head.write_machine_file(&format!(
        "return {{ {} }}",
        b1.entry().lua().replace("parallel_builds = 4", "parallel_builds = fleet 'b1'")
    ));
    std::fs::copy(embed(), head.path("/opt/offload/embed")).unwrap();
    let drv = result.derivation("embedded").to_str().unwrap();
    let output = head.command("/opt/offload/embed").args(["/etc/guix/machines.lua", drv]).output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{log}");
    assert!(said.starts_with("b1 (2 slots): would have to be asked\n"), "{said}");
    assert!(said.contains(&format!("done with '{drv}', built on 'b1'")), "{said}");
    assert!(log.contains("the log"), "{log}");
    assert_eq!(head.read(result.output("embedded")), b"built\n");
    assert_eq!(b1.built(), ["embedded"]);
}
