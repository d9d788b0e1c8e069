//! `guix.scm` and `examples/guix-system.scm`, as far as they go without a network: they load, and their derivations
//! compute. Nothing is built: that would take a Rust compiler from the network.

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use lab::{Hook, Host, Lab};

/// The sources in a directory of a host, without the checkout around them.
fn copy_sources(host: &Host, directory: &str) {
    let to = host.path(directory);
    fs::create_dir_all(&to).unwrap();
    for name in ["Cargo.toml", "Cargo.lock", "build.rs", "guix.scm", "src", "lua", "examples"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        assert!(Command::new("cp").arg("-r").args([&from, &to]).status().unwrap().success());
    }
}

/// The file names of the sources that Guix downloads for the crates in `Cargo.lock`.
fn crates() -> BTreeSet<String> {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")))?;
        Some(line.trim_matches('"').to_owned())
    };
    lock.split("[[package]]")
        .filter(|package| field(package, "checksum").is_some())
        .map(|package| {
            let name = field(package, "name").unwrap().to_lowercase().replace('_', "-");
            format!("rust-{name}-{}.tar.gz.drv", field(package, "version").unwrap())
        })
        .collect()
}

fn base_name(path: &str) -> String {
    path.trim_start_matches("/gnu/store/").chars().skip(33).collect()
}

/// The text of the one store item whose name ends so.
fn item(host: &Host, end: &str) -> String {
    let store = fs::read_dir(host.path("/gnu/store")).unwrap();
    let names: Vec<_> =
        store.map(|entry| entry.unwrap().path()).filter(|path| path.to_str().unwrap().ends_with(end)).collect();
    let [path] = names.as_slice() else { panic!("{end}: {names:?}") };
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_package_and_a_system_that_uses_it_have_derivations() {
    let lab = Lab::new();
    let head = lab.head().hook(Hook::None).start();
    copy_sources(&head, "/root/offload");

    let derivation = head.run("guix", &["build", "-f", "/root/offload/guix.scm", "-d"]);
    let derivation = derivation.trim();
    assert!(derivation.ends_with("-offload-0.1.0.drv"), "{derivation}");
    let references = head.run("guix", &["gc", "--references", derivation]);
    let sources: BTreeSet<String> =
        references.lines().map(base_name).filter(|name| name.ends_with(".tar.gz.drv")).collect();
    assert_eq!(sources, crates());
    let builder = item(&head, "-offload-0.1.0-builder");
    assert!(builder.contains("(symlink \"../../bin/offload\" (string-append directory \"/guix\"))"), "{builder}");

    // Not grafted: that could take a build.
    let system = ["system", "build", "--no-grafts", "-d", "/root/offload/examples/guix-system.scm"];
    let system = head.run("guix", &system);
    assert!(system.trim().ends_with("-system.drv"), "{system}");
    let service = item(&head, "-shepherd-guix-daemon.scm-builder");
    assert!(service.contains("(quote (\"GUIX=/run/current-system/profile/lib/offload/guix\"))"), "{service}");
    let profile = head.run("guix", &["gc", "--requisites", system.trim()]);
    assert!(profile.lines().any(|path| path == derivation), "the system does not have the package");
    // The page on installation shows the content of that file.
    let words = |text: &str| {
        text.lines()
            .filter(|line| !line.trim().starts_with(';'))
            .flat_map(str::split_whitespace)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let page = fs::read_to_string("doc/manual/installation.md").unwrap();
    let snippet = words(page.split("```scheme\n").nth(1).unwrap().split("```").next().unwrap());
    let example = words(&fs::read_to_string("examples/guix-system.scm").unwrap());
    assert!(example.contains(&snippet), "{snippet}\n{example}");

    let special = item(&head, "-machines.lua");
    assert_eq!(special, fs::read_to_string("examples/minimal.lua").unwrap());
}
