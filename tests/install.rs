//! `offload install` and `offload uninstall`: below a directory of their own, and on a host of the lab, whose daemon
//! then offloads.
//!
//! No systemd runs in a lab: what it would read is checked by `systemd-analyze`, and `systemctl` is a script that
//! writes down how it was called.

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use lab::{Drv, Hook, Lab};

const DROP_IN: &str = "etc/systemd/system/guix-daemon.service.d/offload.conf";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A system that is not running: users, a daemon, its unit.
fn system(unit: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, contents) in [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nguix-daemon:x:995:990::/var/empty:/sbin/nologin\n"),
        ("etc/group", "root:x:0:\nguix-daemon:x:990:\n"),
        ("usr/lib/systemd/system/guix-daemon.service", unit),
        ("usr/bin/guix", "#!/bin/sh\n"),
        ("etc/guix/acl", "(acl)"),
        ("etc/guix/signing-key.pub", ""),
        ("etc/guix/signing-key.sec", ""),
        ("etc/guix/machines.lua", "return {}\n"),
    ] {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    fs::create_dir_all(root.path().join("var/guix")).unwrap();
    fs::set_permissions(root.path().join("usr/bin/guix"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    root
}

const AS_ROOT: &str = "[Service]\nExecStart=/usr/bin/guix-daemon --discover=no\n";
const AS_USER: &str = "[Service]\nExecStart=/usr/bin/guix-daemon --discover=no\nUser=guix-daemon\n";

fn offload(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
    command.args(&arguments[..1]).arg("--root").arg(root).args(&arguments[1..]);
    command.output().unwrap()
}

#[track_caller]
fn succeed(root: &Path, arguments: &[&str]) -> String {
    let output = offload(root, arguments);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Every path below a directory, with what is there and when it was written.
fn everything(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let contents = if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            fs::read(&path).unwrap()
        } else {
            found.extend(everything(&path));
            Vec::new()
        };
        let written = if metadata.is_dir() { (0, 0) } else { (metadata.mtime(), metadata.mtime_nsec()) };
        found.insert(path, (contents, written.0, written.1));
    }
    found
}

#[test]
fn installing_is_undone_and_a_second_time_changes_nothing() {
    let system = system(AS_ROOT);
    let root = system.path();
    // The directory of the state stays.
    fs::create_dir(root.join("var/guix/offload")).unwrap();
    let before = everything(root);

    let said = succeed(root, &["install", "--dry-run"]);
    assert!(everything(root) == before, "--dry-run has changed something");
    assert!(said.contains("         | Environment=\"GUIX=/usr/local/lib/offload/guix\"\n"), "{said}");
    assert!(said.ends_with("Nothing was changed.\n"), "{said}");
    let planned: Vec<String> =
        said.lines().filter(|line| line.starts_with(['c', 'l', 'w'])).map(str::to_owned).collect();

    let said = succeed(root, &["install"]);
    assert!(planned.iter().all(|line| said.contains(line)), "{said}\n{planned:#?}");
    assert!(said.contains("\n  systemctl daemon-reload &&\n  systemctl restart guix-daemon.service &&\n  systemctl start offload-reap.timer\n"), "{said}");
    assert!(said.ends_with("guix-daemon, which runs as root, has all the rights that it needs.\n"), "{said}");
    let directory = root.join("usr/local/lib/offload");
    assert_eq!(fs::metadata(directory.join("guix")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::read(root.join("usr/local/bin/offload")).unwrap(), fs::read(env!("CARGO_BIN_EXE_offload")).unwrap());
    assert!(root.join("usr/local/share/man/man1/offload-eval.1").exists());
    let after = everything(root);

    let said = succeed(root, &["install"]);
    assert!(!said.contains("\nwrite ") && !said.contains("\nreplace "), "{said}");
    assert!(everything(root) == after, "the second run has changed something");

    // By another version, which had something more.
    fs::write(directory.join("offload"), "old").unwrap();
    fs::write(directory.join("older"), "old").unwrap();
    let manifest = directory.join("manifest");
    let old = "sha256:cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4";
    let listed = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, format!("{listed}{old} /usr/local/lib/offload/offload\n{old} /usr/local/lib/offload/older\n"))
        .unwrap();
    succeed(root, &["install"]);
    assert!(!directory.join("older").exists());
    assert_ne!(fs::read(directory.join("offload")).unwrap(), b"old");

    succeed(root, &["uninstall"]);
    let left = everything(root);
    assert!(left == before, "left: {:?}", left.keys().filter(|path| !before.contains_key(*path)).collect::<Vec<_>>());
    let output = offload(root, &["uninstall"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing is installed: there is no '/usr/local/lib/offload/manifest'"));
}

/// Runs a program that was copied a moment ago. A process that another thread has just forked may still have the file
/// open for writing.
fn run(command: &mut Command) -> Output {
    loop {
        match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::sleep(Duration::from_millis(10)),
            result => return result.unwrap(),
        }
    }
}

/// The program was put where the link to it belongs, by hand.
#[test]
fn a_program_at_its_destination_is_installed() {
    let system = system(AS_ROOT);
    let root = system.path();
    let own = root.join("usr/local/bin/offload");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_offload"), &own).unwrap();
    // For another program this file exists already.
    assert_eq!(offload(root, &["install"]).status.code(), Some(1));
    fs::copy(env!("CARGO_BIN_EXE_offload"), &own).unwrap();
    fs::remove_file(root.join("etc/guix/machines.lua")).unwrap();
    fs::write(root.join("etc/guix/machines.scm"), "'()").unwrap();
    let output = run(Command::new(&own).arg("install").arg("--root").arg(root));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(fs::symlink_metadata(&own).unwrap().is_symlink(), "{said}");
    assert_eq!(fs::read(&own).unwrap(), fs::read(env!("CARGO_BIN_EXE_offload")).unwrap());
    assert!(said.contains("'/etc/guix/machines.scm' is not used any more"), "{said}");
    assert!(said.contains("offload convert /etc/guix/machines.scm -o /etc/guix/machines.lua"), "{said}");
}

/// The texts of the page on installation.
fn page() -> String {
    fs::read_to_string("doc/manual/installation.md").unwrap()
}

/// The page shows the output; `…` means any text, and on a line of its own any lines.
#[test]
fn the_page_on_installation_shows_what_is_done() {
    let system = system(AS_USER);
    let said = succeed(system.path(), &["install", "--dry-run"]);
    let page = page();
    let shown = page.split("```screen\n").nth(1).unwrap().split("```").next().unwrap();
    let mut lines = said.lines();
    assert!(shown.lines().count() > 5, "the page shows hardly anything:\n{shown}");
    let mut skips = false;
    for wanted in shown.lines() {
        if wanted == "…" {
            skips = true;
            continue;
        }
        let (start, end) = wanted.split_once('…').unwrap_or((wanted, ""));
        let fits = |line: &str| line.starts_with(start) && line.ends_with(end) && (!end.is_empty() || line == wanted);
        let found = if skips { lines.find(|line| fits(line)) } else { lines.next().filter(|line| fits(line)) };
        assert!(found.is_some(), "{wanted} is not in its place in:\n{said}");
        skips = false;
    }
}

/// A program that Guix has built stays where it is.
#[test]
fn a_root_protects_a_program_in_the_store() {
    let system = system(AS_ROOT);
    let store = tempfile::tempdir().unwrap();
    let item = store.path().join("4p5kd2n6f0hzb0q8wlmzrm0d1bxbsyrc-offload-0.1.0");
    let program = item.join("bin/offload");
    fs::create_dir_all(item.join("bin")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_offload"), &program).unwrap();
    let mut command = Command::new(&program);
    command.env("NIX_STORE_DIR", store.path()).args(["install", "--root"]).arg(system.path());
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let target = |path: &str| fs::read_link(system.path().join(path)).unwrap();
    assert_eq!(target("usr/local/lib/offload/offload"), program);
    assert_eq!(target("var/guix/gcroots/offload"), item);
}

#[test]
fn files_of_others_are_not_changed() {
    let system = system(AS_ROOT);
    let root = system.path();
    let drop_in = root.join(DROP_IN);
    fs::create_dir_all(drop_in.parent().unwrap()).unwrap();
    fs::write(&drop_in, "[Service]\nNice=5\n").unwrap();
    let before = everything(root);
    let output = offload(root, &["install"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&format!("'/{DROP_IN}' already exists")), "{}", text(&output.stderr));
    assert!(everything(root) == before);

    // One that was changed afterwards is somebody's, too.
    fs::remove_file(&drop_in).unwrap();
    succeed(root, &["install"]);
    let override_file = drop_in.with_file_name("override.conf");
    fs::write(&override_file, "[Service]\nEnvironment=GUIX=/elsewhere\n").unwrap();
    let said = succeed(root, &["install"]);
    assert!(said.contains("warning: /etc/systemd/system/guix-daemon.service.d/override.conf also sets GUIX"), "{said}");
    fs::write(&drop_in, "[Service]\nNice=5\n").unwrap();
    assert_eq!(offload(root, &["install"]).status.code(), Some(1));
    let said = succeed(root, &["uninstall"]);
    assert!(said.contains(&format!("leave    /{DROP_IN} (it has been changed)")), "{said}");
    assert!(drop_in.exists() && override_file.exists());
    assert!(!root.join("usr/local/lib").exists());
}

#[test]
fn missing_rights_of_the_daemon_are_reported_with_the_fix() {
    let system = system(AS_USER);
    let root = system.path();
    let close = |path: &str| fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o600)).unwrap();
    let machines = "return { build_machine { name = 'b1', user = 'o', systems = { 'x86_64-linux' }, private_key = \
                    '/etc/guix/offload_ed25519', host_key = 'ssh-ed25519 \
                    AAAAC3NzaC1lZDI1NTE5AAAAIPT8ND6KrrZZekAhAq/sAPtog9kbTgoklanLOTp4rVZ6' } }";
    fs::write(root.join("etc/guix/machines.lua"), machines).unwrap();
    fs::write(root.join("etc/guix/offload_ed25519"), "").unwrap();
    fs::create_dir(root.join("var/guix/offload")).unwrap();
    [
        "etc/guix/machines.lua",
        "etc/guix/offload_ed25519",
        "etc/guix/signing-key.sec",
        "etc/guix/acl",
        "etc/guix/signing-key.pub",
    ]
    .iter()
    .for_each(|path| close(path));
    succeed(root, &["install"]);
    close("usr/local/lib/offload/offload");
    let said = succeed(root, &["install"]);
    // All rights that the page names, and no others.
    let page = page();
    let table = page.split("command that grants it |\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table.lines().filter_map(|row| row.split("| `").nth(1)?.strip_suffix("` |"));
    let due: BTreeSet<&str> = rows.collect();
    let remedies: BTreeSet<&str> = said.lines().filter_map(|line| line.strip_prefix("  remedy: ")).collect();
    assert_eq!(remedies, due);
    fs::set_permissions(root.join("usr/local/lib/offload/offload"), fs::Permissions::from_mode(0o755)).unwrap();
    // The state's directory is made for the user.
    fs::remove_dir(root.join("var/guix/offload")).unwrap();
    succeed(root, &["install"]);
    let state = fs::metadata(root.join("var/guix/offload")).unwrap();
    assert_eq!((state.uid(), state.gid(), state.mode() & 0o777), (995, 990, 0o700));

    // A key in root's home is copied, named or not; where root has none, a new one is made for the user.
    let key = |field: &str| {
        fs::write(
            root.join("etc/guix/machines.lua"),
            machines.replace("private_key = '/etc/guix/offload_ed25519',", field),
        )
        .unwrap();
        let said = succeed(root, &["install", "--dry-run"]);
        let remedies = said.lines().filter_map(|line| line.strip_prefix("  remedy: "));
        remedies.filter(|remedy| remedy.contains("private_key")).map(str::to_owned).collect::<Vec<_>>()
    };
    let new = "test -e /etc/guix/offload_ed25519 || { ssh-keygen -q -t ed25519 -N '' -f /etc/guix/offload_ed25519 && \
               chown guix-daemon: /etc/guix/offload_ed25519 /etc/guix/offload_ed25519.pub; }  # then private_key = \"/etc/guix/offload_ed25519\" in the machine file";
    let copied = "test -e '/etc/guix/id_ed25519' || install -o guix-daemon -m 400 '/root/.ssh/id_ed25519' \
                  '/etc/guix/id_ed25519'  # then private_key = \"/etc/guix/id_ed25519\" in the machine file";
    assert_eq!(key(""), [new]);
    // `~` is the home directory in that system, for each writer of the file.
    for writer in [0, 995] {
        std::os::unix::fs::chown(root.join("etc/guix/machines.lua"), Some(writer), None).unwrap();
        assert_eq!(key("private_key = '~/.ssh/id_ed25519',"), [new], "{writer}");
        assert_eq!(key("private_key = '~/own',"), [new.replace("/root", "/var/empty")], "{writer}");
    }
    std::os::unix::fs::chown(root.join("etc/guix/machines.lua"), Some(0), None).unwrap();
    fs::create_dir_all(root.join("root/.ssh")).unwrap();
    fs::write(root.join("root/.ssh/id_ed25519"), "").unwrap();
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700)).unwrap();
    for field in ["", "private_key = '/root/.ssh/id_ed25519',", "private_key = '~/.ssh/id_ed25519',"] {
        assert_eq!(key(field), [copied], "{field}");
    }

    // A file that nobody may trust is not evaluated, and that is reported.
    fs::set_permissions(root.join("etc/guix/machines.lua"), fs::Permissions::from_mode(0o666)).unwrap();
    let said = succeed(root, &["install", "--dry-run"]);
    let problem = "to do: the machine file '/etc/guix/machines.lua' is not evaluated: other users can write to \
                   '/etc/guix/machines.lua'\n  remedy: chmod go-w /etc/guix/machines.lua\n";
    assert!(said.contains(problem) && !said.contains("all the rights"), "{said}");
    fs::remove_file(root.join("etc/guix/machines.lua")).unwrap();
    std::os::unix::fs::symlink("machines.lua", root.join("etc/guix/machines.lua")).unwrap();
    let said = succeed(root, &["install", "--dry-run"]);
    assert!(said.contains("machines.lua' is not evaluated: Too many levels of symbolic links"), "{said}");

    fs::remove_file(root.join("etc/guix/machines.lua")).unwrap();
    fs::write(root.join("etc/guix/machines.scm"), "").unwrap();
    let said = succeed(root, &["install", "--dry-run"]);
    assert!(said.contains("remedy: offload convert /etc/guix/machines.scm -o /etc/guix/machines.lua\n"), "{said}");
}

#[test]
fn the_machine_file_is_evaluated() {
    let system = system(AS_ROOT);
    let root = system.path();
    let said = succeed(root, &["install"]);
    assert!(said.contains("eval     /etc/guix/machines.lua (0 machines)\n"), "{said}");
    for page in ["benchmarks.md", "manual/quick-start.md"] {
        let installed = fs::read(root.join("usr/local/share/doc/offload").join(page)).unwrap();
        assert_eq!(installed, fs::read(Path::new("doc").join(page)).unwrap());
    }
    fs::write(root.join("etc/guix/machines.lua"), "return {\n  first = 1,\n  second = 2,\n}\n").unwrap();
    let said = succeed(root, &["install"]);
    assert!(said.contains("to do: the machine file '/etc/guix/machines.lua' has errors: "), "{said}");
    assert!(said.contains("machines.lua:2: error: ") && said.contains("machines.lua:3: error: "), "{said}");
    assert!(said.ends_with("remedy: correct the file, then: offload eval\n"), "{said}");
}

#[test]
fn an_impossible_installation_changes_nothing() {
    let system =
        system("[Service]\nExecStart=/var/guix/profiles/per-user/root/current-guix/bin/guix-daemon\nUser=nobody\n");
    let root = system.path();
    let unit = root.join("usr/lib/systemd/system/guix-daemon.service");
    let refuse = |arguments: &[&str], status: i32, why: &str| {
        let before = everything(root);
        let output = offload(root, arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(text(&output.stderr).contains(why), "{why}: {}", text(&output.stderr));
        assert!(everything(root) == before);
    };
    refuse(&["install"], 1, "runs guix-daemon as 'nobody', who is not in /etc/passwd");
    let confined = fs::read_to_string(&unit).unwrap().replace("User=nobody", "User=root");
    fs::write(&unit, confined).unwrap();
    refuse(&["install", "--restart"], 2, "--restart works only on the running system");
    refuse(&["install", "--prefix", "usr/local"], 2, "--prefix must be an absolute name");
    refuse(&["install", "--guix", "usr/bin/guix"], 2, "--guix must be an absolute name");
    refuse(&["install", "--guix", "/usr/local/lib/offload/guix"], 1, "is not the real 'guix'");
    // Not beside the daemon, but in a usual place.
    fs::create_dir_all(root.join("etc/apparmor.d/local")).unwrap();
    fs::write(root.join("etc/apparmor.d/guix-daemon"), "").unwrap();
    let said = succeed(root, &["install", "--dry-run"]);
    assert!(said.contains("Environment=\"OFFLOAD_GUIX=/usr/bin/guix\""), "{said}");
    let rule = "/usr/local/lib/offload/* Ux,";
    assert!(said.contains(&format!("remedy: echo '{rule}' >> /etc/apparmor.d/local/guix-daemon && ")), "{said}");
    fs::write(root.join("etc/apparmor.d/local/guix-daemon"), format!("{rule}\n")).unwrap();
    assert!(!succeed(root, &["install", "--dry-run"]).contains("AppArmor"));
    fs::remove_file(root.join("usr/bin/guix")).unwrap();
    refuse(&["install"], 1, "no real 'guix' found beside the daemon");
    fs::remove_file(&unit).unwrap();
    refuse(&["install"], 1, "no guix-daemon.service in the directories of systemd");
}

/// With the unit that the package of Guix has, and the daemon that it describes.
#[test]
fn a_daemon_offloads_with_what_was_installed() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    // The settings of the drop-in, which are compared below.
    let hook = Hook::Program("/usr/local/lib/offload/guix".to_owned());
    let head = lab.head().unprivileged().hook(hook).env("OFFLOAD_GUIX", "/usr/bin/guix").start();
    head.write_machines(&[b1.entry()]);
    head.write("/root/offload", fs::read(env!("CARGO_BIN_EXE_offload")).unwrap());
    fs::set_permissions(head.path("/root/offload"), fs::Permissions::from_mode(0o755)).unwrap();

    // The real systemctl says that no systemd runs; all else is done by then. Where it takes the head for a chroot it would
    // ignore the command and succeed.
    let mut install = head.command("/root/offload");
    let output = install.args(["install", "--restart"]).env("SYSTEMD_IGNORE_CHROOT", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("`systemctl daemon-reload` failed: "), "{}", text(&output.stderr));
    head.write("/usr/sbin/systemctl", "#!/bin/sh\necho \"$@\" >>/run/systemctl\n");
    fs::set_permissions(head.path("/usr/sbin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let said = head.run("/root/offload", &["install", "--restart"]);
    assert!(said.ends_with("guix-daemon, which runs as guix-daemon, has all the rights that it needs.\n"), "{said}");
    assert!(said.contains("\neval     /etc/guix/machines.lua (1 machine)\n"), "{said}");
    // As the daemon's user: whether it can read a module of the file counts.
    head.write("/root/closed/hidden.lua", "return {}");
    head.run("chmod", &["700", "/root/closed"]);
    let file = text(&head.read("/etc/guix/machines.lua"));
    for owner in ["guix-daemon:", "root:"] {
        head.write_machine_file(&format!("dofile(\"/root/closed/hidden.lua\")\n{file}"));
        head.run("chown", &[owner, "/etc/guix", "/etc/guix/machines.lua"]);
        let said = head.run("/root/offload", &["install"]);
        assert!(said.contains("machines.lua:1: error: ") && said.contains("hidden.lua"), "{owner} {said}");
    }
    head.write_machine_file(&file);
    assert_eq!(
        text(&head.read("/run/systemctl")),
        "daemon-reload\nrestart guix-daemon.service\nstart offload-reap.timer\n"
    );
    let drop_in = text(&head.read(format!("/{DROP_IN}")));
    let set: Vec<&str> = drop_in.lines().filter(|line| line.starts_with("Environment=")).collect();
    assert_eq!(set, ["Environment=\"GUIX=/usr/local/lib/offload/guix\"", "Environment=\"OFFLOAD_GUIX=/usr/bin/guix\""]);
    let verified = head.command("systemd-analyze").args(["verify", "guix-daemon.service"]).output().unwrap();
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    assert!(!text(&verified.stderr).contains("offload.conf"), "{}", text(&verified.stderr));

    let input = Drv::new("input").script("echo from here >$out");
    head.client().no_offload().max_jobs(1).build(&[&input]).succeeded();
    head.build(&[&Drv::new("offloaded").input(&input)]).succeeded();
    assert_eq!(b1.built(), ["offloaded"]);

    // The wrapper's path to the real guix is tried as the daemon's user.
    head.run("chmod", &["700", "/usr/local/lib/offload"]);
    let said = head.run("/root/offload", &["install"]);
    assert!(said.contains("`/usr/local/lib/offload/guix --version` as guix-daemon: "), "{said}");
    assert!(said.contains("remedy: chmod a+x '/usr/local/lib/offload'"), "{said}");

    head.run("/usr/local/bin/offload", &["uninstall", "--restart"]);
    assert!(!head.path("/usr/local/lib/offload").exists() && !head.path(format!("/{DROP_IN}")).exists());
    let verified = head.command("systemd-analyze").args(["verify", "guix-daemon.service"]).output().unwrap();
    assert!(verified.status.success(), "{}", text(&verified.stderr));
}
