//! `offload convert` with the real `guix repl` of both releases of the lab. Needs root and what `tests/setup` makes.

mod lab;

use lab::{Host, Lab, Release};
use offload::internals::commands::convert::{ConvertError, convert};
use offload::internals::machine_file::{self, LoadContext};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// A script cannot be run while a child that another test has just started still holds it open for writing.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A host with Guix, and a directory that has the same name outside of the host and in it.
struct Site {
    directory: tempfile::TempDir,
    guix: PathBuf,
    host: Host,
    _lab: Lab,
    _turn: MutexGuard<'static, ()>,
}

impl Site {
    fn new(release: Release) -> Site {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let lab = Lab::new();
        let host = lab.build_machine("head").release(release).sshd(false).start();
        let directory = tempfile::tempdir().unwrap();
        let guix = directory.path().join("guix");
        let enter = format!("#!/bin/sh\nexec chroot '{}' guix \"$@\"\n", host.root().display());
        fs::write(&guix, enter).unwrap();
        fs::set_permissions(&guix, fs::Permissions::from_mode(0o755)).unwrap();
        Site { directory, guix, host, _lab: lab, _turn: turn }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        fs::write(&file, text).unwrap();
        self.host.write(&file, text);
        file
    }

    /// The machine file in Lua and the warnings, or the errors; all without the directory.
    fn convert(&self, name: &str, text: &str) -> Result<(String, Vec<String>), String> {
        let file = self.write(name, text);
        let relative = |text: String| text.replace(&format!("{}/", self.directory.path().display()), "");
        match convert(&file, || Ok(self.guix.clone())) {
            Ok(document) => {
                Ok((relative(document.to_string()), document.warnings().into_iter().map(relative).collect()))
            }
            Err(error) => Err(relative(error.to_string())),
        }
    }

    fn error(&self, text: &str) -> String {
        self.convert("m.scm", text).unwrap_err()
    }
}

fn golden() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/convert");
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "scm"));
    files.sort();
    assert!(files.len() > 1, "{files:?}");
    files
}

#[test]
fn machines_of_a_new_guix_become_the_golden_files() {
    let site = Site::new(Release::Sid);
    for file in golden() {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (lua, warnings) = site.convert(name, &fs::read_to_string(&file).unwrap()).unwrap();
        let warnings: String = warnings.iter().map(|warning| format!("-- {warning}\n")).collect();
        let expected = fs::read_to_string(file.with_extension("lua")).unwrap();
        assert_eq!(format!("{lua}-- warnings:\n{warnings}"), expected, "{name}");
    }
}

/// An older Guix has another default for the overload threshold, and does not know where a machine was written.
#[test]
fn machines_of_an_old_guix_become_the_same_entries() {
    let site = Site::new(Release::Bullseye);
    let load = |lua: &str| {
        let file = site.write("machines.lua", lua);
        machine_file::load(&file, &LoadContext::default()).unwrap_or_else(|report| panic!("{report}")).machines
    };
    for file in golden().into_iter().filter(|file| !file.ends_with("same-host.scm")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (lua, _) = site.convert(name, &fs::read_to_string(&file).unwrap()).unwrap();
        assert!(lua.contains("overload_threshold = 0.6") || name == "none.scm", "{lua}");
        let new = load(&fs::read_to_string(file.with_extension("lua")).unwrap());
        let mut old = load(&lua);
        assert_eq!(old.len(), new.len());
        for (old, new) in old.iter_mut().zip(&new) {
            if old.machine.overload_threshold == Some(0.6) {
                old.machine.overload_threshold = Some(0.8);
            }
            assert_eq!(old.machine, new.machine, "{name}");
        }
    }
}

#[test]
fn output_and_input_of_the_file_do_no_harm() {
    let site = Site::new(Release::Sid);
    let text = r#"
        (use-modules (ice-9 rdelim))
        (display "\noffload-convert {\"machines\":[]}\n")
        (system "echo; echo 'offload-convert {\"machines\":[]}'")
        (call-with-output-file "/dev/fd/1" (lambda (port) (display "\noffload-convert {}\n" port)))
        (unless (eof-object? (read-line)) (error "there is something to read"))
        (close-port (current-output-port))
        (list (build-machine (name "a\n\"b\x00;ü\x1b;") (user "u") (systems '("x86_64-linux")) (host-key "k")))
    "#;
    let (lua, warnings) = site.convert("noisy", text).unwrap();
    assert!(lua.contains(r#"name = "a\u{a}\"b\u{0};ü\u{1b};","#), "{lua}");
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn files_may_load_others() {
    let site = Site::new(Release::Sid);
    site.write(
        "lib.scm",
        "(define (machine n)\n (build-machine (name n) (user \"u\") (system \"s\") (host-key \"k\")))",
    );
    let (lua, _) = site.convert("m.scm", "(load \"lib.scm\")\n(map machine '(\"b1\" \"b2\"))").unwrap();
    assert_eq!(lua.matches("  -- lib.scm:2\n").count(), 2, "{lua}");
}

#[test]
fn errors_of_the_file_have_their_place() {
    for release in [Release::Sid, Release::Bullseye] {
        let site = Site::new(release);
        for (text, error) in [
            (
                "(define x 1)\n(map (lambda (n)\n  (build-machine (name n)))\n '(\"b1\"))",
                "m.scm:3:3: error: build-machine: missing field initializers (user host-key)",
            ),
            ("\n (build-machine (nam 1))", "m.scm:2:2: error: build-machine: extraneous field initializers (nam)"),
            ("(define x 1)\n\n(list x y)", "m.scm:3:1: error: y: unbound variable"),
            ("(error \"no way:\" 42)", "m.scm:1:1: error: no way: 42"),
            ("(use-modules (no such))", "m.scm:1:1: error: no code for module (no such)"),
            ("1\n(exit 0)", "m.scm:2:1: error: the file calls 'exit'"),
            ("", "m.scm: error: expected a list of build machines, found #<unspecified>"),
            ("(list 1 2)", "m.scm: error: expected a list of build machines, found a list whose item 1 is 1"),
            ("'(1 . 2)", "m.scm: error: expected a list of build machines, found (1 . 2)"),
            (
                "(list (build-machine (name 'b) (user \"u\") (host-key \"k\") (port \"22\")))",
                ": error: build machine 1: 'name' is b, not a string\n\
                 : error: build machine 1: it has no 'systems'\n\
                 : error: build machine 1: 'port' is \"22\", not a whole number",
            ),
        ] {
            let found = site.error(text);
            // In the order of the fields, and with lines where Guix knows them.
            let same = match error.strip_prefix(": ") {
                None => found == error,
                Some(_) => {
                    let known = |line: &str| line[line.find(": error").unwrap()..].to_owned();
                    let mut found: Vec<String> = found.lines().map(known).collect();
                    let mut error: Vec<String> = error.lines().map(str::to_owned).collect();
                    found.sort();
                    error.sort();
                    found == error
                }
            };
            assert!(same, "{text}: {found}");
        }
        assert!(site.error("(list").starts_with("m.scm: error: "), "{}", site.error("(list"));
        let end = site.error("(primitive-_exit 3)");
        assert!(end.ends_with("repl' ended with exit status: 3 before it said what the machines are"), "{end}");
    }
}

/// The list that Guix reads is made of these.
#[test]
fn the_configuration_of_a_system_is_refused_with_the_right_file() {
    let site = Site::new(Release::Sid);
    for (text, error) in [
        (
            "(use-modules (gnu))\n(operating-system (host-name \"b\") (timezone \"Etc/UTC\") (file-systems %base-file-systems)
              (bootloader (bootloader-configuration (bootloader grub-bootloader))))",
            "expected a list of build machines, found ",
        ),
        ("(use-modules (guix gexp))\n(list #~(build-machine (name \"b\")))", "found a list whose item 1 is #<gexp"),
        ("(list #~(build-machine (name \"b\")))", "missing field initializers"),
        ("(guix-configuration (build-machines '()))", "m.scm:1:1: error: "),
    ] {
        let found = site.error(text);
        assert!(found.contains(error), "{text}: {found}");
        assert!(found.contains("\n  hint: convert /etc/guix/machines.scm instead"), "{text}: {found}");
    }
    assert!(!site.error("(list 1 2)").contains("hint"));
}

#[test]
fn a_guix_without_its_offload_module_says_so() {
    let site = Site::new(Release::Sid);
    let file = site.write("m.scm", "'()");
    site.host.run("sh", &["-c", "cd /usr/share/guile/site/3.0/guix/scripts && mv offload.scm off.scm"]);
    site.host.run("sh", &["-c", "find / -xdev -name offload.go -path '*guix/scripts*' -delete"]);
    let error = convert(&file, || Ok(site.guix.clone())).unwrap_err();
    assert!(matches!(error, ConvertError::InFile(_)), "{error}");
    assert!(error.to_string().contains("no code for module (guix scripts offload)"), "{error}");
}
