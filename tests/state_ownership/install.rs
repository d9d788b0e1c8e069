//! `offload install` and `offload uninstall` of root's, where the daemon's state belongs to another user.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::identity::with_descriptor;
use crate::site::{OWNER, Swap, Swapper, list, swap_time};
use crate::text;

/// A system that is not running, with a daemon of the user's, and a program in a store.
struct System {
    directory: tempfile::TempDir,
}

impl System {
    fn new() -> System {
        let system = System { directory: tempfile::tempdir().unwrap() };
        for (path, contents) in [
            ("root/etc/passwd", format!("root:x:0:0::/root:/bin/sh\nowner:x:{OWNER}:{OWNER}::/:/bin/sh\n")),
            ("root/etc/group", format!("root:x:0:\nowner:x:{OWNER}:\n")),
            (
                "root/usr/lib/systemd/system/guix-daemon.service",
                "[Service]\nExecStart=/usr/bin/guix-daemon\nUser=owner\n".to_owned(),
            ),
            ("root/usr/bin/guix", "#!/bin/sh\n".to_owned()),
            ("root/etc/guix/machines.lua", "return {}\n".to_owned()),
            ("outside/offload/precious", "of root".to_owned()),
        ] {
            let path = system.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        for path in ["root/usr/bin/guix", "."] {
            fs::set_permissions(system.path(path), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir_all(system.path("root/var/guix/gcroots")).unwrap();
        for path in ["root/var/guix", "root/var/guix/gcroots"] {
            chown(system.path(path), Some(OWNER), Some(OWNER)).unwrap();
        }
        fs::create_dir_all(system.program().parent().unwrap()).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_offload"), system.program()).unwrap();
        system
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self) -> PathBuf {
        self.path("store/4p5kd2n6f0hzb0q8wlmzrm0d1bxbsyrc-offload-0.1.0/bin/offload")
    }

    fn run(&self, command: &str) -> Output {
        let mut install = Command::new(self.program());
        install.env("NIX_STORE_DIR", self.path("store")).args([command, "--root"]).arg(self.path("root"));
        with_descriptor(&install, &self.path("outside/offload/precious")).output().unwrap()
    }

    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        list(&self.path("outside"), &mut found);
        found
    }
}

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().uid()
}

#[test]
fn installed_files_in_the_state_belong_to_its_owner() {
    let system = System::new();
    let output = system.run("install");
    assert!(output.status.success(), "{}", text(&output));
    let (state, link) = (system.path("root/var/guix/offload"), system.path("root/var/guix/gcroots/offload"));
    assert_eq!((owner(&state), owner(&link)), (OWNER, OWNER));
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    assert_eq!(owner(&system.path("root/usr/local/lib/offload/offload")), 0);
    assert!(fs::read_link(&link).unwrap().starts_with(system.path("store")));
    let output = system.run("uninstall");
    assert!(output.status.success() && !link.exists() && link.symlink_metadata().is_err(), "{}", text(&output));
}

#[test]
fn nothing_is_changed_outside_while_names_are_swapped() {
    let system = System::new();
    let before = system.outside();
    let (state, outside) = (system.path("root/var/guix"), system.path("outside"));
    let swaps =
        [Swap::new(state.join("gcroots"), outside.clone()), Swap::new(state.join("offload"), outside.join("offload"))];
    let start = Instant::now();
    // On a busy machine a command takes longer than all of this time.
    let is_over = |after: u64| start.elapsed() >= Duration::from_secs(after);
    while !is_over(swap_time()) || !(swaps.iter().all(Swap::was_swapped) || is_over(60)) {
        // It is made where it is missing.
        let _ = fs::remove_dir_all(state.join("offload"));
        let _swappers = swaps.each_ref().map(Swapper::start);
        for command in ["install", "uninstall"] {
            let output = system.run(command);
            assert_eq!(system.outside(), before, "{command}: {}", text(&output));
        }
    }
    swaps.iter().for_each(Swap::assert_swapped);
}

#[test]
fn a_link_in_the_state_is_not_followed() {
    let system = System::new();
    fs::create_dir(system.path("outside/empty")).unwrap();
    let before = system.outside();
    let gcroots = system.path("root/var/guix/gcroots");
    fs::remove_dir(&gcroots).unwrap();
    symlink(system.path("outside/empty"), &gcroots).unwrap();
    std::os::unix::fs::lchown(&gcroots, Some(OWNER), Some(OWNER)).unwrap();
    for command in ["install", "uninstall"] {
        let output = system.run(command);
        assert_eq!(system.outside(), before, "{command}: {}", text(&output));
    }
}

/// Which keys the machine file names is to be known, and it may be the owner's.
#[test]
fn the_machine_file_is_evaluated_as_its_writer() {
    let system = System::new();
    let records = system.path("records");
    fs::create_dir(&records).unwrap();
    chown(&records, Some(OWNER), Some(OWNER)).unwrap();
    let machine_file = system.path("root/etc/guix/machines.lua");
    let entry = "build_machine { name = 'b1', user = 'o', systems = { 'x86_64-linux' }, private_key = '/no/such/key', \
                 host_key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPT8ND6KrrZZekAhAq/sAPtog9kbTgoklanLOTp4rVZ6' }";
    let records_who = format!("id -u >{0}/who; ls -l /proc/$$/fd >{0}/descriptors", records.display());
    let code = format!("os.execute('{records_who}')\nreturn {{ {entry} }}\n");
    fs::write(&machine_file, code).unwrap();
    for (user, who) in [(OWNER, OWNER.to_string()), (0, "0".to_owned())] {
        chown(machine_file.parent().unwrap(), Some(user), Some(user)).unwrap();
        let output = system.run("install");
        assert_eq!(fs::read_to_string(records.join("who")).unwrap_or_default().trim(), who, "{}", text(&output));
        assert!(text(&output).contains("there is no private key '/no/such/key'"), "{}", text(&output));
        let descriptors = fs::read_to_string(records.join("descriptors")).unwrap();
        assert!(user == 0 || descriptors.contains(" 0 -> ") && !descriptors.contains("precious"), "{descriptors}");
    }
}
