//! guix-daemon is restarted during a build; the removal of what was installed.

use crate::lab::{Drv, LONG, wait_until};
use crate::site::{Site, succeed};

/// The client's build is lost, no part of it is left on the machine, and the next build works.
pub fn during_a_build(site: &Site) {
    let name = format!("interrupted-{}", site.daemon_user());
    let go = format!("/var/lab/go-{}", site.daemon_user());
    let drv =
        Drv::new(&name).script(&format!("echo waiting; while [ ! -e {go} ]; do sleep 0.1; done; echo $name >$out"));
    let mut build = site.head.client().start(&[&drv]);
    build.wait_for_log("waiting");
    assert!(is_building(site), "{:?}", site.build.processes());
    site.systemctl(&["restart", "guix-daemon.service"]);
    let result = build.wait();
    assert_ne!(result.status, Some(0), "{}", result.log);
    println!("the client: {:?} {}\n{}", result.status, result.error, result.log);
    wait_until("the builder on the machine ends", LONG, || !is_building(site));
    wait_until("all sessions of the head end", LONG, || {
        !site.build.processes().iter().any(|process| process.name == "sshd-session")
    });
    site.head.await_unit();
    site.head.await_no_lock("after the restart");
    site.build.write(&go, "");
    site.head.build(&[&drv]).succeeded();
    site.head.verify_store();
    site.build.verify_store();
}

/// Whether the builder of the interrupted build runs on the machine.
fn is_building(site: &Site) -> bool {
    site.build.processes().iter().any(|process| process.command.contains("while [ ! -e "))
}

/// The page's command for the removal. The daemon serves its clients, and nothing is left but what is the user's.
pub fn uninstall(site: &Site) {
    succeed(&site.head, "offload uninstall --restart");
    assert_eq!(site.hook_of_daemon(), None);
    for path in ["/usr/local/lib/offload", "/usr/local/bin/offload", "/etc/systemd/system/guix-daemon.service.d"] {
        assert!(!site.head.path(path).exists(), "{path}");
    }
    for path in ["/etc/guix/machines.lua", "/etc/guix/offload_ed25519", "/var/guix/offload"] {
        assert!(site.head.path(path).exists(), "{path}");
    }
    site.head.await_unit();
    site.head.verify_store();
}
