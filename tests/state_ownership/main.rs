//! What the owner of the state directory can do to root, whose commands work there: nothing that it could not do itself.
//!
//! With an unprivileged daemon the state belongs to `guix-daemon`. Here it belongs to a user without any rights, which
//! swaps, links and lies while root's commands run. Needs root. `OFFLOAD_CAMPAIGN=1` swaps for a minute beside each
//! command.

mod identity;
mod install;
mod site;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use site::{COMMANDS, MACHINE, OWNER, Site, Swap, Swapper, swap_time};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs each command, and has `check` look afterwards.
fn after_each_command(site: &Site, mut check: impl FnMut(&str)) {
    for command in COMMANDS {
        let output = site.run(command);
        check(&format!("{}: {}", command.join(" "), text(&output)));
    }
}

/// Sites where root evaluates the machine file, and where it must not.
fn sites() -> [Site; 2] {
    let sites = [Site::new(), Site::new()];
    sites[1].give_machine_file();
    sites
}

#[test]
fn root_does_not_follow_a_link_to_elsewhere() {
    for name in ["offload", "offload/127.0.0.1:1", "offload/cache", "offload/queue", "offload/persist"] {
        for site in sites() {
            site.as_owner(|site| {
                let link = site.path("guix").join(name);
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                symlink(site.path("outside"), link).unwrap();
            });
            let before = site.outside();
            after_each_command(&site, |what| assert_eq!(site.outside(), before, "'{name}' is a link: {what}"));
        }
    }
}

#[test]
fn nothing_is_changed_outside_while_names_are_swapped() {
    for site in sites() {
        let before = site.outside();
        let (state, outside) = (site.state(), site.path("outside"));
        let swaps = ["", MACHINE, "cache", "queue"].map(|name| {
            // The path of a link ends without a slash.
            let at = |directory: &Path| if name.is_empty() { directory.to_owned() } else { directory.join(name) };
            Swap::new(at(&state), at(&outside))
        });
        for command in COMMANDS {
            let _swappers = swaps.each_ref().map(Swapper::start);
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(swap_time()) {
                let output = site.run(command);
                assert_eq!(site.outside(), before, "{}: {}", command.join(" "), text(&output));
            }
        }
        swaps.iter().for_each(Swap::assert_swapped);
    }
}

#[test]
fn links_instead_of_files_change_no_file_of_root() {
    const NAMES: [&str; 7] =
        ["0", "0.json", "health.json", "health.lock", "probe.lock", "drained.json", "drained.lock"];
    for kind in ["hard", "symbolic"] {
        let site = Site::new();
        fs::create_dir_all(site.path("outside").join("files")).unwrap();
        let host = site.state().join(MACHINE);
        site.as_owner(|site| fs::create_dir_all(site.state().join(MACHINE)).unwrap());
        for name in NAMES {
            let target = site.path("outside/files").join(name);
            fs::write(&target, "of root").unwrap();
            // On a system that does not protect hard links the owner could make this one itself.
            match kind {
                "hard" => fs::hard_link(&target, host.join(name)).unwrap(),
                _ => symlink(&target, host.join(name)).unwrap(),
            }
        }
        after_each_command(&site, |what| {
            // Each of them: one that was removed would not be found in the directory.
            for file in NAMES.map(|name| site.path("outside/files").join(name)) {
                let found = (fs::read_to_string(&file).unwrap(), fs::metadata(&file).unwrap().uid());
                assert_eq!(found, ("of root".to_owned(), 0), "{kind}: {}: {what}", file.display());
            }
        });
    }
}

#[test]
fn pipes_and_directories_instead_of_files_do_no_harm() {
    let site = Site::new();
    site.give_machine_file();
    site.as_owner(|site| {
        let host = site.state().join(MACHINE);
        for name in ["0", "0.json", "health.json", "probe.lock", "drained.json"] {
            fs::create_dir_all(host.join(name)).unwrap();
        }
        fs::create_dir(site.state().join("cache")).unwrap();
        let pipe = |path: std::path::PathBuf| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        };
        pipe(host.join("health.lock")).unwrap();
        pipe(site.state().join("cache").join(format!("{}.json", digest("key")))).unwrap();
    });
    after_each_command(&site, |what| assert!(!what.contains("evaluation stopped"), "{what}"));
}

fn digest(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A command instead of the machine records its user.
fn recording_command(site: &Site) -> String {
    fs::create_dir(site.path("records")).unwrap();
    std::os::unix::fs::chown(site.path("records"), Some(OWNER), Some(OWNER)).unwrap();
    format!("id -u >>{}/users", site.path("records").display())
}

fn recorded(site: &Site) -> Vec<String> {
    let text = fs::read_to_string(site.path("records/users")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_value_that_the_owner_has_put_into_the_cache_is_not_evaluated_as_root() {
    let site = Site::new();
    let command = recording_command(&site);
    site.write_machine_file("local proxy = require('offload').cached('key', 1e9, function() return { 'true' } end)");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let lie = serde_json::json!({ "key": "key", "time": now, "value": ["sh", "-c", command] });
    site.as_owner(|site| {
        fs::create_dir_all(site.state().join("cache")).unwrap();
        let file = site.state().join("cache").join(format!("{}.json", digest("key")));
        fs::write(file, lie.to_string()).unwrap();
    });
    after_each_command(&site, |what| assert!(!recorded(&site).contains(&"0".to_owned()), "{what}"));
    // Root keeps its own values, where nobody else can write.
    let cache = Path::new("/var/cache/offload").join(site.state().strip_prefix("/").unwrap());
    let kept = fs::read_to_string(cache.join(format!("{}.json", digest("key")))).unwrap();
    assert!(kept.contains("[\"true\"]"), "{kept}");
    assert_eq!((fs::metadata(&cache).unwrap().uid(), fs::metadata(&cache).unwrap().mode() & 0o777), (0, 0o700));
    // It is believed by those who run as its author: by that user, and by checks that root's commands make as that user.
    let output = site.as_owner(|site| {
        let _ = fs::remove_file(site.path("records/users"));
        // The machine is skipped for a while after its failures.
        fs::remove_dir_all(site.state().join(MACHINE)).unwrap();
        site.command(&["status"]).output().unwrap()
    });
    assert_eq!(recorded(&site), [OWNER.to_string()], "{}", text(&output));
    site.give_machine_file();
    after_each_command(&site, |what| assert!(!recorded(&site).contains(&"0".to_owned()), "{what}"));
    assert!(recorded(&site).len() > 1);
}

/// Records of any contents, with what a terminal obeys in each text.
#[test]
fn only_records_are_shown() {
    const OBEYED: &str = "\u{1b}[2J\u{9b}2J\u{202e}x\r";
    let site = Site::new();
    let status = serde_json::json!({ "host_name": OBEYED, "kernel": OBEYED, "architecture": OBEYED, "load1": 1e308,
        "cores": u32::MAX, "free_disk": u64::MAX, "clock": u64::MAX, "uptime": u64::MAX });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let failures = |last: u64| {
        let failures = serde_json::json!({ "since": 0, "last": last, "count": u32::MAX, "error": OBEYED.repeat(1000) });
        serde_json::json!({ "status": status, "measured": u64::MAX, "failures": failures, "probing_since": u64::MAX })
    };
    let holder = serde_json::json!({ "pid": u32::MAX, "derivation": OBEYED, "since": u64::MAX });
    let numbers = serde_json::json!({ "since": u64::MAX, "until": u64::MAX });
    let long = "[".repeat(10 << 20);
    for (health, holder, drained) in [
        (failures(now).to_string(), holder.to_string(), numbers.to_string()),
        (failures(u64::MAX).to_string(), "{}".to_owned(), "{\"since\":-1}".to_owned()),
        (long.clone(), long.clone(), long),
    ] {
        let lock = site.as_owner(|site| {
            let host = site.state().join(MACHINE);
            fs::create_dir_all(&host).unwrap();
            for (name, text) in [("health.json", &health), ("0.json", &holder), ("drained.json", &drained)] {
                fs::write(host.join(name), text).unwrap();
            }
            let lock = fs::File::create(host.join("0")).unwrap();
            lock.lock().unwrap();
            lock
        });
        let others: [&[&str]; 3] = [
            &["status", "--json"],
            &["status", "--format=recutils"],
            &["explain", "--system", "x86_64-linux", "--json"],
        ];
        for command in COMMANDS.iter().chain(&others) {
            let said = text(&site.run(command));
            let is_obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.contains(is_obeyed), "{}: {said:?}", command.join(" "));
            assert!(!said.contains("panicked") && said.len() < 100_000, "{}: {said:?}", command.join(" "));
        }
        drop(lock);
    }
}
