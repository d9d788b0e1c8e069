//! Pictures of the history: the timeline and the page, of real builds and of generated ones, in a real browser. They are checked
//! with axe for accessibility, and with a validator for the schema of the trace.

mod browser;
#[path = "../lab/mod.rs"]
mod lab;
mod rows;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use browser::{Browser, Server, View};
use lab::{Drv, Lab};
use offload::internals::state::history::{Outcome, Row};

/// The last day of the generated rows ends here: 1 December 2026.
const NOW: u64 = 1_796_083_200_000;

const DESKTOP: View = View { width: 1280, height: 900, scheme: "light", has_scripts: true };
const PHONE: View = View { width: 390, height: 844, scheme: "dark", has_scripts: false };

/// A head with a machine file and a history.
struct Head(tempfile::TempDir);

impl Head {
    fn new(rows: &[Row]) -> Head {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(top.path().join("machines.lua"), rows::machine_file()).unwrap();
        rows::record(rows, &top.path().join("state/offload"));
        Head(top)
    }

    /// Records that all machines but the last responded, as a hook does.
    fn contact_machines(&self) {
        let status = serde_json::json!({ "host_name": "b", "kernel": "Linux", "architecture": "x86_64", "load1": 0.5,
            "cores": 4, "free_disk": 1_u64 << 30, "clock": 1, "uptime": 1 });
        let record = serde_json::json!({ "status": status, "measured": 1 }).to_string();
        for name in ["fast.example.org", "b1.example.org", "b2.example.org"] {
            let host = self.0.path().join(format!("state/offload/{name}:22"));
            fs::create_dir_all(&host).unwrap();
            fs::write(host.join("health.json"), &record).unwrap();
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
        command.args(arguments).current_dir(self.0.path());
        command.env("GUIX_STATE_DIRECTORY", self.0.path().join("state"));
        command.env("OFFLOAD_MACHINE_FILE", self.0.path().join("machines.lua")).output().unwrap()
    }

    /// Runs a command that succeeds without a message, and returns the file that it has written.
    fn written(&self, arguments: &[&str], file: &str) -> Vec<u8> {
        let output = self.run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(self.0.path().join(file)).unwrap()
    }
}

/// Returns axe, which tests/setup has fetched.
fn axe() -> String {
    let lab = std::env::var_os("OFFLOAD_LAB").map_or(PathBuf::from("/var/cache/offload-lab"), PathBuf::from);
    let file = fs::read_dir(&lab).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let file =
        file.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"axe-core-")));
    let file = file.filter(|path| path.extension().is_some_and(|extension| extension == "js")).max();
    fs::read_to_string(file.expect("axe-core: run tests/setup")).unwrap()
}

/// The violations that axe finds, with the elements.
fn violations(browser: &mut Browser) -> Vec<String> {
    browser.evaluate(&format!("{}; 0", axe()));
    let run = "axe.run(document).then(r => r.violations.map(v => v.id + ': ' + v.help + ': ' +
        v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + n.failureSummary).join(' | ')).concat(r.passes.length > 20 ? [] : ['few rules']))";
    let found = browser.evaluate(run);
    found.as_array().unwrap().iter().map(|violation| violation.to_string()).collect()
}

/// A page is as wide as its window.
fn assert_fits(browser: &mut Browser, view: View) {
    let width = browser.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)");
    assert_eq!(width, view.width, "{view:?}");
}

/// Checks with a real validator that a trace has its schema.
fn assert_trace(file: &Path) {
    let schema = "tests/golden/trace.schema.json";
    let output = Command::new("/usr/bin/python3")
        .args(["-W", "ignore", "-m", "jsonschema", "-i"])
        .arg(file)
        .arg(schema)
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "python3-jsonschema, which tests/setup installs: {messages:.2000}");
}

/// Looks at a page in all ways: on a telephone and a large screen, light and dark, with scripts and without.
fn assert_good_page(page: Vec<u8>, browser: &mut Browser) -> Server {
    let server = Server::start("text/html", page);
    for view in
        [PHONE, View { scheme: "light", has_scripts: true, ..PHONE }, View { scheme: "dark", ..DESKTOP }, DESKTOP]
    {
        browser.open(&server.address, view);
        assert_fits(browser, view);
        assert_eq!(server.requests(), ["GET /page HTTP/1.1"], "{view:?}");
        assert_eq!(browser.problems(), [] as [String; 0], "{view:?}");
        let ground = browser.evaluate("getComputedStyle(document.body).backgroundColor");
        assert_eq!(ground, if view.scheme == "dark" { "rgb(16, 21, 28)" } else { "rgb(255, 255, 255)" });
        assert_eq!(browser.evaluate("document.querySelectorAll('.tools').length > 0"), view.has_scripts);
        if view.has_scripts {
            let found = violations(browser);
            assert!(found.is_empty(), "{view:?}: {}", found.join("\n"));
        }
    }
    server
}

#[test]
fn real_builds_are_on_the_page_and_in_the_timelines() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[machine.entry().set("parallel_builds", 1)]);
    // The second waits for the slot of the first.
    let first = Drv::new("first-1.0").script("sleep 2; echo >$out");
    let second = Drv::new("second-1.0").script("echo >$out");
    head.build(&[&first, &second]).succeeded();
    assert_eq!(head.build(&[&Drv::new("bad-1.0").script("exit 3")]).status, Some(100));
    head.client().max_jobs(1).build(&[&Drv::new("odd").features(&["odd"]).script("sleep 0.5; echo >$out")]).succeeded();
    for arguments in [
        &["report", "-o", "/tmp/page.html"][..],
        &["history", "--timeline", "/tmp/t.json"],
        &["history", "--timeline", "/tmp/t.svg", "--machine", "b1*"],
    ] {
        head.run("/opt/offload/offload", arguments);
    }
    assert_trace(&head.path("/tmp/t.json"));
    let trace: serde_json::Value = serde_json::from_slice(&head.read("/tmp/t.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let slices: Vec<&str> = events
        .iter()
        .filter(|event| event["ph"] == "X" && event["cat"] != "phase")
        .map(|event| event["name"].as_str().unwrap())
        .collect();
    assert_eq!(slices.len(), 3, "{slices:?}");
    let mut browser = Browser::start();
    let server = assert_good_page(head.read("/tmp/page.html"), &mut browser);
    let text = |browser: &mut Browser, selector: &str| {
        browser.evaluate(&format!("document.querySelector('{selector}').innerText")).as_str().unwrap().to_owned()
    };
    let waiting = text(&mut browser, "#waiting");
    assert!(waiting.contains("-1.0 to release slot 0"), "{waiting}");
    assert!(text(&mut browser, "#failures").contains("build-failed"));
    assert!(text(&mut browser, "#local").contains("it lacks the feature odd"));
    // A click on a build shows its times, and the filter hides rows.
    browser.click(".mark .fill-build");
    let detail = text(&mut browser, ".detail");
    assert!(detail.contains("on b1:") && detail.contains("· building "), "{detail}");
    let shown = "document.querySelectorAll('.filtered tbody tr:not([hidden])').length";
    assert_eq!(browser.evaluate(shown), 4);
    browser.click("#filter");
    browser.type_text("BAD failed");
    assert_eq!(browser.evaluate(shown), 1);
    browser.click(".tools button:nth-child(2)");
    assert_eq!(browser.evaluate("document.querySelector('.timeline .scroll > svg').getAttribute('width')"), "200%");
    assert!(browser.problems().is_empty() && server.requests().is_empty());

    let picture = Server::start("image/svg+xml", head.read("/tmp/t.svg"));
    browser.open(&picture.address, DESKTOP);
    assert_eq!(
        browser.evaluate("document.documentElement.tagName + document.querySelectorAll('.mark > title').length"),
        "svg3"
    );
    assert!(browser.problems().is_empty() && picture.is_alone());
}

fn is_campaign() -> bool {
    std::env::var_os("OFFLOAD_CAMPAIGN").is_some()
}

/// With `OFFLOAD_CAMPAIGN=1` there are 100,000 builds.
#[test]
fn many_builds_make_a_small_page_and_hostile_names_are_text() {
    // Ten times fewer builds have the same shape, and take seconds.
    let (count, interval) = if is_campaign() { (99_999, 316_000) } else { (9_999, 3_160_000) };
    let mut rows = rows::rows(count, NOW - 366 * 86_400_000, interval);
    let hostile =
        "</title></script><script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">'\"&";
    rows.push(Row {
        user: Some(hostile.to_owned()),
        machine: Some(hostile.to_owned()),
        reason: Some(hostile.to_owned()),
        name: hostile.to_owned(),
        building: 40_000_000,
        waiting: 5000,
        outcome: Outcome::BuildFailed,
        started: NOW - 50_000_000,
        ended: NOW,
        ..rows[0].clone()
    });
    let head = Head::new(&rows);
    let begin = Instant::now();
    let page = head.written(&["report", "--output", "page.html"], "page.html");
    eprintln!("page: {} bytes, {:?}", page.len(), begin.elapsed());
    assert!(page.len() < 5_000_000, "{}", page.len());
    let begin = Instant::now();
    let svg = head.written(&["history", "--timeline", "t.svg"], "t.svg");
    eprintln!("SVG: {} bytes, {:?}", svg.len(), begin.elapsed());
    assert!(svg.len() < 2_000_000, "{}", svg.len());
    if is_campaign() {
        let begin = Instant::now();
        let trace = head.written(&["history", "--timeline", "t.json"], "t.json");
        eprintln!("trace: {} bytes, {:?}", trace.len(), begin.elapsed());
    }
    head.written(&["history", "--timeline", "part.json", "--since", "2026-11-28", "--until=2026-11-30"], "part.json");
    assert_trace(&head.0.path().join("part.json"));

    let mut browser = Browser::start();
    let server = assert_good_page(page, &mut browser);
    assert_eq!(browser.evaluate("document.title"), "Builds of head.example.org");
    browser.click("#filter");
    browser.type_text("onerror");
    assert_eq!(browser.evaluate("document.querySelectorAll('.filtered tbody tr:not([hidden])').length"), 1);
    assert!(server.requests().is_empty());
    let picture = Server::start("image/svg+xml", svg);
    for scheme in ["light", "dark"] {
        browser.open(&picture.address, View { scheme, ..DESKTOP });
        let title = "document.querySelector('svg > title').textContent + document.querySelectorAll('script, parsererror').length";
        assert_eq!(browser.evaluate(title), "Builds of head.example.org0");
        assert!(browser.problems().is_empty() && picture.is_alone());
    }
}

#[test]
fn an_old_file_stays_until_a_new_one_is_complete() {
    let head = Head::new(&rows::rows(50, NOW, 100_000));
    let top = head.0.path();
    // Root reads the history as the owner of the state, who can write nothing else.
    let mut owned = vec![top.join("state"), top.join("state/offload")];
    owned.extend(fs::read_dir(&owned[1]).unwrap().map(|entry| entry.unwrap().path()));
    owned.iter().for_each(|path| chown(path, Some(1000), Some(1000)).unwrap());
    let page = head.written(&["report", "-o", "page.html", "--machine", "b1*"], "page.html");
    let text = String::from_utf8(page).unwrap();
    assert!(text.contains("Only attempts on &#39;b1*&#39;.") && text.contains("fast.example.org"), "{text}");
    assert!(!text.contains("machine-failed on old") && text.ends_with("</html>\n"));
    assert_eq!(fs::metadata(top.join("page.html")).unwrap().uid(), 0);
    assert_eq!(head.written(&["history", "--timeline", "t.json"], "t.json")[..2], *b"{\"");
    let printed = head.run(&["report", "--output=-"]);
    assert!(printed.status.success() && printed.stdout.ends_with(b"</html>\n"));

    // A machine file with an error leaves out what is known from it.
    fs::write(top.join("machines.lua"), "return { build_machine {} }").unwrap();
    let page = String::from_utf8(head.written(&["report", "-o", "page.html"], "page.html")).unwrap();
    assert!(page.contains("The machine file cannot be used, so that slots and states are unknown: "), "{page}");
    fs::remove_file(top.join("state/offload/history.db-wal")).unwrap();
    fs::write(top.join("state/offload/history.db"), "nonsense".repeat(1000)).unwrap();
    for (arguments, message, status) in [
        (&["report", "-o", "page.html"][..], "the history is damaged", 1),
        (&["report", "-o", "missing/page.html"], "cannot write 'missing/page.html': No such file or directory", 1),
        (&["history", "--timeline=t.png"], "expected a name that ends in .json or .svg", 2),
        (&["history", "--timeline=t.svg", "--json"], "cannot be used with", 2),
    ] {
        let output = head.run(arguments);
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(messages.contains(message) && output.status.code() == Some(status), "{arguments:?}: {messages}");
    }
    assert_eq!(fs::read_to_string(top.join("page.html")).unwrap(), page);
    let names: Vec<_> = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

/// Writes the pictures of the manual and of the README.
#[test]
#[ignore = "writes doc/manual/report.png and doc/manual/timeline.svg"]
fn write_the_pictures() {
    let head = Head::new(&rows::rows(1200, NOW - 30 * 3_600_000, 90_000));
    head.contact_machines();
    let page = head.written(&["report", "-o", "page.html"], "page.html");
    let target = std::env::var_os("OFFLOAD_PICTURES").map_or(PathBuf::from("doc/manual"), PathBuf::from);
    let svg = head
        .written(&["history", "--timeline", "t.svg", "--since=2026-11-30T07:00", "--until=2026-11-30T15:00"], "t.svg");
    fs::write(target.join("timeline.svg"), svg).unwrap();
    let server = Server::start("text/html", page.clone());
    let mut browser = Browser::start();
    browser.open(&server.address, DESKTOP);
    fs::write(target.join("report.png"), browser.screenshot(1280, 1300)).unwrap();
    // To look at.
    if std::env::var_os("OFFLOAD_PICTURES").is_some() {
        fs::write(target.join("page.html"), page).unwrap();
        for (name, view) in [
            ("light", DESKTOP),
            ("dark", View { scheme: "dark", ..DESKTOP }),
            ("narrow-light", View { scheme: "light", ..PHONE }),
            ("narrow-dark", View { has_scripts: true, ..PHONE }),
        ] {
            browser.open(&server.address, view);
            let height = browser.evaluate("document.documentElement.scrollHeight").as_u64().unwrap() as u32;
            fs::write(target.join(format!("{name}.png")), browser.screenshot(view.width, height)).unwrap();
        }
    }
}
