//! The quick start as a new user follows it: each command of the page, in its order, on the machine that its prompt
//! names, and no other. The mark `…` in a command is text that the reader copies from an earlier output.
//!
//! Not from the page: the store has Guile already, which the page's build would fetch from a substitute server.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};

use crate::page::manual;
use crate::site::{Site, shell, succeed};
use crate::transcript::{commands, fits};

/// The command that was run before this test.
const BUILD: &str = "cargo build --release";

/// Words that a reader reads in a minute, and characters that a reader types.
const READ: f64 = 200.0;
const TYPED: f64 = 180.0;

pub fn follow(site: &Site) {
    let minutes = effort();
    eprintln!("{minutes:6.1} min to read and type the quick start");
    assert!(minutes < 10.0, "the quick start takes {minutes} minutes");
    assert_eq!(site.daemon_user(), "guix-daemon");
    assert_eq!(shell(&site.head, "touch /gnu/store/x").0, Some(1), "the store is writable outside of the daemon");
    add_guile(site);
    let (mut count, mut last, mut fingerprint) = (0, String::new(), String::new());
    for block in manual("quick-start.md").blocks() {
        match block.language.as_str() {
            "sh" => {
                for line in block.text.lines().map(|line| line.split(" #").next().unwrap().trim()) {
                    if line != BUILD {
                        succeed(&site.head, line);
                    }
                    count += 1;
                }
            }
            "lua" => edit_machine_file(site, &block.text),
            "console" => {
                for (prompt, command, shown) in commands(&block.text) {
                    let printed = match prompt.as_str() {
                        "head#" => {
                            // The load of this machine says nothing about the page.
                            last = without_load(&shell(&site.head, &command.replace("SHA256:…", &fingerprint)).1);
                            last.clone()
                        }
                        "build#" if !command.contains('…') => shell(&site.build, &command).1,
                        "build#" => {
                            let copied = last.lines().map(str::trim).find(|line| fits(&command, line));
                            succeed(&site.build, copied.unwrap_or_else(|| panic!("{command} was not printed before")))
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
            other => panic!("{}: a block in {other}", block.place),
        }
    }
    assert!(count >= 10, "only {count} commands found");
    assert_eq!(site.hook_of_daemon().as_deref(), Some("/usr/local/lib/offload/guix"));
    site.head.verify_store();
}

/// The minutes that a reader needs for the page: for all words in it, and for the commands. Waiting is not counted.
fn effort() -> f64 {
    let page = manual("quick-start.md");
    let words = page.text.split_whitespace().count();
    let typed = |block: crate::page::Block| match block.language.as_str() {
        "console" => commands(&block.text).iter().map(|(_, command, _)| command.len()).sum(),
        "sh" => block.text.len(),
        _ => 0,
    };
    let typed: usize = page.blocks().into_iter().map(typed).sum();
    words as f64 / READ + typed as f64 / TYPED
}

/// Changes what the page tells the reader to change, and compares the result with the page.
fn edit_machine_file(site: &Site, shown: &str) {
    let file = "/etc/guix/machines.lua";
    let written = String::from_utf8(site.head.read(file)).unwrap();
    let host_key = |text: &str| text.lines().find(|line| line.trim_start().starts_with("host_key")).unwrap().to_owned();
    let wanted = shown.replace(&host_key(shown), &host_key(&written)).replace("x86_64-linux", crate::lab::SYSTEM);
    let changed: Vec<&str> = wanted.lines().filter(|line| !written.contains(line.trim())).collect();
    let changed = changed.join("\n");
    assert_eq!(changed.trim(), "parallel_builds = 4,", "written:\n{written}wanted:\n{wanted}");
    // Other work on this machine must not decide where the build goes.
    site.head.write(file, wanted.replace("parallel_builds = 4,", "parallel_builds = 4, overload_threshold = false,"));
}

fn without_load(printed: &str) -> String {
    printed.split_inclusive('\n').filter(|line| !line.starts_with("  ??  load ")).collect()
}

/// Puts the Guile that the page's build needs into the store, as if a substitute server had it: a program that runs the
/// Guile of the machine.
fn add_guile(site: &Site) {
    let page = manual("quick-start.md").text;
    let line = page.lines().find_map(|line| line.strip_prefix("head# guix build ")).unwrap();
    let derivation = succeed(&site.head, &format!("guix build --no-substitutes --derivations {line}"));
    let derivation = derivation.lines().find(|line| line.ends_with(".drv")).unwrap();
    let text = String::from_utf8(site.head.read(derivation)).unwrap();
    let builder =
        text.split('"').find(|word| word.ends_with("/bin/guile")).unwrap_or_else(|| panic!("no Guile: {text}"));
    let item = builder.strip_suffix("/bin/guile").unwrap();
    let directory = site.head.path(item);
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::write(directory.join("bin/guile"), "#!/bin/sh\nexec /usr/bin/guile \"$@\"\n").unwrap();
    let store = fs::metadata(site.head.path("/gnu/store")).unwrap();
    for file in [directory.join("bin/guile"), directory.join("bin"), directory] {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o555)).unwrap();
        lchown(&file, Some(store.uid()), Some(store.gid())).unwrap();
    }
    let code = format!(
        "(use-modules (guix store database) (guix build store-copy) (srfi srfi-19))
         (with-database \"/var/guix/db/db.sqlite\" db
           (register-items db (list (store-info {item:?} #f '())) #:registration-time (make-time time-utc 0 1)))"
    );
    site.head.write("/var/lab/guile.scm", code);
    succeed(
        &site.head,
        "setpriv --reuid=guix-daemon --regid=guix-daemon --clear-groups guix repl -- /var/lab/guile.scm",
    );
}
