//! Every command in a terminal of 80 columns: no line is wider that could be broken. `convert` and `annotations` print files.

use std::process::{Command, Stdio};

use offload::internals::commands::help::definition;

use crate::lab::{Drv, SYSTEM};
use crate::page::is_too_wide;
use crate::site::{NAME, Site};

const COLUMNS: usize = 80;

pub fn every_command(site: &Site) {
    let head = &site.head;
    let result = head.build(&[&Drv::new("linux-libre-6.12.9").script("echo compiling; echo $name >$out")]).succeeded();
    let drv = result.derivation("linux-libre-6.12.9").to_str().unwrap().to_owned();
    head.build(&[&Drv::new("fails-with-a-long-name-1.2.3").script("echo no; false")]);
    head.write("/root/long.lua", "return { build_machine { nmae = 'x', system = 'y' }, sclre = 1 }");
    let mut lines: Vec<String> = [
        "eval",
        "eval /root/long.lua",
        "test",
        "test --verbose",
        "status",
        "status --summary",
        "history",
        "history --failed",
        "metrics --textfile /root",
        "log-level",
        "log-level debug --for 1s",
        "shared status",
        "disconnect",
        "uninstall --dry-run",
        "install --dry-run",
        "--version",
    ]
    .map(str::to_owned)
    .into();
    lines.extend([
        format!("explain {drv}"),
        format!("explain --system {SYSTEM} --probe"),
        "explain --system riscv64-linux --features kvm,big-parallel".to_owned(),
        format!("drain {NAME} --for 2h"),
        "status".to_owned(),
        format!("explain --system {SYSTEM}"),
        format!("undrain {NAME}"),
        format!("log {drv}"),
        format!("history {drv}"),
        format!("build {drv}"),
        format!("challenge {drv}"),
        format!("ssh {NAME} true"),
        format!("start {NAME}"),
        format!("stop {NAME}"),
        "reap".to_owned(),
        "report -o /root/report.html".to_owned(),
        format!("authorize {NAME} --yes"),
        format!("add {NAME}"),
        format!("init {NAME} --yes"),
        "test nobody".to_owned(),
        "drain nobody".to_owned(),
    ]);
    let definition = definition();
    let names = definition.get_subcommands().filter(|command| !command.is_hide_set()).map(|command| command.get_name());
    let names: Vec<&str> = names.collect();
    for name in &names {
        let is_run = lines.iter().any(|line| line.split(' ').next() == Some(name));
        assert!(is_run || ["convert", "annotations"].contains(name), "offload {name} is not run in a terminal");
        lines.push(format!("{name} --help"));
    }
    let mut wide = String::new();
    for line in &lines {
        let printed = in_terminal(site, line);
        assert!(
            !printed.trim().is_empty()
                || ["ssh", "metrics", "reap", "report"].contains(&line.split(' ').next().unwrap()),
            "{line} prints nothing"
        );
        for text in printed.lines().filter(|text| is_too_wide(text, COLUMNS)) {
            wide += &format!("offload {line}: {text}\n");
        }
    }
    assert!(wide.is_empty(), "wider than {COLUMNS} columns:\n{wide}");
}

/// What a command prints in a terminal, without colours.
fn in_terminal(site: &Site, line: &str) -> String {
    let mut inner = site.head.command("/usr/local/bin/offload");
    inner.args(line.split(' ')).env("TERM", "xterm");
    let words = [inner.get_program()].into_iter().chain(inner.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let command = format!("stty cols {COLUMNS} rows 24; exec {}", words.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--command", &command, "/dev/null"]).stdin(Stdio::null());
    script.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = script.output().unwrap_or_else(|error| panic!("script: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let printed = without_escapes(&printed);
    println!("head# offload {line}\n{printed}");
    printed
}

/// The text without the sequences for colours (`ESC [ … LETTER`).
fn without_escapes(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain += piece.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default();
    }
    plain
}
