//! `--help`, manual pages and completions: that they are what they were, and that other programs can read them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
            count += 1;
        }
    }
    assert!(count > 8, "{count} pages");
    let page = directory.path().join("share/man/man1/offload.1");
    let page = run(Command::new("groff").args(["-man", "-Tascii", "-P-c", "-P-b", "-P-u"]).arg(page));
    for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "SUBCOMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"]
    {
        assert!(page.lines().any(|line| line == heading), "no {heading} in:\n{page}");
    }
}

#[test]
fn completions_work_in_each_shell() {
    let directory = documents();
    let share = directory.path().join("share");
    let bash = format!(
        ". {}; COMP_WORDS=(offload expl); COMP_CWORD=1; COMP_LINE='offload expl'; _offload offload expl offload; \
         echo \"${{COMPREPLY[*]}}\"",
        share.join("bash-completion/completions/offload").display()
    );
    assert_eq!(run(Command::new("bash").args(["--norc", "-c", &bash])), "explain\n");
    let zsh = format!(
        "fpath=({} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[offload]; autoload +X _offload",
        share.join("zsh/site-functions").display()
    );
    assert_eq!(run(Command::new("zsh").args(["-f", "-c", &zsh])), "_offload\n");
    let fish = format!(
        "source {}; complete -C 'offload expl'",
        share.join("fish/vendor_completions.d/offload.fish").display()
    );
    let said = run(Command::new("fish").args(["--no-config", "-c", &fish]).env("HOME", directory.path()));
    assert!(said.starts_with("explain\t"), "{said}");
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
