//! Programs that try to block, end or confuse the process, each during the evaluation and during a decision.

use super::decisions::request;
use super::*;
use std::process::Command;
use std::time::{Duration, Instant};

/// Each program, with a part of its message: an empty one if it does no harm, `*` if the message depends on the
/// machine's speed; `|` separates alternatives.
const PROGRAMS: [(&str, &str, &str); 32] = [
    ("loop", "while true do end", "took longer"),
    ("loop in a coroutine", "coroutine.wrap(function() while true do end end)()", "took longer"),
    (
        "loop in a coroutine in a coroutine",
        "coroutine.wrap(function() coroutine.wrap(function() while true do end end)() end)()",
        "took longer",
    ),
    ("loop of caught loops", "while true do pcall(function() while true do end end) end", "took longer"),
    ("loop in a handler", "xpcall(error, function() while true do end end)", "took longer"),
    ("pattern", "string.find(('a'):rep(40), ('a*'):rep(40) .. 'b')", "took longer"),
    ("loop in C", "table.move({}, 1, 2^62 | 0, 2)", "took longer"),
    ("loop in __gc", "for i = 1, 1e6 do setmetatable({}, { __gc = function() while true do end end }) end", "__gc"),
    (
        "loop in __close",
        "do local x <close> = setmetatable({}, { __close = function() while true do end end }) end",
        "took longer",
    ),
    ("loop in __tostring", "error(setmetatable({}, { __tostring = function() while true do end end }))", "took longer"),
    ("sleep by io.popen", "io.popen('sleep 30'):read('a')", "took longer"),
    ("sleep by closing io.popen", "io.popen('sleep 30'):close()", "took longer"),
    ("sleep by os.execute", "os.execute('sleep 30')", "took longer"),
    ("sleep by exec", "require('offload').exec({ 'sleep', '30' }, { timeout = 60 })", "took longer"),
    (
        "sleep of a child of exec",
        "require('offload').exec({ 'sh', '-c', 'sleep 30 & sleep 300' }, { timeout = 60 })",
        "took longer",
    ),
    ("program that prints for ever", "io.popen('yes'):read('a')", "*"),
    ("program that prints for ever, by exec", "assert(not require('offload').exec({ 'yes' }))", "*"),
    (
        "program that reads nothing",
        "local p = io.popen('sleep 30', 'w') while true do p:write(('x'):rep(1000)) end",
        "took longer",
    ),
    ("fifo", "os.execute('mkfifo ' .. FIFO) io.open(FIFO, 'r+'):read()", "took longer"),
    ("exit", "os.exit()", "os.exit"),
    ("exit with a status", "os.exit(true, true)", "os.exit"),
    ("memory by doubling", "local s = 'x' while true do s = s .. s end", "not enough memory|took longer"),
    ("memory by many tables", "local t = {} while true do t[#t + 1] = {} end", "not enough memory|took longer"),
    (
        "memory in a coroutine",
        "local t = {} coroutine.wrap(function() while true do t[#t + 1] = ('x'):rep(1000) .. #t end end)()",
        "not enough memory|took longer",
    ),
    ("memory by string.rep", "local s = ('x'):rep(2^40)", "not enough memory|too large"),
    ("memory caught", "for i = 1, 50 do pcall(string.rep, 'x', 2^40) end", ""),
    ("memory by reading", "io.open('/dev/zero'):read(2^40)", "not enough memory|took longer"),
    ("recursion", "local function f() return 1 + f() end f()", "not enough memory|took longer"),
    (
        "recursion in C",
        "local function f() return pcall(f) end f() local t = setmetatable({}, {}) \
      getmetatable(t).__index = t pcall(function() return t.x end) pcall(string.gsub, 'x', '.', function() error('x') end)",
        "",
    ),
    (
        "recursion of metamethods",
        "local t = setmetatable({}, { __index = function(t, k) return t[k .. 'x'] end }) return t.x",
        "stack overflow",
    ),
    ("undefined globals without end", "while true do local x = nothing_here end", "undefined global|took longer"),
    ("bytecode", "assert(load(string.dump(function() end)))", "binary chunk"),
];

/// A limit that no program here reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// Returns the limit for a program with this message: a short one if the limit ends the program.
fn limit(message: &str) -> Duration {
    let is_ended = message == "*" || message == "__gc" || message.contains("took longer");
    if is_ended { Duration::from_millis(500) } else { Duration::from_secs(20) }
}

/// The moment at which a machine file runs hostile code.
#[derive(Clone, Copy)]
enum Moment {
    Evaluation,
    Decision,
}

fn site(program: &str, moment: Moment, limit: Duration) -> Site {
    let body = format!("local FIFO = (...) and FIFO_NAME\n{program}\n");
    let site = match moment {
        Moment::Evaluation => {
            Site::new(&format!("FIFO_NAME = $FIFO\nlocal function run(...)\n{body}end\nrun(1)\nreturn {{}}"))
        }
        Moment::Decision => Site::new(&format!(
            "FIFO_NAME = $FIFO\nlocal function run(...)\n{body}end\nreturn {{ limits = {{ decide = {} }}, build_machine {{ name = \
             'a', $REST, speed = 3 }}, score = function() run(1) return 5 end }}",
            limit.as_secs_f64()
        )),
    };
    let text = std::fs::read_to_string(site.path()).unwrap();
    let fifo = format!("\"{}/fifo\"", site.directory.path().display());
    std::fs::write(site.path(), text.replace("$FIFO", &fifo)).unwrap();
    site
}

#[test]
fn a_decision_survives_hostile_code() {
    for (title, program, message) in PROGRAMS {
        let site = site(program, Moment::Decision, limit(message));
        let pool = site.load().unwrap_or_else(|report| panic!("{title}: {report}"));
        let start = Instant::now();
        let decision = pool.callbacks(request());
        let score = decision.score(Candidate::Machine(0), &LuaStatus::default());
        let warnings: Vec<String> = decision.take_warnings().iter().map(|one| site.relative(one)).collect();
        // In a debug build with concurrent tests, memory fills slowly.
        assert!(start.elapsed() < LONG, "{title}: {:?}", start.elapsed());
        println!("{title}: {:?} {score:?} {warnings:?}", start.elapsed());
        match message {
            "*" => {}
            "" => assert_eq!((score, warnings.len()), (Score::Value(5.0), 0), "{title}: {warnings:?}"),
            message => {
                assert_eq!(score, Score::Value(3.0), "{title}");
                assert_eq!(warnings.len(), 1, "{title}: {warnings:?}");
                assert!(message.split('|').any(|part| warnings[0].contains(part)), "{title}: {warnings:?}");
                assert!(warnings[0].starts_with("machines.lua:"), "{title}: {warnings:?}");
            }
        }
        if message == "*" || message.contains('|') {
            continue;
        }
        // The default applies to later calls, without a second warning.
        let start = Instant::now();
        let again = decision.score(Candidate::Machine(0), &LuaStatus::default());
        assert!(matches!(again, Score::Value(_)), "{title}");
        assert_eq!(decision.take_warnings(), [], "{title}");
        assert!(start.elapsed() < LONG, "{title}");
    }
}

#[test]
fn an_evaluation_survives_hostile_code() {
    for (title, program, message) in PROGRAMS {
        let site = site(program, Moment::Evaluation, limit(message));
        let limits = Limits { evaluate: limit(message), ..Limits::default() };
        let start = Instant::now();
        let result = load(&site.path(), &LoadContext { limits, ..LoadContext::default() });
        assert!(start.elapsed() < LONG, "{title}: {:?}", start.elapsed());
        match (message, result) {
            ("*", _) | ("", Ok(_)) => {}
            ("", Err(report)) => panic!("{title}: {report}"),
            (message, Ok(_)) => panic!("{title}: no {message}"),
            (message, Err(report)) => {
                assert_eq!(report.errors(), 1, "{title}: {report}");
                let report = site.relative(report);
                assert!(message.split('|').any(|part| report.contains(part)), "{title}: {report}");
                assert!(report.starts_with("machines.lua:4: error: "), "{title}: {report}");
                println!("{title}: {report}");
            }
        }
    }
}

/// All the calls of a decision share one deadline.
#[test]
fn all_calls_of_a_decision_share_its_time() {
    let site = Site::new(
        "local function busy() local e = os.time() + 1 while os.time() < e do end return true end\n\
         return { build_machine { name = 'a', $REST, speed = 3 }, accepts = busy, limits = { decide = 2.5 } }",
    );
    let pool = site.load().unwrap();
    let start = Instant::now();
    let decision = pool.callbacks(request());
    let verdicts: Vec<Acceptance> = (0..10).map(|_| decision.accepts(Candidate::Machine(0))).collect();
    // Some were called in time, one was late, and the others were not called any more.
    let refusal = |why: &str| Acceptance::No(format!("accepts {why}"));
    let late = verdicts.iter().position(|verdict| *verdict != Acceptance::Yes).unwrap();
    assert!((1..=3).contains(&late), "{verdicts:?}");
    assert_eq!(verdicts[late], refusal("took longer than 2.5 s (limits.decide)"));
    let before = refusal("was not called: an earlier call did not return in time");
    assert!(verdicts[late + 1..].iter().all(|verdict| *verdict == before), "{verdicts:?}");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let warnings = decision.take_warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        site.relative(&warnings[0]),
        "machines.lua:1: error: accepts: took longer than 2.5 s (limits.decide); the functions of this file are not \
         called any more"
    );
}

const OUTPUT: &str = r##"
    print("# accept") io.write("# accept\n") io.stdout:write("# accept\n") io.stderr:write("# accept\n")
    io.output():write("# accept\n") os.execute("echo '# accept'") os.execute("echo '# accept' >&2")
    assert(io.popen("cat >&2", "w"):write("# accept\n"):close()) io.popen("echo '# accept' >&2"):close()
    assert(io.popen("cat", "w"):write("# accept\n"):close())
    warn("@on") warn("# accept")
    assert(io.read() == nil and io.read("a") == "" and io.stdin:read() == nil and io.lines()() == nil)
    assert(not io.stdout:close() and not io.stderr:close() and not io.stdin:close() and not io.close())
    assert(io.type(io.stdout) == "file")
    print("# accept") io.write("# accept\n")
    assert(os.execute("cat") == true)
"##;

/// The output of user code goes to standard error, and its input is empty. It runs in a process of its own, whose
/// descriptors can be checked.
#[test]
fn user_code_prints_to_standard_error_and_reads_nothing() {
    if std::env::var_os("OFFLOAD_TEST_OUTPUT").is_some() {
        let site = site(OUTPUT, Moment::Decision, limit(""));
        let pool = site.load().unwrap();
        let decision = pool.callbacks(request());
        assert_eq!(decision.score(Candidate::Machine(0), &LuaStatus::default()), Score::Value(5.0));
        assert_eq!(decision.take_warnings(), []);
        return;
    }
    let mut input = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut input, b"input\n").unwrap();
    std::io::Seek::rewind(&mut input).unwrap();
    let test = "machine_file::tests::hostile::user_code_prints_to_standard_error_and_reads_nothing";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("OFFLOAD_TEST_OUTPUT", "1")
        .stdin(input)
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(!stdout.contains("# accept"), "{stdout}");
    assert!(stdout.contains("1 passed"), "{stdout}");
    assert!(stderr.matches("# accept").count() == 12, "{stderr}");
}

/// On cancellation a program is killed with its children.
#[test]
fn children_do_not_outlive_the_wait() {
    let site =
        site("os.execute('echo $$ > ' .. FIFO .. '; sleep 30 & wait')", Moment::Decision, Duration::from_secs(3));
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    decision.score(Candidate::Machine(0), &LuaStatus::default());
    let group = std::fs::read_to_string(site.directory.path().join("fifo")).unwrap();
    let group = rustix::process::Pid::from_raw(group.trim().parse().unwrap()).unwrap();
    let start = Instant::now();
    // The leader is a zombie until the test ends, so the group exists; but none of its processes runs.
    while running(group.as_raw_pid()) > 0 {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the number of running processes of a group.
fn running(group: i32) -> usize {
    let stats = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    let fields = stats.map(|stat| stat.rsplit(')').next().unwrap().trim().to_owned());
    fields
        .filter(|rest| {
            let words: Vec<&str> = rest.split(' ').collect();
            words[0] != "Z" && words[2] == group.to_string()
        })
        .count()
}

/// Opening a named pipe blocks until a writer opens it.
#[test]
fn a_pipe_instead_of_the_file_is_refused() {
    let site = Site::new("return {}");
    std::fs::remove_file(site.path()).unwrap();
    assert!(Command::new("mkfifo").arg(site.path()).status().unwrap().success());
    let report = load(&site.path(), &LoadContext::default()).unwrap_err();
    assert!(report.to_string().contains("found nothing"), "{report}");
}
