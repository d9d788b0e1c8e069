//! Blocks `console`: commands behind a prompt, and below each what it prints.
//!
//! `$ offload …` is run in a directory that stands for `/`: the block `lua` before it is `/etc/guix/machines.lua`,
//! other blocks whose introduction ends in a file name and a colon are files beside it. In what is printed, `…` stands
//! for anything. Derivations that are named are made (`DERIVATIONS`). Comments on the page say how machines are:
//!
//! - `known: NAME:PORT FIELD=NUMBER …`: the machine told this just now;
//! - `taken: NAME:PORT N …`: these build slots are taken;
//! - `machine file: the next block`: the next block `lua` of the page is the machine file already.
//!
//! A prompt `HOST# ` is a host of the lab (`tests/systemd_head`).

use crate::page::{Block, Part, is_too_wide, pages};
use crate::transcript::{commands, fits};
use fs4::FileExt;
use offload::internals::state::health::now;
use std::cell::RefCell;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

/// Derivations that pages name, by their names: required features, and whether the output is fixed.
const DERIVATIONS: [(&str, &str, bool); 7] = [
    ("hello-2.12.1", "", false),
    ("linux-libre-6.12.9", "", false),
    ("ungoogled-chromium-131", "big-parallel", false),
    ("icecat-128", "", false),
    ("hello-2.12.1.tar.gz", "", true),
    ("profile", "", false),
    ("disk-image", "kvm", false),
];

/// A directory that stands for `/`.
pub struct Site {
    directory: tempfile::TempDir,
    /// Slots that are taken as long as the site lives.
    slots: RefCell<Vec<File>>,
}

impl Site {
    pub fn new() -> Site {
        let site = Site { directory: tempfile::tempdir().unwrap(), slots: RefCell::default() };
        for directory in ["etc/guix", "var/guix", "gnu/store"] {
            fs::create_dir_all(site.path(directory)).unwrap();
        }
        site
    }

    fn path(&self, inside: &str) -> std::path::PathBuf {
        self.directory.path().join(inside)
    }

    /// Makes a block the file that it stands for.
    pub fn take(&self, block: &Block) {
        let file = block.before.trim_end_matches(':').rsplit('`').nth(1).filter(|_| block.before.ends_with("`:"));
        let name = match (file, block.language.as_str()) {
            (Some(file), _) => file.rsplit('/').next().unwrap(),
            (None, "lua") => "machines.lua",
            (None, _) => return,
        };
        fs::write(self.path("etc/guix").join(name), &block.text).unwrap();
    }

    /// Runs the program.
    pub fn offload(&self, arguments: &[&str]) -> Output {
        self.command(Path::new(env!("CARGO_BIN_EXE_offload"))).args(arguments).output().unwrap()
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let program = Path::new(env!("CARGO_BIN_EXE_offload")).parent().unwrap();
        command.current_dir(self.path("etc/guix")).env_clear();
        // As in a terminal of this width.
        command.env("COLUMNS", "80");
        command.env("PATH", format!("{}:/usr/bin:/bin", program.display())).env("HOME", self.path("root"));
        command.env("GUIX_CONFIGURATION_DIRECTORY", self.path("etc/guix"));
        command.env("GUIX_STATE_DIRECTORY", self.path("var/guix")).env("NIX_STORE_DIR", self.path("gnu/store"));
        command
    }

    /// What a command prints, as it would with the real directories.
    fn run(&self, line: &str) -> String {
        for (name, features, is_fixed) in DERIVATIONS {
            self.make(name, features, is_fixed);
        }
        let root = self.directory.path().display().to_string();
        let line = line
            .replace("/gnu/store/", &format!("{root}/gnu/store/"))
            .replace(" /etc/guix/", &format!(" {root}/etc/guix/"));
        let output = self.command(Path::new("sh")).args(["-c", &format!("{line} 2>&1")]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().replace(&root, "")
    }

    fn make(&self, name: &str, features: &str, is_fixed: bool) {
        let store = self.path("gnu/store").display().to_string();
        let (method, hash) = if is_fixed { ("sha256", "ab".repeat(32)) } else { ("", String::new()) };
        let text = format!(
            "Derive([(\"out\",\"{store}/9jd3ddi4i7ymp3l9vs7vhfx7xl9wvhxz-{name}\",\"{method}\",\"{hash}\")],[],[],\
             \"x86_64-linux\",\"/bin/sh\",[],[(\"requiredSystemFeatures\",\"{features}\")])"
        );
        fs::write(format!("{store}/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-{name}.drv"), text).unwrap();
    }

    /// Makes a machine what a comment says of it.
    fn comment(&self, text: &str) {
        let mut words = text.split_whitespace();
        let (kind, Some(machine)) = (words.next().unwrap_or_default(), words.next()) else { return };
        let directory = self.path("var/guix/offload").join(machine);
        match kind {
            "known:" => {
                let fields: Vec<String> = words
                    .map(|word| word.split_once('=').map(|(name, value)| format!("{name:?}: {value}")).unwrap())
                    .collect();
                fs::create_dir_all(&directory).unwrap();
                let record = format!("{{ \"measured\": {}, \"status\": {{ {} }} }}", now(), fields.join(", "));
                fs::write(directory.join("health.json"), record).unwrap();
            }
            "taken:" => {
                fs::create_dir_all(&directory).unwrap();
                for slot in words {
                    let file = File::create(directory.join(slot)).unwrap();
                    FileExt::lock(&file).unwrap();
                    self.slots.borrow_mut().push(file);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn commands_print_what_pages_show() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let mut site = Site::new();
        let mut is_new = true;
        let parts = page.parts();
        let is_lua = |part: &&Part| matches!(part, Part::Block(block) if block.language == "lua");
        for (number, part) in parts.iter().enumerate() {
            match part {
                Part::Comment(text) if text == "machine file: the next block" => {
                    let Some(Part::Block(block)) = parts[number..].iter().find(is_lua) else {
                        panic!("{}: no machine file follows", page.name)
                    };
                    site.take(block);
                }
                Part::Comment(text) => site.comment(text),
                Part::Block(block) if block.language == "console" => {
                    is_new = true;
                    for (prompt, command, shown) in commands(&block.text) {
                        if prompt != "$" {
                            continue;
                        }
                        count += 1;
                        let printed = site.run(&command);
                        if !fits(&shown, &printed) {
                            wrong.push(format!("{}: {command}\nshown:\n{shown}printed:\n{printed}", block.place));
                        }
                    }
                }
                Part::Block(block) if ["lua", "json", "known_hosts"].contains(&block.language.as_str()) => {
                    // Files that follow each other belong together; a new one after commands begins another example.
                    if std::mem::take(&mut is_new) {
                        site = Site::new();
                    }
                    site.take(block);
                }
                Part::Block(_) => {}
            }
        }
    }
    assert!(count > 15, "only {count} commands found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Pages show the lines of a terminal with 80 columns. Commands can be longer.
#[test]
fn outputs_on_pages_fit_into_a_terminal() {
    let mut wide = Vec::new();
    for block in pages().iter().flat_map(|page| page.blocks()) {
        let shown: Vec<String> = match block.language.as_str() {
            "console" => commands(&block.text).into_iter().map(|(_, _, shown)| shown).collect(),
            "screen" => vec![block.text.clone()],
            _ => continue,
        };
        let lines = shown.iter().flat_map(|text| text.lines()).filter(|line| is_too_wide(line, 80));
        wide.extend(lines.map(|line| format!("{}: {line}", block.place)));
    }
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}
