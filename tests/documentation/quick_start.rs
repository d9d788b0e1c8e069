//! What a reader of the manual does on his machines, done in the lab: the conversion of a `machines.scm`, and what else
//! needs Guix. The quick start as a whole is in `tests/systemd_head`.

use crate::lab::{Drv, Hook, Host, LONG, Lab, Release, wait_until};
use crate::page::{manual, pages};
use crate::transcript::commands;

fn shell(host: &Host, command: &str) -> String {
    let output = host.command("bash").args(["-c", &format!("exec 2>&1; {command}")]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The build of the page is a new one each time, and not one that guix-daemon keeps from hooks. Its derivation is only
/// computed.
#[test]
fn the_build_of_the_quick_start_is_new_and_may_be_offloaded() {
    let blocks = manual("quick-start.md").blocks();
    let consoles = blocks.iter().filter(|block| block.language == "console");
    let commands: Vec<String> =
        consoles.flat_map(|block| commands(&block.text)).map(|(_, command, _)| command).collect();
    let expression = commands.iter().find_map(|command| command.strip_prefix("guix build ")).unwrap();
    let lab = Lab::new();
    for (name, release) in [("sid", Release::Sid), ("bullseye", Release::Bullseye)] {
        let host = lab.daemon(name, release).start();
        let compute = || {
            let printed = shell(&host, &format!("guix build --derivations {expression}"));
            let derivation = printed.lines().find(|line| line.ends_with("-gexp.drv"));
            derivation.unwrap_or_else(|| panic!("{name}: {printed}")).to_owned()
        };
        let first = compute();
        wait_until("another derivation", LONG, || compute() != first);
        let text = String::from_utf8(host.read(&first)).unwrap();
        assert!(text.contains("\"out\"") && !text.contains("preferLocalBuild"), "{name}: {text}");
    }
}

/// The file of a `build-machine` becomes the file in Lua that the page shows after it; all other Scheme is read.
#[test]
fn scheme_is_read_and_converted() {
    let lab = Lab::new();
    let host = lab.head().hook(Hook::Offload).start();
    let mut converted = 0;
    for page in pages() {
        let blocks = page.blocks();
        for (number, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "scheme") {
            host.write("/tmp/block.scm", &block.text);
            let read = "(call-with-input-file \"/tmp/block.scm\" (lambda (port) (let loop ((x (read port))) \
                        (unless (eof-object? x) (loop (read port))))))";
            let output = host.guile(read, &[]);
            assert!(output.status.success(), "{}: {}", block.place, String::from_utf8_lossy(&output.stderr));
            if block.text.starts_with("(list (build-machine") {
                converted += 1;
                let output = host.command("/opt/offload/offload").args(["convert", "/tmp/block.scm"]).output().unwrap();
                let text = String::from_utf8(output.stdout).unwrap();
                let code = |text: &str| -> Vec<String> {
                    let plain = text.lines().map(|line| line.split("--").next().unwrap().trim().to_owned());
                    plain.filter(|line| !line.is_empty()).collect()
                };
                let shown = &blocks[number + 1];
                assert_eq!(code(&text), code(&shown.text), "{}: converted:\n{text}", shown.place);
            }
        }
    }
    assert!(converted > 0, "no machines.scm found");
}

/// As the page on migration says: a machine serves heads of both kinds at the same time, with the same keys.
#[test]
fn heads_of_both_kinds_share_a_machine() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let before = lab.head().name("before").hook(Hook::Upstream).start();
    let after = lab.head().name("after").start();
    for head in [&before, &after] {
        head.write_machines(&[machine.entry()]);
    }
    let long = Drv::new("by-upstream").script("echo started; sleep 2; echo $name >$out");
    let mut first = before.client().start(&[&long]);
    first.wait_for_log("started");
    after.build(&[&Drv::new("by-offload")]).succeeded();
    first.wait().succeeded();
    assert_eq!(machine.built().len(), 2);
}
