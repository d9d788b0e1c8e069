//! The check of a block of code, by its language:
//!
//! | language | |
//! |---|---|
//! | `lua` | a whole machine file: `offload eval` accepts it, and warns only of missing files, such as keys; after the comment `in error` it refuses it |
//! | `console` | commands with what they print: run, and the output compared (`console`; on a head with systemd in `tests/systemd_head`) |
//! | `screen` | a test that draws it names the page |
//! | `sh` | its syntax, and that its commands exist; calls of `offload` are understood (`shell`) |
//! | `scheme` | Guile reads it (`quick_start`, in a host of the lab) |
//! | `json` | it is JSON |
//! | `sshd_config` | `tests/locked_down.rs` gives it to an SSH server |
//! | `known_hosts` | a machine file on the page reads it |
//! | `sql` | `tests/shared_pool.rs` runs it |
//! | `ini` | sections and assignments |
//! | `rust` | it is part of a file that is compiled |
//! | `text` | a diagram: names of modules and files in it exist |

use crate::console::Site;
use crate::page::{Block, pages, top};
use crate::reference::sources;
use crate::shell;
use std::collections::BTreeMap;
use std::fs;

/// Languages that other tests of this program take care of.
const ELSEWHERE: [&str; 3] = ["console", "scheme", "sql"];

fn check(block: &Block, earlier: &[Block]) -> Result<(), String> {
    match block.language.as_str() {
        "lua" => lua(block, earlier),
        "sh" => shell::check(&block.text),
        "json" => serde_json::from_str::<serde_json::Value>(&block.text).map(drop).map_err(|error| error.to_string()),
        "ini" => ini(&block.text),
        "rust" => compiled(&block.text),
        "text" => diagram(&block.text),
        "screen" => drawn(block),
        "sshd_config" if block.place.starts_with("doc/manual/security.md:") => Ok(()),
        "known_hosts" if block.before.ends_with("`known_hosts`:") => Ok(()),
        other if ELSEWHERE.contains(&other) => Ok(()),
        other => Err(format!("no rule for the language '{other}'")),
    }
}

fn lua(block: &Block, earlier: &[Block]) -> Result<(), String> {
    let site = Site::new();
    earlier.iter().filter(|block| block.language != "lua").for_each(|block| site.take(block));
    site.take(block);
    let output = site.offload(&["eval"]);
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    // These depend on the machine that runs the test.
    let elsewhere = ["private_key: ", "no build machine is enabled for"];
    let is_doubtful = |line: &&str| line.contains(": warning: ") && !elsewhere.iter().any(|text| line.contains(text));
    let doubtful: Vec<&str> = messages.lines().filter(is_doubtful).collect();
    match output.status.code() {
        Some(3) if block.comment == "in error" => Ok(()),
        Some(0) if block.comment == "in error" => Err("there is nothing wrong with it".to_owned()),
        Some(0) if doubtful.is_empty() => Ok(()),
        Some(0) => Err(doubtful.join("\n")),
        _ => Err(messages),
    }
}

fn ini(text: &str) -> Result<(), String> {
    let fits = |line: &str| line.is_empty() || line.starts_with(['#', '[']) || line.contains('=');
    text.lines().find(|line| !fits(line)).map_or(Ok(()), |line| Err(format!("neither section nor assignment: {line}")))
}

fn compiled(text: &str) -> Result<(), String> {
    let examples = fs::read_dir(top().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut files = examples.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let is_there = files.any(|file| fs::read_to_string(file).unwrap().contains(text.trim_end()));
    if is_there { Ok(()) } else { Err("it is in no file of examples/".to_owned()) }
}

/// A screen is checked by another test, which draws it and reads the page.
fn drawn(block: &Block) -> Result<(), String> {
    let page = block.place.split(':').next().unwrap();
    let mut code = ["src", "tests"].into_iter().flat_map(|directory| sources(&top().join(directory)));
    let is_read = code.any(|(file, text)| !file.starts_with("tests/documentation/") && text.contains(page));
    if is_read { Ok(()) } else { Err(format!("no test reads {page}")) }
}

/// Words with arrows between them: those of the architecture.
fn diagram(text: &str) -> Result<(), String> {
    if !text.contains(['─', '►', '→', '│']) {
        return Err("it is no diagram: show output in a block 'console', below the command that prints it".to_owned());
    }
    let words = text.split(|c: char| !(c.is_alphanumeric() || "/_.".contains(c)));
    let files = words.filter(|word| word.starts_with("src/") || word.starts_with("tests/"));
    files
        .map(|word| word.trim_end_matches('.'))
        .find(|word| !top().join(word).exists())
        .map_or(Ok(()), |word| Err(format!("there is no {word}")))
}

#[test]
fn every_block_passes_the_check_of_its_language() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for page in pages() {
        let blocks = page.blocks();
        for (number, block) in blocks.iter().enumerate() {
            *counts.entry(block.language.clone()).or_default() += 1;
            if let Err(why) = check(block, &blocks[..number]) {
                wrong.push(format!("{}: {why}", block.place));
            }
        }
    }
    println!("{counts:?}");
    assert!(counts.values().sum::<usize>() > 40, "only {counts:?} found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
