//! How many instructions parts of a build take, compared with a record: a regression fails on a noisy machine, too.
//!
//! `valgrind` counts them, in programs of the profile that tests have. `tests/golden/instructions.txt` has the record and the
//! version of the compiler. With that compiler a count may differ by a tenth, with another one by a half. A count that is
//! lower fails as well, because the record would not notice the next regression. `OFFLOAD_WRITE_INSTRUCTIONS=1 cargo test
//! --test instructions` writes the record.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use offload::internals::local::{Bundle, Item, Store};
use offload::internals::store::export::HashingReader;
use offload::internals::store::nar::{self, Visitor as _};
use offload::internals::store::path::{StoreDir, StorePath};

const RECORD: &str = "tests/golden/instructions.txt";
const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPT8ND6KrrZZekAhAq/sAPtog9kbTgoklanLOTp4rVZ6";
const DRV: &str = "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv";
/// A machine more costs a hundredth of the difference between two pools.
const MACHINES: usize = 100;

/// Runs a command in `valgrind` with this input, and returns how many instructions it took.
fn count(program: &Path, arguments: &[&str], variables: &[(&str, &Path)], input: &str, expected: &str) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).args(arguments);
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(variables.iter().copied()).current_dir("/");
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("valgrind does not start: `tests/setup` installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [said, counted] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success() && said.contains(expected), "{said}{counted}");
    let number = counted.lines().find_map(|line| line.split_once("Collected : ")).expect("valgrind gives no count").1;
    number.trim().parse().unwrap()
}

/// Counts the instructions of a hook that declines, with this number of machines in the pool.
fn decline(machines: usize) -> u64 {
    let head = tempfile::tempdir().unwrap();
    let (etc, var) = (head.path().join("etc"), head.path().join("var"));
    fs::create_dir(&etc).unwrap();
    let mut file = "return {\n".to_owned();
    for number in 0..machines {
        let name = format!("m{number}.example.org");
        writeln!(file, "  build_machine {{ name = '{name}', user = 'offload', host_key = '{HOST_KEY}', systems = {{ 'x86_64-linux' }} }},").unwrap();
    }
    fs::write(etc.join("machines.lua"), file + "}\n").unwrap();
    let request = format!("1 x86_64-linux {DRV} no-machine-has-this\n");
    let variables = [("GUIX_CONFIGURATION_DIRECTORY", etc.as_path()), ("GUIX_STATE_DIRECTORY", &var)];
    let arguments = ["x86_64-linux", "3600", "true", "86400"];
    count(Path::new(env!("CARGO_BIN_EXE_offload")), &arguments, &variables, &request, "# decline\n")
}

/// Counts what a worker below does twice, without what it does once.
fn worker(name: &str) -> u64 {
    let times = |times: &str| {
        let program = std::env::current_exe().unwrap();
        let arguments = [name, "--exact", "--ignored", "--test-threads=1", "--nocapture"];
        count(&program, &arguments, &[("TIMES", Path::new(times))], "", "1 passed")
    };
    times("2") - times("1")
}

fn repeat(work: impl Fn()) {
    let times: usize = std::env::var("TIMES").expect("this is run by another test").parse().unwrap();
    (0..times).for_each(|_| work());
}

#[test]
#[ignore = "a part of the test that counts"]
fn writes_a_nar() {
    let contents = vec![b'x'; 2 << 10];
    repeat(|| {
        let mut writer = nar::Writer::new(Vec::new());
        let mut path = nar::NarPath::root();
        writer.directory(&path).unwrap();
        for number in 0..200 {
            path.push(format!("file-{number:03}").as_bytes()).unwrap();
            writer.file(&path, false, contents.len() as u64, &mut contents.as_slice()).unwrap();
            path.pop();
        }
        writer.leave_directory(&path).unwrap();
        assert!(writer.finish().unwrap().len() > 200 * contents.len());
    });
}

#[test]
#[ignore = "a part of the test that counts"]
fn makes_a_bundle() {
    let (directory, prefix) = (tempfile::tempdir().unwrap(), StoreDir::default());
    let item = |number: usize| {
        let path = format!("/gnu/store/{number:032}-source");
        let path = StorePath::parse(&prefix, path.as_bytes()).unwrap();
        fs::write(directory.path().join(path.base_name()), vec![b'x'; 4 << 10]).unwrap();
        let file = directory.path().join(path.base_name());
        let mut writer = nar::Writer::new(Vec::new());
        writer.file(&nar::NarPath::root(), false, 4 << 10, &mut fs::read(file).unwrap().as_slice()).unwrap();
        let bytes = writer.finish().unwrap();
        let mut reader = HashingReader::new(bytes.as_slice());
        nar::read(&mut reader, &mut nar::Nothing).unwrap();
        let (nar_hash, nar_size) = (reader.digest(), reader.count());
        Item { path, references: Vec::new(), deriver: None, nar_hash, nar_size }
    };
    let items: Vec<Item> = (0..50).map(item).collect();
    let store = Store::open_at(&prefix, directory.path()).unwrap();
    repeat(|| {
        let mut bytes = Vec::new();
        Bundle::new(&store, items.clone(), |_| Ok(b"signature".to_vec())).read_to_end(&mut bytes).unwrap();
        assert!(bytes.len() > 50 * (4 << 10));
    });
}

fn compiler() -> String {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into())).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn no_part_takes_more_instructions_than_recorded() {
    let one = decline(1);
    let counts = [
        ("start of the hook to `# decline`", one),
        ("a machine more in the pool", (decline(1 + MACHINES) - one) / MACHINES as u64),
        ("a nar of 200 files of 2 KiB", worker("writes_a_nar")),
        ("a bundle of 50 files of 4 KiB", worker("makes_a_bundle")),
    ];
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(RECORD);
    if std::env::var_os("OFFLOAD_WRITE_INSTRUCTIONS").is_some() {
        let lines = counts.iter().map(|(name, count)| format!("{count} {name}\n"));
        fs::write(&file, format!("{}\n{}", compiler(), lines.collect::<String>())).unwrap();
    }
    let record = fs::read_to_string(&file).unwrap();
    let (recorded_with, lines) = record.split_once('\n').unwrap();
    let tolerance = if recorded_with == compiler() { 0.1 } else { 0.5 };
    let recorded: Vec<(u64, &str)> = lines
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(count, name)| (count.parse().unwrap(), name))
        .collect();
    let mut wrong = Vec::new();
    for ((name, count), (before, recorded)) in counts.iter().zip(&recorded) {
        assert_eq!(name, recorded, "{RECORD}");
        let ratio = *count as f64 / *before as f64;
        eprintln!("{name}: {count}, {ratio:.3} of the record");
        if (ratio - 1.0).abs() > tolerance {
            wrong.push(format!("{name}: {count} instructions, {ratio:.2} of the {before} in {RECORD}"));
        }
    }
    assert_eq!(counts.len(), recorded.len(), "{RECORD}");
    assert!(
        wrong.is_empty(),
        "{}\nif that is intended: OFFLOAD_WRITE_INSTRUCTIONS=1 cargo test --test instructions",
        wrong.join("\n")
    );
}
