//! Golden files: `tests/golden/convert/NAME.scm` is a `machines.scm`, and `NAME.json` the answer of the real `guix repl` about it
//! (`tests/convert.rs` runs it). `NAME.machines` is a file of Nix. `NAME.lua` is the result of either, with the warnings at its
//! end after `-- warnings:`.
//!
//! A new `.json` is the text after the mark in the output of
//! `(cat dump.scm; echo '(dump "NAME.scm")') | HOME=/root guix repl -q -t machine`, run where `NAME.scm` is.

use super::lua::{Entry, Value, plain, quote};
use super::repl::{Answer, Fields};
use super::*;
use crate::machine::{Compression, HostKey, Machine};
use crate::machine_file::{self, LoadContext, Pool, Report};
use proptest::prelude::*;
use std::fs;
use std::process::Command;

mod accepted;
mod nix_lines;
mod scheme_answers;

const HOME: &str = "/root";

fn golden(extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/convert");
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|other| other == extension));
    files.sort();
    assert!(files.len() > 1, "{files:?}");
    files
}

fn base_name(file: &Path) -> PathBuf {
    file.file_name().unwrap().into()
}

/// Returns the machines that a golden `.scm` returns, according to Guix.
fn guix_says(json: &Path) -> Vec<Fields> {
    let Answer::Machines(machines) = serde_json::from_slice(&fs::read(json).unwrap()).unwrap() else {
        panic!("{json:?} tells of an error");
    };
    machines
}

/// Converts all golden inputs.
fn converted() -> Vec<(PathBuf, Document)> {
    let scheme = golden("json").into_iter().map(|file| {
        let scm = base_name(&file.with_extension("scm"));
        let text = fs::read_to_string(file.with_extension("scm")).unwrap();
        let home = (!text.contains("private-key")).then_some(Path::new(HOME));
        let mut document = scheme::document(&scm, guix_says(&file), home).unwrap();
        document.keep_scheme_comments(text.as_bytes());
        (file.with_extension("lua"), document)
    });
    let nix = golden("machines").into_iter().map(|file| {
        let text = fs::read(&file).unwrap();
        let mut document = nix::document(&base_name(&file), &text).unwrap();
        document.keep_nix_comments(&text);
        (file.with_extension("lua"), document)
    });
    scheme.chain(nix).collect()
}

fn with_warnings(document: &Document) -> String {
    let warnings = document.warnings().iter().map(|warning| format!("-- {warning}\n")).collect::<String>();
    format!("{document}-- warnings:\n{warnings}")
}

#[test]
fn golden_files_become_the_expected_lua() {
    for (lua, document) in converted() {
        let expected = fs::read_to_string(&lua).unwrap_or_else(|error| panic!("{lua:?}: {error}"));
        assert_eq!(with_warnings(&document), expected, "{lua:?}");
    }
}

/// After an intended change, run `cargo test --lib write_the_golden_files -- --ignored` and read the difference.
#[test]
#[ignore = "writes files that belong to the source"]
fn write_the_golden_files() {
    for (lua, document) in converted() {
        fs::write(lua, with_warnings(&document)).unwrap();
    }
}

/// Returns the pool of a text, as the hook loads it.
fn load(text: &str) -> Result<Pool, Report> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    fs::write(&file, text).unwrap();
    machine_file::load(&file, &LoadContext { home: Some(HOME.into()), ..LoadContext::default() })
}

fn machines(document: &Document) -> Vec<Machine> {
    let pool = load(&document.to_string()).unwrap_or_else(|report| panic!("{report}\n{document}"));
    pool.machines.into_iter().map(|entry| entry.machine).collect()
}

/// Returns a machine of Guix in our terms, without the text in Lua.
fn machine_of(fields: &Fields) -> Machine {
    let text = |field: &str| fields[field].as_str().unwrap();
    let texts = |field: &str| -> Vec<String> {
        fields[field].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let systems = match fields["systems"].is_array() {
        true => texts("systems"),
        false => vec![text("system").to_owned()],
    };
    let builds = fields["parallel-builds"].as_u64().unwrap() as u32;
    Machine {
        port: fields["port"].as_u64().unwrap() as u16,
        private_key: Some(text("private-key").into()),
        daemon_socket: text("daemon-socket").into(),
        compression: match text("compression") {
            "none" => Compression::None,
            "zlib" => Compression::Zlib,
            _ => Compression::Auto,
        },
        parallel_builds: builds.max(1),
        enabled: builds > 0,
        speed: fields["speed"].as_f64().unwrap(),
        features: texts("features"),
        overload_threshold: fields["overload-threshold"].as_f64(),
        ..Machine::new(text("name"), text("user"), systems, vec![HostKey::parse(text("host-key")).unwrap()])
    }
}

#[test]
fn guix_and_the_machine_file_mean_the_same_pool() {
    for file in golden("json").into_iter().filter(|file| !file.ends_with("same-host.json")) {
        let fields = guix_says(&file);
        let document = scheme::document(Path::new("x.scm"), fields.clone(), Some(Path::new(HOME))).unwrap();
        assert_eq!(machines(&document), fields.iter().map(machine_of).collect::<Vec<_>>(), "{file:?}");
    }
}

#[test]
fn nix_and_the_machine_file_mean_the_same_pool() {
    let (file, document) = converted().into_iter().find(|(file, _)| file.ends_with("manual.lua")).unwrap();
    let key = |name: &str| {
        let text = fs::read_to_string(&file).unwrap();
        let line = text.lines().find(|line| line.contains(name)).unwrap().split('"').nth(1).unwrap().to_owned();
        vec![HostKey::parse(&line).unwrap()]
    };
    let (ed25519, ecdsa) = (key("ssh-ed25519"), key("ecdsa-sha2-nistp256"));
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let linux = ["x86_64-linux"];
    let expected = [
        Machine {
            private_key: Some("/home/nix/.ssh/id_scratchy_auto".into()),
            parallel_builds: 8,
            features: texts(&["kvm"]),
            ..Machine::new("scratchy.example.org", "nix", texts(&["i686-linux", "x86_64-linux"]), ed25519.clone())
        },
        Machine {
            port: 2222,
            parallel_builds: 8,
            speed: 2.5,
            ..Machine::new("itchy.example.org", "root", texts(&linux), ed25519)
        },
        Machine {
            private_key: Some("/root/.ssh/id_poochie".into()),
            speed: 2.0,
            features: texts(&["kvm", "benchmark"]),
            ..Machine::new("poochie.example.org", "root", texts(&["i686-linux", "armhf-linux"]), ecdsa.clone())
        },
        Machine {
            compression: Compression::Zlib,
            enabled: false,
            features: texts(&["a", "b", "c"]),
            ..Machine::new("2001:db8::7", "nix", texts(&linux), ecdsa)
        },
    ];
    let pool = load(&document.to_string()).unwrap_or_else(|report| panic!("{report}"));
    assert!(pool.warnings.is_empty(), "{:?}", pool.warnings);
    assert_eq!(pool.machines.iter().map(|entry| entry.has_accepts).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(pool.machines.into_iter().map(|entry| entry.machine).collect::<Vec<_>>(), expected);
}

#[test]
fn slots_that_differ_for_one_host_are_an_error_that_was_announced() {
    let (_, document) = converted().into_iter().find(|(file, _)| file.ends_with("same-host.lua")).unwrap();
    assert_eq!(document.warnings().len(), 1);
    let report = load(&document.to_string()).unwrap_err().to_string();
    assert!(report.contains("parallel_builds: differs"), "{report}");
}

#[test]
fn a_file_is_recognised() {
    for (name, text, scheme) in [
        ("machines.scm", "", true),
        ("machines", "", false),
        ("machines", ";; comment\n\n  (list)", true),
        ("machines", "#!r6rs (x) !#\n#| a\n(b |# '()", true),
        ("machines", "`(,x)", true),
        ("machines", "# (comment)\nssh://b1 x86_64-linux", false),
        ("machines", "#| never ends (", false),
        ("machines", "b1", false),
        ("machines.lua", "(", true),
    ] {
        assert_eq!(is_scheme(Path::new(name), text.as_bytes()), scheme, "{name} {text:?}");
    }
}

/// Returns the status, result and messages of `run`, the messages without the directory.
fn run_on(name: &str, text: Option<&[u8]>) -> (ExitStatus, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    if let Some(text) = text {
        fs::write(&file, text).unwrap();
    }
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    let ended = run(&Args { file, output: None }, &mut out, &mut messages);
    let status = ended.unwrap_or_else(|error| error.print(&mut messages));
    let relative = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let prefix = format!("{}/", directory.path().display());
    (status, relative(out).replace(&prefix, ""), relative(messages).replace(&prefix, ""))
}

#[test]
fn unreadable_files_are_refused_with_the_reason() {
    let (status, out, messages) = run_on("machines", None);
    assert_eq!((status, out.as_str()), (ExitStatus::Failure, ""));
    assert_eq!(messages, "offload: error: cannot read 'machines': No such file or directory (os error 2)\n");

    let (status, out, messages) = run_on("machines", Some(&vec![b'\n'; MAX_FILE as usize + 1]));
    assert_eq!((status, out.as_str()), (ExitStatus::Failure, ""));
    assert_eq!(messages, "offload: error: 'machines' is longer than 1048576 bytes\n");

    let (status, out, messages) = run_on("machines.lua", Some(b"return {}"));
    assert_eq!((status, out.as_str()), (ExitStatus::Failure, ""));
    assert_eq!(messages, "offload: error: 'machines.lua' is in Lua already\n");
}

#[test]
fn errors_leave_no_result_and_warnings_do() {
    let (status, out, messages) = run_on("machines", Some(b"b1 x86_64-linux - many\nb2 - - 1 fast\n"));
    assert_eq!((status, out.as_str()), (ExitStatus::MachineFile, ""));
    assert_eq!(
        messages,
        "machines:1:19: error: expected a number of jobs, found 'many'\n\
         machines:2:10: error: expected a speed factor, found 'fast'\n"
    );

    let (status, out, messages) = run_on("machines", Some(b"b1 x86_64-linux\n"));
    assert_eq!(status, ExitStatus::MachineFile);
    assert!(out.contains("name = \"b1\","), "{out}");
    assert_eq!(
        messages,
        "machines:1: warning: it has no host key, which is required: run 'offload add --user root b1' to get it\n\
         offload: error: the machine file is written, but 'offload eval' refuses it: 1 error\n  \
         hint: correct what the messages above name, in it or in the file that was converted\n"
    );
}

/// The evaluator reports a missing required field, and nothing else.
#[test]
fn a_missing_host_key_is_the_only_error() {
    let document = nix::document(Path::new("machines"), b"root@b1 x86_64-linux").unwrap();
    let report = load(&document.to_string()).unwrap_err();
    assert_eq!(report.errors(), 1);
    assert!(report.to_string().contains("host_key: missing"), "{report}");
}

/// Evaluates Lua without our functions.
fn lua<T>(text: &str, check: impl FnOnce(mlua::Value) -> T) -> T {
    let lua = mlua::Lua::new();
    lua.load("function build_machine(t) return t end").exec().unwrap();
    check(lua.load(text).eval().unwrap_or_else(|error| panic!("{error}\n{text}")))
}

fn is_text(value: &mlua::Value, text: &str) -> bool {
    value.as_string().is_some_and(|value| *value.as_bytes() == *text.as_bytes())
}

/// Returns the number of machines that a text in Lua returns.
fn count(text: &str) -> usize {
    lua(text, |list| list.as_table().unwrap().raw_len())
}

/// One or two of several equal machines differ in a field, which has another value or is missing. Each machine in Lua has
/// the fields that it had before, and no field of the others.
#[test]
fn a_machine_keeps_its_fields_and_gets_none_of_the_others() {
    let text = |text: &str| Value::Text(text.to_owned());
    let list = |items: &[&str]| Value::List(items.iter().map(|&item| item.to_owned()).collect());
    let fields: [(&str, Value, Value); 6] = [
        ("user", text("one"), text("two")),
        ("port", Value::Whole(23), Value::Whole(24)),
        ("private_key", text("/one"), text("/two")),
        ("features", list(&["kvm"]), list(&["kvm", "big"])),
        ("speed", Value::Number(2.0), Value::Number(3.0)),
        ("enabled", Value::Boolean(false), Value::Boolean(true)),
    ];
    const MACHINES: usize = 5;
    let differences: Vec<(usize, usize, bool)> = (0..MACHINES)
        .flat_map(|machine| (0..fields.len()).flat_map(move |field| [true, false].map(|there| (machine, field, there))))
        .collect();
    let interpreter = mlua::Lua::new();
    let constructor = "function build_machine(given)
        local machine = {}
        for _, table in ipairs { given.inherit or {}, given } do
            for field, value in pairs(table) do machine[field] = value end
        end
        return machine
    end
    function text(value) return type(value) == 'table' and table.concat(value, ' ') or tostring(value) end";
    interpreter.load(constructor).exec().unwrap();
    let as_text: mlua::Function = interpreter.globals().get("text").unwrap();
    let mut with_base = 0;
    for one in &differences {
        for other in &differences {
            let value = |machine: usize, field: usize| -> Option<&Value> {
                let differs = [one, other].into_iter().find(|(its, of, _)| (*its, *of) == (machine, field));
                let (_, usual, unusual) = &fields[field];
                differs.map_or(Some(usual), |(_, _, is_there)| is_there.then_some(unusual))
            };
            let entry = |machine: usize| {
                let mut entry = Entry::default();
                entry.set("name", Value::Text(format!("m{machine}")));
                for (number, (field, ..)) in fields.iter().enumerate() {
                    if let Some(value) = value(machine, number) {
                        entry.set(field, value.clone());
                    }
                }
                entry
            };
            let document = Document::new("machines".to_owned(), &[], (0..MACHINES).map(entry).collect()).to_string();
            with_base += usize::from(document.contains("local base = "));
            let list: mlua::Table = interpreter.load(&document).eval().unwrap();
            for machine in 0..MACHINES {
                let found: mlua::Table = list.get(machine + 1).unwrap();
                for (number, (field, ..)) in fields.iter().enumerate() {
                    let expected = match value(machine, number) {
                        Some(Value::Text(text)) => text.clone(),
                        Some(Value::List(items)) => items.join(" "),
                        Some(Value::Whole(number)) => number.to_string(),
                        Some(Value::Number(number)) => format!("{number:?}"),
                        Some(Value::Boolean(boolean)) => boolean.to_string(),
                        Some(Value::OnlyFor(_) | Value::Missing) => unreachable!(),
                        None => "nil".to_owned(),
                    };
                    let found: String = as_text.call(found.get::<mlua::Value>(*field).unwrap()).unwrap();
                    assert_eq!(found, expected, "{field} of machine {machine}:\n{document}");
                }
            }
        }
    }
    assert!(with_base * 2 > differences.len().pow(2), "only {with_base} have a base");
}

fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "\"",
            "\\",
            "\n",
            "\r",
            "\0",
            "]]",
            "--[[",
            "--]]",
            "\\\"",
            "\\u{",
            "}",
            "\u{2028}",
            "\u{202e}",
            "…",
            "os.exit()",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_survives_its_quotes(text in hostile()) {
        let same = lua(&format!("return {}", quote(&text)), |value| is_text(&value, &text));
        prop_assert!(same);
    }

    #[test]
    fn no_text_ends_its_comment_early(text in hostile()) {
        let two = lua(&format!("return 1 -- {}\n + 1", plain(&text)), |value| value.as_integer());
        prop_assert_eq!(two, Some(2));
    }

    #[test]
    fn machines_survive_conversion_with_any_text(
        texts in prop::collection::vec(hostile(), 5),
        number in 1usize..6,
    ) {
        let entry = |index: usize| {
            let mut entry = Entry { file: Some(texts[0].clone()), line: Some(1), ..Entry::default() };
            entry.set("name", Value::Text(format!("{index}{}", texts[1])));
            entry.set("user", Value::Text(texts[2].clone()));
            entry.set("features", Value::List(texts.clone()));
            entry.set("private_key", Value::Text(texts[3].clone()));
            entry.set("accepts", Value::OnlyFor(texts.clone()));
            entry.set("host_key", Value::Missing);
            entry.warn(texts[4].clone());
            entry
        };
        let document = Document::new(texts[0].clone(), &[], (0..number).map(entry).collect());
        lua(&document.to_string(), |list| {
            let list = list.as_table().unwrap();
            assert_eq!(list.raw_len(), number);
            for index in 0..number {
                let machine: mlua::Table = list.get(index + 1).unwrap();
                let base: Option<mlua::Table> = machine.get("inherit").unwrap();
                let value = |field: &str| -> mlua::Value {
                    let own = machine.contains_key(field).unwrap();
                    if own { &machine } else { base.as_ref().unwrap() }.get(field).unwrap()
                };
                assert!(is_text(&value("name"), &format!("{index}{}", texts[1])));
                assert!(is_text(&value("user"), &texts[2]));
                assert!(is_text(&value("private_key"), &texts[3]));
                let features: Vec<mlua::Value> = value("features").as_table().unwrap().sequence_values().map(Result::unwrap).collect();
                assert!(features.len() == texts.len() && features.iter().zip(&texts).all(|(value, text)| is_text(value, text)));
            }
        });
        prop_assert_eq!(document.warnings().len(), number);
        prop_assert!(document.warnings().iter().all(|line| !line.contains('\n')));
    }
}

/// A named pipe is opened without waiting for a writer.
#[test]
fn a_pipe_without_a_writer_is_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("machines");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = convert(&pipe, || unreachable!()).unwrap_err();
    assert!(matches!(error, ConvertError::Nothing(_)), "{error}");
}
