//! The package of Debian: made, installed, upgraded during a build, removed and purged, by the commands of the page on
//! installation.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::Drv;
use crate::page::manual;
use crate::site::{SOURCE, Site, shell, succeed};

const HOOK: &str = "/usr/lib/offload/guix";

/// Where the page has the packages.
const DIRECTORY: &str = "target/debian";

pub fn life(site: &Site) {
    let head = &site.head;
    head.write("/etc/apt/apt.conf.d/yes", "APT::Get::Assume-Yes \"true\";\n");
    let (first, second) = make(site);
    let (install, remove, purge) = page();
    let put = |package: &Path| {
        head.run("sh", &["-c", &format!("rm -rf {SOURCE}/{DIRECTORY}")]);
        let name = package.file_name().unwrap().to_str().unwrap();
        head.write(format!("{SOURCE}/{DIRECTORY}/{name}"), fs::read(package).unwrap());
    };

    // Another copy is installed, whose drop-in would hide that of the package.
    put(&first);
    succeed(head, "target/release/offload install");
    let (status, printed) = shell(head, &install[0]);
    assert_ne!(status, Some(0), "{printed}");
    assert!(printed.contains("remove that copy first: offload uninstall"), "{printed}");
    succeed(head, "offload uninstall --restart");

    let printed = succeed(head, &install[0]);
    let commands: Vec<&str> = printed.lines().map(str::trim).filter(|line| line.starts_with("systemctl ")).collect();
    assert_eq!(commands, ["systemctl daemon-reload &&", "systemctl restart guix-daemon.service"], "{printed}");
    install[1..].iter().for_each(|line| drop(succeed(head, line)));
    head.await_unit();
    assert_eq!(site.hook_of_daemon().as_deref(), Some(HOOK));
    assert_eq!(succeed(head, "dpkg --verify offload"), "");
    for file in ["man/man1/offload.1.gz", "bash-completion/completions/offload", "zsh/vendor-completions/_offload"] {
        assert!(head.path(format!("/usr/share/{file}")).exists(), "{file}");
    }
    builds(site, "with-package");

    // Files of the package belong to dpkg.
    let printed = succeed(head, "offload install");
    assert!(printed.contains("(of the package)") && !printed.contains("systemctl"), "{printed}");
    assert!(!head.path("/usr/local/lib/offload").exists(), "{printed}");
    for line in ["offload uninstall", "target/release/offload install"] {
        let (status, printed) = shell(head, line);
        assert_eq!(status, Some(1), "{line}: {printed}");
        assert!(printed.contains("remove the package first: apt-get remove offload"), "{line}: {printed}");
    }
    assert_eq!(succeed(head, "dpkg --verify offload"), "");

    upgrade(site, || {
        put(&second);
        succeed(head, &install[0])
    });

    // A daemon that would run a program that is gone.
    let own = "/etc/systemd/system/guix-daemon.service.d/zz.conf";
    head.write(own, format!("[Service]\nEnvironment=GUIX={HOOK}\n"));
    let (status, printed) = shell(head, &remove);
    assert_ne!(status, Some(0), "{printed}");
    assert!(printed.contains(&format!("guix-daemon still runs {HOOK}")), "{printed}");
    head.await_unit();
    builds(site, "after-a-refused-removal");
    fs::remove_dir_all(head.path(own).parent().unwrap()).unwrap();

    succeed(head, &remove);
    head.await_unit();
    assert_eq!(site.hook_of_daemon(), None);
    assert!(!head.path("/usr/lib/offload").exists() && head.path("/var/guix/offload").exists());
    let read = site.systemctl(&["show", "--property=DropInPaths", "guix-daemon"]);
    assert_eq!(read.trim(), "DropInPaths=", "{read}");
    head.verify_store();

    succeed(head, &purge);
    assert!(!head.path("/var/guix/offload").exists());
    for kept in ["/etc/guix/machines.lua", "/etc/guix/offload_ed25519", "/etc/guix/signing-key.sec"] {
        assert!(head.path(kept).exists(), "{kept}");
    }
}

/// Makes the package, and a newer one with another program.
fn make(site: &Site) -> (PathBuf, PathBuf) {
    let directory = site.directory().join("packages");
    let mut command = Command::new("packaging/deb");
    command.args(["--program", env!("CARGO_BIN_EXE_offload")]).arg(&directory);
    let first = run(command.current_dir(env!("CARGO_MANIFEST_DIR")));
    let tree = directory.join("tree");
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(&first).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap();
    fs::write(&control, text.replace(&format!("Version: {version}"), &format!("Version: {version}+1"))).unwrap();
    let program = tree.join("usr/lib/offload/offload");
    fs::write(&program, [fs::read(&program).unwrap(), b"newer".to_vec()].concat()).unwrap();
    let second = directory.join("offload_newer.deb");
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&tree).arg(&second));
    (first.into(), second)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/setup installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The commands of the page: those that install, without the one that makes the package; removal; purge.
fn page() -> (Vec<String>, String, String) {
    let section = manual("installation.md").section("As a package of Debian");
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
    };
    let blocks: Vec<Vec<String>> =
        section.blocks().iter().filter(|block| block.language == "sh").map(|block| lines(&block.text)).collect();
    let [install, remove] = &blocks[..] else { panic!("{} blocks", blocks.len()) };
    assert_eq!((install[0].as_str(), remove.len()), ("packaging/deb", 2));
    (install[1..].to_vec(), remove[0].clone(), remove[1].clone())
}

/// A build is offloaded.
fn builds(site: &Site, name: &str) {
    site.head.build(&[&Drv::new(name).script("echo $name >$out")]).succeeded();
    assert!(site.build.built().contains(&name.to_owned()), "{name} was built elsewhere");
}

/// The daemon and a build continue during an upgrade, and the next build has the new program.
fn upgrade(site: &Site, upgrade: impl FnOnce() -> String) {
    let daemon = site.daemon_pid();
    let old = fs::metadata(site.head.path("/usr/lib/offload/offload")).unwrap();
    let drv =
        Drv::new("upgraded").script("echo waiting; while [ ! -e /var/lab/upgraded ]; do sleep 0.1; done; echo >$out");
    let mut build = site.head.client().start(&[&drv]);
    build.wait_for_log("waiting");
    let printed = upgrade();
    assert!(!printed.contains("systemctl"), "{printed}");
    let new = fs::metadata(site.head.path("/usr/lib/offload/offload")).unwrap();
    assert_ne!((old.ino(), old.len()), (new.ino(), new.len()));
    site.build.write("/var/lab/upgraded", "");
    build.wait().succeeded();
    assert_eq!(site.daemon_pid(), daemon);
    builds(site, "with-newer-package");
}
