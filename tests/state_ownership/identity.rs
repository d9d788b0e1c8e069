//! As whom root's commands run where the state belongs to another user, and that nothing of root's is left to be taken.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::site::{COMMANDS, DERIVATION, HOOK, LOG, MACHINE, OWNER, Site};
use crate::{after_each_command, sites, text};

/// A machine file that says who evaluates it, and with what.
const WHO: &str = r#"
local proxy
local file = assert(io.open("RECORDS/status", "w"))
file:write((require("offload").read_file("/proc/self/status")))
file:close()
os.execute("env >RECORDS/environment; ls -l /proc/$$/fd >RECORDS/descriptors")
"#;

/// A site whose machine file runs `code` first; what that writes to the directory `RECORDS` is the owner's.
fn telling(code: &str) -> Site {
    let site = Site::new();
    fs::create_dir(site.path("records")).unwrap();
    chown(site.path("records"), Some(OWNER), Some(OWNER)).unwrap();
    site.write_machine_file(&code.replace("RECORDS", site.path("records").to_str().unwrap()));
    site.give_machine_file();
    site
}

fn recorded(site: &Site, name: &str) -> String {
    fs::read_to_string(site.path("records").join(name)).unwrap_or_default()
}

/// Returns a command that runs `program` as a shell of root's may run it: with an open file that its children inherit.
pub fn with_descriptor(program: &Command, file: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 9<\"$0\"; exec \"$@\""]).arg(file).arg(program.get_program()).args(program.get_args());
    shell.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    shell
}

#[test]
fn the_machine_file_is_evaluated_as_the_owner_of_the_state() {
    let site = telling(WHO);
    let directory = site.path("metrics");
    fs::create_dir(&directory).unwrap();
    // Root writes this file itself, with the text of another process.
    let textfile: &[&str] = &["metrics", "--textfile", directory.to_str().unwrap()];
    // The history, a log of this machine and the log level need no machine file.
    let needs_none = |command: &[&str]| command == HOOK || ["history", "log", "log-level"].contains(&command[0]);
    for command in COMMANDS.iter().filter(|command| !needs_none(command)).chain([&textfile]) {
        let _ = fs::remove_file(site.path("records/status"));
        let mut shell = with_descriptor(&site.command(command), &site.path("outside/precious"));
        let output = shell.env("PRECIOUS", "of root").env("LC_ALL", "C").output().unwrap();
        let status = recorded(&site, "status");
        for (name, numbers) in [("Uid", 4), ("Gid", 4), ("Groups", 0)] {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap_or_default();
            let found: Vec<&str> = line.split_whitespace().collect();
            let is_owner = found.iter().all(|number| *number == OWNER.to_string());
            assert!(is_owner && found.len() >= numbers, "{}: {name}:{line}\n{}", command.join(" "), text(&output));
        }
        assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
        let environment = recorded(&site, "environment");
        assert!(environment.contains("LC_ALL=C\n") && environment.contains("PATH="), "{environment}");
        assert!(!environment.contains("PRECIOUS") && !environment.contains("HOME=/root"), "{environment}");
        let descriptors = recorded(&site, "descriptors");
        assert!(descriptors.contains(" 0 -> ") && !descriptors.contains("precious"), "{descriptors}");
    }
}

/// The owner can put any file instead of a log or of the history.
#[test]
fn a_log_is_read_as_the_owner_of_the_state() {
    let site = Site::new();
    let log = site.logs().join(LOG);
    site.as_owner(|site| {
        fs::create_dir_all(site.logs().join("drvs/00")).unwrap();
        fs::write(site.logs().join(LOG), "the log\n").unwrap();
    });
    assert_eq!(text(&site.run(&["log", DERIVATION])), "the log\n");

    // The owner's hook builds it.
    let slot = site.as_owner(|site| {
        let host = site.state().join(MACHINE);
        fs::create_dir_all(&host).unwrap();
        let holder = serde_json::json!({ "pid": 1, "derivation": DERIVATION, "since": 1 });
        fs::write(host.join("0.json"), holder.to_string()).unwrap();
        let slot = fs::File::create(host.join("0")).unwrap();
        slot.lock().unwrap();
        slot
    });
    let mut first = site.command(&["log", "--follow", DERIVATION]).stdout(Stdio::null()).spawn().unwrap();
    second_process(&first);
    drop(slot);
    assert!(first.wait().unwrap().success());

    // Not even a process of root's opens a link: where the state is root's, the log directory may be another user's.
    let secret = site.path("outside/secret.drv");
    fs::write(&secret, "of root").unwrap();
    for owner in [OWNER, 0] {
        chown(site.path("guix"), Some(owner), Some(owner)).unwrap();
        fs::remove_dir_all(site.state()).ok();
        site.as_owner(|_| fs::remove_file(&log).and_then(|()| std::os::unix::fs::symlink(&secret, &log)).unwrap());
        let output = text(&site.run(&["log", DERIVATION]));
        assert!(output.starts_with(&format!("offload: error: cannot read '{}': ", log.display())), "{output}");
    }
}

#[test]
fn files_that_root_creates_belong_to_the_owner() {
    for site in sites() {
        after_each_command(&site, |_| {});
        assert!(site.run(&["drain", MACHINE]).status.success());
        let mut count = 0;
        every(&site.state(), &mut |path| {
            let data = fs::symlink_metadata(path).unwrap();
            assert_eq!((data.uid(), data.gid()), (OWNER, OWNER), "{}", path.display());
            assert_eq!(data.mode() & 0o077, 0, "{}", path.display());
            count += 1;
        });
        assert!(count > 5, "{count}");
        // The statuses are those of the command itself.
        assert_eq!(site.run(&["drain", "nowhere"]).status.code(), Some(5));
        assert_eq!(site.run(&["eval", "/nowhere.lua"]).status.code(), Some(3));
        let undrained = site.as_owner(|site| site.command(&["undrain", MACHINE]).output().unwrap());
        assert!(text(&undrained).contains(": undrained"), "{}", text(&undrained));
    }
}

fn every(path: &Path, look: &mut dyn FnMut(&Path)) {
    look(path);
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| every(&entry.unwrap().path(), look));
    }
}

/// Root's shell reads the terminal's input when the command has ended.
#[test]
fn the_machine_file_cannot_type_into_the_terminal_of_root() {
    let push = r#"open(my $tty, "<", "/dev/tty"); open(my $record, ">", "RECORDS/pushed");
        for my $file (*STDERR, $tty) { my $word = "x"; print $record ioctl($file, 0x5412, $word) ? "pushed\n" : "no\n" }"#;
    let site = telling(&format!("local proxy\nos.execute [=[perl -e '{push}']=]"));
    let program = site.command(&["eval"]);
    let mut script = Command::new("script");
    script.args(["-qec", &format!("{} eval", env!("CARGO_BIN_EXE_offload")), "/dev/null"]);
    script.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    let output = script.output().unwrap();
    assert_eq!(recorded(&site, "pushed"), "no\nno\n", "{}", text(&output));
}

/// The process that was started as the owner, once it is there.
fn second_process(first: &Child) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", first.id());
    let is_owners = |pid: &u32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|data| data.uid() == OWNER);
    let found = || fs::read_to_string(&children).ok()?.split_whitespace().find_map(|pid| pid.parse().ok());
    let mut pid = None;
    wait_until("the second process", || {
        pid = found().filter(is_owners);
        pid.is_some()
    });
    pid.unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn signals_reach_the_command_and_it_does_not_outlive_root() {
    let site = telling(WHO);
    for (signal, code) in [(Signal::INT, Some(0)), (Signal::TERM, Some(0)), (Signal::HUP, None), (Signal::KILL, None)] {
        let _ = fs::remove_file(site.path("records/environment"));
        let mut first = site.command(&["status", "--watch=1s"]).stdout(Stdio::piped()).spawn().unwrap();
        let second = second_process(&first);
        // It prints once its own handlers are there.
        let mut out = first.stdout.take().unwrap();
        std::io::Read::read_exact(&mut out, &mut [0]).unwrap();
        kill_process(Pid::from_child(&first), signal).unwrap();
        drop(out);
        assert_eq!(first.wait().unwrap().code(), code, "{signal:?}");
        wait_until("the second process has ended", || !is_running(second));
    }
}

#[test]
fn the_hook_of_root_does_not_evaluate_what_the_owner_of_the_state_can_write() {
    let site = telling(WHO);
    let said = text(&site.run(HOOK));
    let directory = site.path("etc");
    let belongs = format!("root does not evaluate it: '{}' belongs to {OWNER}, as the state does", directory.display());
    assert!(said.contains(&belongs), "{said}");
    assert_eq!(recorded(&site, "status"), "");
    // The hint is what helps.
    for owned in [directory.clone(), directory.join("machines.lua")] {
        let command = format!("chown root: '{}'", owned.display());
        assert!(said.contains("chown root: "), "{said}");
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }
    let said = text(&site.run(HOOK));
    assert!(!said.contains("root does not evaluate"), "{said}");
    assert!(recorded(&site, "status").contains("Uid:\t0\t"), "{said}");
}

#[test]
fn root_does_not_evaluate_what_anybody_can_write() {
    let site = telling(WHO);
    let file = site.path("etc/machines.lua");
    for path in [site.path("etc"), file.clone()] {
        chown(path, Some(0), Some(0)).unwrap();
    }
    let chmod = |mode: &str, path: &Path| {
        assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
    };
    let refuses = |shared: &Path| {
        let refused = format!("root does not evaluate it: other users can write to '{}'", shared.display());
        for command in [HOOK, &["eval"], &["explain"]] {
            let said = text(&site.run(command));
            // A command that checks as guix-daemon's user evaluates it as that user.
            assert!(said.contains(&refused) || !recorded(&site, "status").contains("Uid:\t0\t"), "{command:?}: {said}");
            assert!(command != HOOK || said.contains(&refused), "{said}");
        }
    };
    chmod("666", &file);
    refuses(&file);
    chmod("644", &file);
    chmod("777", &site.path("etc"));
    refuses(&site.path("etc"));
    chmod("755", &site.path("etc"));
    let said = text(&site.run(HOOK));
    assert!(!said.contains("root does not evaluate") && recorded(&site, "status").contains("Uid:\t0\t"), "{said}");
}

#[test]
fn root_keeps_no_state_where_anybody_can_write() {
    let site = Site::new();
    chown(site.path("guix"), Some(0), Some(0)).unwrap();
    let chmod =
        |mode: &str| assert!(Command::new("chmod").arg(mode).arg(site.path("guix")).status().unwrap().success());
    for mode in ["777", "1777"] {
        chmod(mode);
        after_each_command(&site, |what| {
            let said = format!("other users can write to '{}'; root keeps no state", site.path("guix").display());
            // Other commands work without the state, and `eval` needs none.
            assert!(what.contains(&said) || !what.contains("drain"), "{mode}: {what}");
            assert!(!site.state().exists(), "{mode}: {what}");
        });
        // Root already runs it.
        let said = text(&site.run(&["disconnect"]));
        assert!(said.contains("root keeps no state") && !said.contains("as root"), "{mode}: {said}");
    }
    // A directory of another user stays that user's, and one of root stays root's.
    site.as_owner(|site| fs::create_dir(site.state()).unwrap());
    assert!(site.run(&["drain", MACHINE]).status.success());
    assert_eq!(fs::metadata(site.state().join(MACHINE)).unwrap().uid(), OWNER);
    fs::remove_dir_all(site.state()).unwrap();
    fs::create_dir(site.state()).unwrap();
    assert!(site.run(&["drain", MACHINE]).status.success());
    assert_eq!(fs::metadata(site.state().join(MACHINE)).unwrap().uid(), 0);
    // Where root made everything, so it stays.
    chmod("755");
    fs::remove_dir_all(site.state()).unwrap();
    assert!(site.run(&["drain", MACHINE]).status.success());
    assert_eq!(fs::metadata(site.state().join(MACHINE)).unwrap().uid(), 0);
}
