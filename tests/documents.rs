//! `--help`, manual pages and completions: that they are what they were, and that other programs can read them.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use clap::Command as Definition;
use offload::internals::commands::help::definition;

fn offload(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_offload")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program to its end; what it printed on both outputs.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/setup installs it"));
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

fn documents() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    run(Command::new(env!("CARGO_BIN_EXE_offload")).arg("documents").arg(directory.path()));
    directory
}

/// The golden files, and what the program prints now.
fn helps() -> Vec<(PathBuf, String)> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    let definition = definition();
    let names = definition.get_subcommands().filter(|command| !command.is_hide_set()).map(Definition::get_name);
    let mut helps = vec![(golden.join("offload.txt"), offload(&["--help"]))];
    helps.extend(names.map(|name| (golden.join(format!("{name}.txt")), offload(&[name, "--help"]))));
    helps.into_iter().map(|(file, output)| (file, text(&output.stdout))).collect()
}

/// After an intended change, `cargo test --test documents -- --ignored` writes the files.
#[test]
#[ignore = "writes files that belong to the source"]
fn write_the_golden_files() {
    for (file, help) in helps() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, help).unwrap();
    }
}

#[test]
fn help_is_the_golden_one_and_has_the_form_of_gnu() {
    for (file, help) in helps() {
        let known = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(help, known, "{} differs: see write_the_golden_files", file.display());
        assert!(help.starts_with("Usage: offload "), "{help}");
        assert!(help.lines().any(|line| line.starts_with("Report bugs to ")), "{help}");
    }
}

#[test]
fn the_version_has_the_form_of_gnu() {
    let output = offload(&["--version"]);
    let said = text(&output.stdout);
    let first = said.lines().next().unwrap();
    assert!(first == "offload 0.1.0" || first.starts_with("offload 0.1.0 ("), "{said}");
    assert!(said.contains("\nLicense GPLv3+: "), "{said}");
}

#[test]
fn manual_pages_are_sound() {
    let directory = documents();
    let mut count = 0;
    for section in ["man1", "man5"] {
        for entry in fs::read_dir(directory.path().join("share/man").join(section)).unwrap() {
            let page = entry.unwrap().path();
            let warnings = run(Command::new("groff").args(["-man", "-ww", "-z", "-Tutf8"]).arg(&page));
            assert_eq!(warnings, "", "{}", page.display());
            // It ends with 2 if there are warnings. A page has no date.
            let lint = Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(&page).output();
            let lint = text(&lint.expect("mandoc; tests/setup installs it").stdout);
            let found: Vec<&str> = lint.lines().filter(|line| !line.contains("missing date")).collect();
            assert!(found.is_empty(), "{}", found.join("\n"));
            count += 1;
        }
    }
    assert!(count > 25, "{count} pages");
    let read = |name: &str| {
        let page = directory.path().join("share/man/man1").join(name);
        run(Command::new("groff").args(["-man", "-Tutf8", "-P-c", "-P-b", "-P-u", "-rLL=500n"]).arg(page))
    };
    let has_lines = |page: &str, name: &str, lines: &[&str]| {
        for line in lines {
            assert!(page.lines().any(|one| one.trim() == *line), "{name} has no line '{line}':\n{page}");
        }
    };
    let headings = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "Set up", "RULES FOR ALL COMMANDS"];
    has_lines(&read("offload.1"), "offload.1", &headings);
    has_lines(&read("offload.1"), "offload.1", &["EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"]);
    // What only the manual knows: a column, a state, a field, a record, an example, a status.
    let status = read("offload-status.1");
    has_lines(
        &status,
        "offload-status.1",
        &["EXIT STATUS", "FIELDS", "SLOTS  the slots that builds of this head use, and all slots (parallel_builds)"],
    );
    for part in [
        "disk-low, overloaded, busy (no slot is free)",
        "record: Load1",
        "recsel -t Machine -e 'State = \"ready\"",
        "4 if some do",
    ] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let drain = read("offload-drain.1");
    assert!(!drain.contains("offload undrain (NAME"), "the form of another command: {drain}");
    has_lines(
        &drain,
        "offload-drain.1",
        &["offload drain (NAME… | --all) [--for TIME]", "EXAMPLES", "EXIT STATUS", "0, 1, 3 and 5."],
    );
}

/// Types `line` into an interactive shell on a terminal, where ⇥ is the key Tab. Returns the completed line, which the
/// shell itself prints. `begin` loads the completion.
fn typed(shell: &str, begin: &str, directory: &Path, line: &str) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_offload")).parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", shell, "/dev/null"]).current_dir(directory).env("PATH", path).env("HOME", directory);
    terminal.env("GUIX_CONFIGURATION_DIRECTORY", directory).env("GUIX_STATE_DIRECTORY", directory.join("state"));
    terminal.env_remove("OFFLOAD_MACHINE_FILE").env("TERM", "dumb");
    let terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut terminal = terminal.expect("`script`, of the package bsdutils");
    // A word before the line makes it an argument of `echo`.
    let keys = format!("{begin}\n{}\u{1}echo '<'\u{5}'>'\nexit\n", line.replace('⇥', "\t"));
    let mut input = terminal.stdin.take().unwrap();
    input.write_all(keys.as_bytes()).unwrap();
    let mut shown = Vec::new();
    terminal.stdout.take().unwrap().read_to_end(&mut shown).unwrap();
    terminal.wait().unwrap();
    let shown = text(&shown);
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    let printed = lines.iter().rev().find_map(|line| line.strip_prefix("<offload ")?.strip_suffix('>'));
    printed.unwrap_or_else(|| panic!("{shell} has not printed the line {line}:\n{shown}")).trim_end().to_owned()
}

#[test]
fn completions_work_in_each_shell() {
    let directory = documents();
    let share = directory.path().join("share");
    let machine = |name: &str, fields: &str| {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        format!("build_machine {{ name = '{name}', user = 'o', host_key = '{key}', {fields} }}")
    };
    let machines = [
        machine("eight.example.org", "system = 'x86_64-linux', features = { 'kvm' }"),
        machine("nine", "systems = { 'aarch64-linux' }, port = 2022"),
        machine("nine", "systems = { 'aarch64-linux' }, port = 2023"),
    ];
    let write = |name: &str, text: String| fs::write(directory.path().join(name), text).unwrap();
    write("machines.lua", format!("return {{ {} }}", machines.join(", ")));
    write("other.lua", format!("print 'text'\nreturn {{ {} }}", machine("of-the-other", "system = 'riscv64-linux'")));
    write("broken.lua", "print 'text'\nreturn { build_machine { name = 'x' } ".to_owned());
    let shells = [
        ("bash --norc --noprofile -i", format!(". {}", share.join("bash-completion/completions/offload").display())),
        (
            "zsh -f -i",
            format!(
                "fpath=({} $fpath); autoload -Uz compinit; compinit -u -D",
                share.join("zsh/site-functions").display()
            ),
        ),
        ("fish --no-config", format!("source {}", share.join("fish/vendor_completions.d/offload.fish").display())),
    ];
    let directory = directory.path();
    thread::scope(|scope| {
        for (shell, begin) in &shells {
            scope.spawn(move || {
                for (line, completed) in [
                    ("offload expl⇥--syst⇥x86⇥--feat⇥k⇥", "explain --system x86_64-linux --features kvm"),
                    ("offload drain ei⇥nine:2023⇥", "drain eight.example.org nine:2023"),
                    ("offload drain nine:202⇥3", "drain nine:2023"),
                    ("offload drain ./oth⇥of⇥", "drain ./other.lua of-the-other"),
                    ("offload test --machine-file other.lua of⇥", "test --machine-file other.lua of-the-other"),
                    ("offload build --machine-file=oth⇥--on of⇥", "build --machine-file=other.lua --on of-the-other"),
                    (
                        "offload history --machine ei⇥--outcome build-⇥",
                        "history --machine eight.example.org --outcome build-failed",
                    ),
                    ("offload ssh --machine-file broken.lua ei⇥", "ssh --machine-file broken.lua ei"),
                ] {
                    assert_eq!(typed(shell, begin, directory, line), completed, "{shell}: {line}");
                }
            });
        }
    });
}

/// The version from the build script, in a separate directory.
#[test]
fn the_version_has_the_commit_where_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(Command::new(compiler).args(["--edition=2024", "-o"]).arg(&script).arg("build.rs"));
    let project = directory.path().join("project");
    fs::create_dir(&project).unwrap();
    let version = |profile: &str, path: &str, commit: &str| {
        let mut command = Command::new(&script);
        command.env_clear().envs([("CARGO_PKG_VERSION", "1.2"), ("PROFILE", profile), ("PATH", path)]);
        command.env("CARGO_MANIFEST_DIR", &project);
        if !commit.is_empty() {
            command.env("OFFLOAD_COMMIT", commit);
        }
        let said = run(&mut command);
        let line = said.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=OFFLOAD_VERSION="));
        line.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let path = std::env::var("PATH").unwrap();
    // An archive, an archive whose commit is known, and what could not be a commit.
    assert_eq!(version("release", &path, ""), "1.2");
    assert_eq!(version("debug", &path, "v1.2-3-gabc"), "1.2 (v1.2-3-gabc)");
    assert_eq!(version("release", &path, "no commit\n"), "1.2");
    let git = |arguments: &[&str]| {
        let who = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
        run(Command::new("git").current_dir(&project).args(who).args(arguments))
    };
    git(&["init", "-q"]);
    assert_eq!(version("release", &path, ""), "1.2");
    git(&["commit", "-q", "--allow-empty", "-m", "first"]);
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    assert_eq!(version("release", &path, ""), format!("1.2 ({})", commit.trim()));
    assert_eq!(version("debug", &path, ""), "1.2");
    // Without git.
    assert_eq!(version("release", "/nowhere", ""), "1.2");
}
