//! The module `offload` and our parts of the standard library. The files check themselves with `assert`.

use super::*;
use std::process::Command;
use std::time::{Duration, Instant};

fn context(site: &Site) -> LoadContext {
    let directory = site.directory.path();
    LoadContext { home: Some(directory.join("home")), cache: Some(directory.join("cache")), ..LoadContext::default() }
}

/// Runs `text` as a machine file, with the variable `offload`.
fn run(site: &Site, text: &str) -> Result<Pool, Report> {
    site.write("machines.lua", &format!("local offload = require 'offload'\n{text}\nreturn {{}}"));
    load(&site.path(), &context(site))
}

#[track_caller]
fn holds(site: &Site, text: &str) {
    if let Err(report) = run(site, text) {
        panic!("{report}");
    }
}

#[test]
fn exec_runs_a_program_without_a_shell() {
    let site = Site::new("");
    holds(
        &site,
        r#"
        local output, message, status = offload.exec { "printf", "%s|", "a b", "$HOME", "c\0d" }
        assert(not output and message:find("nul byte", 1, true), message)
        local output, message, status = offload.exec { "printf", "%s|", "a b", "$HOME", "*" }
        assert(output == "a b|$HOME|*|" and message == nil and status == 0)
        local output, message, status = offload.exec { "sh", "-c", "echo out; echo one >&2; echo two >&2; exit 3" }
        assert(output == nil and message == "sh: exit status 3: two" and status == 3, message)
        local output, message = offload.exec { "sh", "-c", "yes early | head -n 40000 >&2; echo last >&2; exit 1" }
        assert(output == nil and message == "sh: exit status 1: last", message)
        local output, message, status = offload.exec { "sh", "-c", "kill -9 $$" }
        assert(output == nil and message == "sh: killed by signal 9" and status == nil, message)
        local output, message = offload.exec { "/nonexistent/program" }
        assert(output == nil and message == "/nonexistent/program: No such file or directory", message)
        local start = os.time()
        local output, message = offload.exec({ "sleep", "60" }, { timeout = 0.1 })
        assert(output == nil and message == "sleep: killed after 0.1 s" and os.time() - start < 10, message)
        local output, message = offload.exec({ "sh", "-c", "sleep 60 & echo started" }, { timeout = 0.1 })
        assert(output == nil and message == "sh: killed after 0.1 s", message)
        assert(offload.exec { "cat" } == "")
        local output = offload.exec { "sh", "-c", "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2" }
        assert(#output == 1000000)
        for _, wrong in ipairs { {}, { {} } } do assert(not pcall(offload.exec, wrong)) end
        assert(not pcall(offload.exec, { "true" }, { time = 1 }) and not pcall(offload.exec, { "true" }, { timeout = -1 }))
        "#,
    );
}

#[test]
fn files_and_variables_can_be_read() {
    let site = Site::new("");
    site.write("data.txt", "beside");
    site.write("home/data.txt", "at home");
    holds(
        &site,
        r#"
        assert(offload.read_file("data.txt") == "beside" and offload.read_file("~/data.txt") == "at home")
        assert(#offload.read_file("/proc/self/stat") > 10)
        local text, message = offload.read_file("nothing.txt")
        assert(text == nil and message:match("nothing.txt: No such file or directory$"), message)
        local text, message = offload.read_file("/dev/zero")
        assert(text == nil and message == "/dev/zero: it has more than 16 MiB", message)
        assert(offload.env("PATH") == os.getenv("PATH") and offload.env("NO_SUCH_THING") == nil)
        assert(offload.env("NO_SUCH_THING", "x") == "x" and offload.env("", "y") == "y" and offload.env("a=b") == nil)
        "#,
    );
}

#[test]
fn json_is_decoded_and_encoded() {
    let site = Site::new("");
    holds(
        &site,
        r#"
        local json = offload.json
        for _, text in ipairs { '{}', '[]', '[1,2.5,"x",true]', '{"a":{"b":[]},"c":null}', '"\\u00e9"', '12345678901234' } do
          local value = assert(json.decode(text))
          local again = json.encode(value)
          assert(again == text:gsub(',"c":null', ""):gsub("\\u00e9", "é"), again)
        end
        assert(json.decode("null") == nil and json.decode("[null]")[1] == nil)
        assert(json.encode({}) == "{}" and json.encode({ 1, 2 }) == "[1,2]" and json.encode(nil) == "null")
        assert(math.type(json.decode("3")) == "integer" and math.type(json.decode("3.0")) == "float")
        local value, message = json.decode('{"a": 1,}')
        assert(value == nil and message == "json.decode: trailing comma at line 1 column 9", message)
        local text, message = json.encode(print)
        assert(text == nil and message:match("^json.encode: "), message)
        local loop = {}
        loop.loop = loop
        local text, message = json.encode(loop)
        assert(text == nil and message:match("^json.encode: "), message)
        local deep = ("["):rep(1000) .. ("]"):rep(1000)
        local value, message = json.decode(deep)
        assert(value == nil and message:match("^json.decode: "), message)
        local value, message = json.decode(("["):rep(127) .. ("]"):rep(127))
        assert(value == nil and message:match("^json.decode: "), message)
        local list = {}
        for i = 1, 200 do list = { list } end
        local text, message = json.encode(list)
        assert(text == nil and message:match("^json.encode: "), message)
        local value, message = json.decode((" "):rep(9 * 2^20))
        assert(value == nil and message == "json.decode: the text has more than 8 MiB", message)
        "#,
    );
}

#[test]
fn cached_values_are_computed_once() {
    let site = Site::new("");
    holds(
        &site,
        r#"
        local calls = 0
        local function hosts() calls = calls + 1 return { "a", { port = 22 }, n = nil } end
        local first = offload.cached("hosts", 60, hosts)
        assert(first[1] == "a" and first[2].port == 22 and calls == 1)
        assert(offload.cached("hosts", 60, hosts)[1] == "a" and calls == 1)
        assert(offload.cached("others", 60, hosts)[1] == "a" and calls == 2)
        assert(offload.cached("hosts", 0, hosts) and calls == 3)
        -- A failure leaves the old value.
        assert(offload.cached("hosts", 0, function() error("no network") end)[1] == "a")
        assert(offload.cached("hosts", 0, function() return nil, "no network" end)[1] == "a")
        assert(offload.cached("hosts", 0, function() return print end)[1] == "a")
        local ok, message = pcall(offload.cached, "nothing", 60, function() return nil, "no network" end)
        assert(not ok and tostring(message):find("cached: 'nothing': the function returned nil: no network", 1, true))
        assert(not pcall(offload.cached, "nothing", 60, function() error("x") end))
        "#,
    );
    // Another process.
    holds(&site, "assert(offload.cached('hosts', 60, function() error('not called') end)[1] == 'a')");
    // A value of the future is none: the clock was wrong. Else it would be fresh until then.
    let of_cache =
        || std::fs::read_dir(site.directory.path().join("cache")).unwrap().map(|entry| entry.unwrap().path());
    for path in of_cache().filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
        let mut entry: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        entry["time"] = (entry["time"].as_f64().unwrap() + 86400.0).into();
        std::fs::write(&path, entry.to_string()).unwrap();
    }
    holds(&site, "assert(offload.cached('hosts', 60, function() return { 'now' } end)[1] == 'now')");
    // A damaged file counts as missing.
    for entry in std::fs::read_dir(site.directory.path().join("cache")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            std::fs::write(path, "{\"key\": \"hosts\", \"ti").unwrap();
        }
    }
    holds(&site, "assert(offload.cached('hosts', 60, function() return 'new' end) == 'new')");
    // Without a directory for cached values, the function is called each time.
    std::fs::remove_dir_all(site.directory.path().join("cache")).unwrap();
    std::fs::write(site.directory.path().join("cache"), "").unwrap();
    holds(&site, "for i = 1, 2 do assert(offload.cached('hosts', 60, function() return i end) == i) end");
}

/// One caller runs the function; the others get the old value, or wait for the new one.
#[test]
fn one_caller_computes_a_cached_value() {
    let site = Site::new(
        "local offload = require 'offload'\nlocal value = offload.cached('key', 2, function()\n  \
         offload.exec { 'sh', '-c', 'echo run >> ' .. offload.env('RUNS_FILE', LOG) .. '; sleep 0.3' }\n  return 'x'\nend)\n\
         assert(value == 'x')\nreturn {}",
    );
    let log = site.directory.path().join("runs");
    let text = std::fs::read_to_string(site.path()).unwrap();
    std::fs::write(site.path(), text.replace("LOG", &format!("'{}'", log.display()))).unwrap();
    let loads = |count: usize| {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..count).map(|_| scope.spawn(|| load(&site.path(), &context(&site)).map(drop))).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
        std::fs::read_to_string(&log).unwrap().lines().count()
    };
    assert_eq!(loads(4), 1, "nobody has a value: three wait for the one that gets it");
    std::thread::sleep(Duration::from_millis(2050));
    assert_eq!(loads(4), 2, "everybody has an old value: one gets a new one");
}

/// A function that never returns does not keep its lock.
#[test]
fn a_cancelled_caller_releases_the_lock_of_the_cache() {
    let site = Site::new("");
    let limits = Limits { evaluate: Duration::from_millis(200), ..Limits::default() };
    site.write("machines.lua", "require('offload').cached('key', 60, function() while true do end end) return {}");
    let report = load(&site.path(), &LoadContext { limits, ..context(&site) }).unwrap_err();
    assert!(report.to_string().contains("took longer"), "{report}");
    let start = Instant::now();
    holds(&site, "assert(offload.cached('key', 60, function() return 5 end) == 5)");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn known_hosts_returns_the_keys_of_a_host() {
    let site = Site::new("");
    let other = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMi4MKB2fAdkCX64VuFoR6yhRNALWhZNWPt/l2sld1/v7odJpmycLk6343DCHNz7ubQWAFqik9Jgty+en8eHJSk=";
    site.write(
        "home/.ssh/known_hosts",
        &format!(
            "# comment\nBerlin,10.0.0.1 {KEY} a comment\n[berlin]:2222 {other}\n*.example.org,!bad.example.org {KEY}\n\
             berlin {other}\n@revoked gone {KEY}\ngone {KEY}\n@cert-authority ca {KEY}\nberlin ssh-dss AAAA\ncut ssh-ed25519 AAAA\nbroken\n"
        ),
    );
    site.write("other", &format!("paris {KEY}\n"));
    // The output of ssh-keygen -H.
    let hashed = site.directory.path().join("hashed");
    std::fs::write(&hashed, format!("hashed.example.org {KEY}\n[hashed.example.org]:2222 {other}\n")).unwrap();
    let status = Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&hashed).output().unwrap().status;
    assert!(status.success() && std::fs::read_to_string(&hashed).unwrap().starts_with("|1|"));
    holds(
        &site,
        &format!(
            r#"
            local key, other = "{KEY}", "{other}"
            local function is(list, ...)
              local expected = {{ ... }}
              assert(#list == #expected, #list)
              for i, text in ipairs(expected) do assert(list[i] == text) end
            end
            is(offload.known_hosts("berlin"), key, other)
            is(offload.known_hosts("BERLIN:22"), key, other)
            is(offload.known_hosts("10.0.0.1"), key)
            is(offload.known_hosts("berlin:2222"), other)
            is(offload.known_hosts("[berlin]:2222"), other)
            is(offload.known_hosts("good.example.org"), key)
            is(offload.known_hosts("paris", "other"), key)
            is(offload.known_hosts("hashed.example.org", "hashed"), key)
            is(offload.known_hosts("hashed.example.org:2222", "hashed"), other)
            "#
        ),
    );
    let gone = " (home/.ssh/known_hosts: line 6: a key that is revoked)";
    let authority = " (home/.ssh/known_hosts: line 8: certificates are not supported)";
    let cut = " (home/.ssh/known_hosts: line 10: the ssh-ed25519 host key is cut short or damaged)";
    for (host, why) in
        [("bad.example.org", ""), ("gone", gone), ("ca", authority), ("cut", cut), ("broken", ""), ("example.org", "")]
    {
        let report = run(&site, &format!("offload.known_hosts('{host}', '~/.ssh/known_hosts')")).unwrap_err();
        let message = format!(
            "machines.lua:2: error: known_hosts: no host key of '{host}' in home/.ssh/known_hosts{why}\n  hint: "
        );
        assert!(site.relative(&report).starts_with(&message), "{report}");
    }
    // The field without a value is not reported a second time.
    let report = run(
        &site,
        "local m = build_machine {\n name = 'x', user = 'u', systems = { 'x86_64-linux' },\n host_key = offload.known_hosts('x', 'none'),\n}\nif true then return { m } end",
    )
    .unwrap_err();
    assert_eq!(
        site.relative(report),
        "machines.lua:4: error: known_hosts: no host key of 'x' in none (none: No such file or directory)\n  hint: \
         `ssh-keyscan x`, checked, gives lines for that file"
    );
}

#[test]
fn the_io_library_works_as_in_lua() {
    let site = Site::new("");
    site.write("lines.txt", "one\ntwo\n\nfour");
    site.write("numbers.txt", " 12 0x10 -1.5e2 nan");
    holds(
        &site,
        &r#"
        local name = DIR .. "lines.txt"
        local lines = {}
        for line in io.lines(name) do lines[#lines + 1] = line end
        assert(table.concat(lines, "|") == "one|two||four")
        for line in io.lines(name, "L") do assert(line == "one\n") break end
        local file = assert(io.open(name))
        assert(io.type(file) == "file" and tostring(file):match("^file") and io.type(5) == nil)
        assert(file:read("l", "L", 1, 0, "a") == "one")
        file:seek("set")
        local a, b, c, d, e, f = file:read("*l", "L", 1, 0, "a", "a")
        assert(a == "one" and b == "two\n" and c == "\n" and d == "" and e == "four" and f == "")
        assert(file:read() == nil and file:read(0) == nil and file:read(5) == nil and file:read("a") == "")
        assert(file:seek("end") == 13 and file:seek("cur", -4) == 9 and file:read("a") == "four")
        assert(file:close() == true and io.type(file) == "closed file" and not pcall(file.read, file))
        local file <close> = io.open(DIR .. "numbers.txt")
        local a, b, c, d = file:read("n", "n", "n", "n")
        assert(a == 12 and math.type(a) == "integer" and b == 16 and c == -150.0 and d == nil)
        local file = assert(io.open(DIR .. "new.txt", "w"))
        assert(file:write("a", 1, 2.5, "\n"):write("b") == file and file:flush() == file and file:setvbuf("no"))
        assert(not pcall(file.write, file, {}) and file:close())
        local file = assert(io.open(DIR .. "new.txt", "r+"))
        assert(file:read(1) == "a" and file:write("X"):seek("set") == 0 and file:read("a") == "aX2.5\nb" and file:close())
        local file = assert(io.open(DIR .. "new.txt", "a+b"))
        assert(file:write("!"):seek("set") == 0 and file:read("a") == "aX2.5\nb!" and file:close())
        local file, message, number = io.open(DIR .. "nothing")
        assert(file == nil and message == DIR .. "nothing: No such file or directory" and number == 2)
        assert(not pcall(io.open, name, "x") and not pcall(io.lines, DIR .. "nothing"))
        local file, message = io.open("/")
        local text, message = file:read()
        assert(text == nil and message == "Is a directory", message)
        local file = assert(io.tmpfile())
        assert(file:write("temporary"):seek("set") == 0 and file:read(4) == "temp")
        local pipe = assert(io.popen("echo one; echo two; exit 7"))
        assert(pipe:read() == "one" and pipe:read("a") == "two\n")
        local ok, how, code = pipe:close()
        assert(ok == nil and how == "exit" and code == 7)
        local pipe = assert(io.popen("cat > " .. DIR .. "piped.txt", "w"))
        assert(pipe:write(("x"):rep(200000)):close() == true)
        assert(#io.open(DIR .. "piped.txt"):read("a") == 200000)
        local ok, how, code = os.execute("kill -15 $$")
        assert(ok == nil and how == "signal" and code == 15)
        assert(os.execute() == true and os.execute("true") == true and select(3, os.execute("exit 9")) == 9)
        assert(io.output(DIR .. "out.txt") == io.output() and io.write("x") == io.output() and io.close())
        assert(io.input(name) == io.input() and io.read() == "one" and io.lines()() == "two")
        assert(require "io" == io and package.loaded.io == io)
        "#
        .replace("DIR", &format!("'{}/'", site.directory.path().display())),
    );
}

#[test]
fn modules_can_use_the_module_offload() {
    let site = Site::new("");
    site.write(
        "inventory.lua",
        "local offload = require 'offload'\nreturn offload.json.decode(offload.read_file('hosts.json'))",
    );
    site.write("hosts.json", "[{\"name\": \"a\", \"speed\": 2}, {\"name\": \"b\"}]");
    site.write(
        "machines.lua",
        "local list = {}\nfor _, host in ipairs(require 'inventory') do\n  list[#list + 1] = build_machine { inherit = host, $REST }\nend\nreturn list",
    );
    let pool = load(&site.path(), &context(&site)).unwrap();
    let speeds: Vec<f64> = pool.machines.iter().map(|entry| entry.machine.speed).collect();
    assert_eq!(speeds, [2.0, 1.0]);
}
