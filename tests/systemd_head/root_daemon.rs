//! A daemon that runs as root, with the unit of Guix 1.4: the same, by the commands for each step.

use offload::internals::machine::{HostKey, HostKeyKind};

use crate::lab::Drv;
use crate::restart;
use crate::site::{NAME, Site, shell, succeed};

/// The unit, which replaces that of the package.
const UNIT: &str = "[Unit]
Description=Build daemon for GNU Guix

[Service]
ExecStart=/usr/bin/guix-daemon --build-users-group=_guixbuild --discover=no
Environment='GUIX_LOCPATH=/var/guix/profiles/per-user/root/guix-profile/lib/locale' LC_ALL=en_US.utf8
RemainAfterExit=yes
StandardOutput=journal
StandardError=journal
OOMPolicy=continue
TasksMax=8192

[Install]
WantedBy=multi-user.target
";

pub fn step_by_step(site: &Site) {
    site.forget();
    site.systemctl(&["disable", "--now", "gnu-store.mount", "guix-daemon.service"]);
    site.head.run("chown", &["-R", "root:", "/gnu", "/var/guix", "/var/log/guix", "/etc/guix"]);
    for words in [
        "groupadd --system _guixbuild",
        "useradd --system -g _guixbuild -G _guixbuild -d /var/empty -s /usr/sbin/nologin _guixbuilder01",
    ] {
        succeed(&site.head, words);
    }
    site.head.write("/etc/systemd/system/guix-daemon.service", UNIT);
    site.systemctl(&["daemon-reload"]);
    site.systemctl(&["enable", "--now", "guix-daemon.service"]);
    site.head.await_unit();
    assert_eq!(site.daemon_user(), "root");

    succeed(&site.head, "target/release/offload install --restart");
    site.head.await_unit();
    let fingerprint = HostKey::parse(&site.build.host_key(HostKeyKind::Ed25519)).unwrap().fingerprint();
    let (status, printed) = shell(&site.head, &format!("offload init {NAME} --yes --fingerprint {fingerprint}"));
    assert_eq!(status, Some(1), "{printed}");
    for line in printed.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with("hint")) {
        succeed(&site.build, line);
    }
    succeed(
        &site.head,
        &format!(
            "offload add {NAME} --user offload --private-key /etc/guix/offload_ed25519 --fingerprint {fingerprint} --write"
        ),
    );
    succeed(&site.head, &format!("offload authorize {NAME} --yes"));
    // The load of this machine is a warning.
    succeed(
        &site.head,
        "sed -i 's/^  },/    overload_threshold = false,\\n  },/' /etc/guix/machines.lua && offload test",
    );
    succeed(&site.head, "offload status");
    let result = site.head.build(&[&Drv::new("as-root").script("echo $name >$out")]).succeeded();
    assert_eq!(site.head.read(result.output("as-root")), b"as-root\n");
    assert!(site.build.built().contains(&"as-root".to_owned()));
    restart::during_a_build(site);
    restart::uninstall(site);
}
