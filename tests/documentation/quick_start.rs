//! What a reader of the manual does on his machines, done in the lab: the quick start, the conversion of a
//! `machines.scm`, and what else needs Guix.
//!
//! In blocks `console`, `head# ` and `build# ` are prompts of hosts.

use crate::console::{commands, fits};
use crate::lab::{Drv, Hook, Host, LONG, Lab, Release, SSH_PORT, wait_until};
use crate::page::{manual, pages};
use offload::internals::machine::HostKeyKind;

const NAME: &str = "build.example.org";

/// The head and the build machine of the quick start.
struct Site {
    head: Host,
    build: Host,
    _lab: Lab,
}

impl Site {
    /// A machine on which nothing has been prepared.
    fn new() -> Site {
        let lab = Lab::new();
        let build = lab.build_machine(NAME).closed().untrusting().start();
        build.run("userdel", &["--remove", "offload"]);
        build.write("/etc/ssh/ssh_host_ed25519_key.pub", build.host_key(HostKeyKind::Ed25519) + "\n");
        let head = lab.head().start();
        // Nobody is trusted here either.
        head.write("/etc/guix/acl", build.read("/etc/guix/acl"));
        std::os::unix::fs::symlink("/opt/offload/offload", head.path("/usr/bin/offload")).unwrap();
        Site { head, build, _lab: lab }
    }

    /// What a command of the page prints.
    fn run(&self, command: &str) -> String {
        if command.starts_with("guix build ") {
            // No Guile is in the store of a lab.
            return self.head.build(&[&Drv::new("gexp")]).succeeded().log;
        }
        shell(&self.head, &command.replace("offload init ", &format!("offload init --port {SSH_PORT} ")))
    }

    /// The machine file of the page, with what is different in the lab: the port, the key, the system type.
    fn write_machine_file(&self, text: &str) {
        let line = |field: &str| text.lines().find(|line| line.trim_start().starts_with(field)).unwrap().trim();
        let text = text
            .replace(line("name ="), &format!("name = {NAME:?}, port = {SSH_PORT},"))
            .replace(line("host_key ="), &format!("host_key = {:?},", self.build.host_key(HostKeyKind::Ed25519)))
            .replace("x86_64-linux", crate::lab::SYSTEM)
            .replace("parallel_builds = 4", "parallel_builds = 4, overload_threshold = 1000");
        self.head.write_machine_file(&text);
    }
}

/// What is printed, as it would be with SSH's own port, and on a machine with nothing else to do.
fn as_on_port_22(printed: &str) -> String {
    let printed: String = printed.split_inclusive('\n').filter(|line| !line.starts_with("  ??  load ")).collect();
    let printed = printed.replace(&format!("authorize {NAME}:{SSH_PORT}"), &format!("authorize {NAME}"));
    let printed = printed.replace(&format!("{NAME}:{SSH_PORT}"), &format!("{NAME}:22"));
    printed.replace(&format!("  port = {SSH_PORT},\n"), "").replace(&format!(" --port {SSH_PORT}"), "")
}

fn shell(host: &Host, command: &str) -> String {
    let output = host.command("bash").args(["-c", &format!("exec 2>&1; {command}")]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_quick_start_leads_to_a_build() {
    let site = Site::new();
    let (mut count, mut last, mut fingerprint) = (0, String::new(), String::new());
    for block in manual("quick-start.md").blocks() {
        match block.language.as_str() {
            "lua" => site.write_machine_file(&block.text),
            "console" => {
                for (prompt, command, shown) in commands(&block.text) {
                    let printed = match prompt.as_str() {
                        "head#" => {
                            last = as_on_port_22(&site.run(&command.replace("SHA256:…", &fingerprint)));
                            last.clone()
                        }
                        "build#" if !command.contains('…') => shell(&site.build, &command),
                        // What the reader copies from the output of the head.
                        "build#" => {
                            let copied = last.lines().map(str::trim).find(|line| fits(&command, line));
                            shell(&site.build, copied.unwrap_or_else(|| panic!("{command} was not printed before")))
                        }
                        _ => panic!("{}: {prompt}", block.place),
                    };
                    assert!(fits(&shown, &printed), "{}: {command}\nshown:\n{shown}printed:\n{printed}", block.place);
                    if let Some(found) = printed.split_whitespace().find(|word| word.starts_with("SHA256:")) {
                        fingerprint = found.to_owned();
                    }
                    count += 1;
                }
            }
            _ => {}
        }
    }
    assert!(count >= 8, "only {count} commands found");
    assert_eq!(site.build.built(), ["gexp"]);
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
