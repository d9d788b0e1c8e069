//! A daemon without privileges, as the service units of Guix 1.5 run it.
//!
//! `guix-daemon.service` has `User=guix-daemon`, `AmbientCapabilities=CAP_CHOWN`, and a mount name space of its own in
//! which the store is bound to itself (`PrivateMounts=`, `BindPaths=`, `MountFlags=private`). Once the daemon runs,
//! `gnu-store.mount` makes the store read-only for the rest of the system. Not done as systemd does it: control groups.

use std::path::Path;
use std::process::Command;

use super::host::Host;

/// The account, which the package of Guix makes.
pub const USER: &str = "guix-daemon";

/// Gives the account what "Migrating to the Unprivileged Daemon" in the manual of Guix gives it.
pub fn give_files(root: &Path) {
    let owned = ["/gnu", "/var/guix", "/var/log/guix", "/etc/guix"];
    run(Command::new("chroot").arg(root).args(["chown", "-R", "guix-daemon:guix-daemon"]).args(owned));
}

/// guix-daemon, to which arguments and environment can be added.
pub fn daemon_command(host: &Host) -> Command {
    const START: &str = "mount --bind /gnu/store /gnu/store && \
         exec setpriv --reuid=guix-daemon --regid=guix-daemon --init-groups --inh-caps=+chown --ambient-caps=+chown \"$@\"";
    let mut command = host.command("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", START, "sh", "guix-daemon"]);
    command
}

/// What `gnu-store.mount` does.
pub fn start_read_only_store(root: &Path) {
    let store = root.join("gnu/store");
    run(Command::new("mount").arg("--bind").args([&store, &store]));
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&store));
}

/// Undoes [`start_read_only_store`], where it was done.
pub fn stop_read_only_store(root: &Path) {
    let store = root.join("gnu/store");
    if Command::new("mountpoint").arg("-q").arg(&store).status().unwrap().success() {
        run(Command::new("umount").arg(&store));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
