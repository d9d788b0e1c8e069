//! Valid machine files.

use super::*;
use crate::machine::{Compression, Machine};
use std::time::{Duration, Instant};

#[test]
fn a_missing_file_has_no_machines() {
    let pool = load(std::path::Path::new("/nonexistent/machines.lua"), &LoadContext::default()).unwrap();
    assert!(pool.machines.is_empty() && pool.local.is_none() && pool.warnings.is_empty());
    assert_eq!(pool.settings, Settings::default());
}

#[test]
fn an_unreadable_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let report = load(directory.path(), &LoadContext::default()).unwrap_err();
    assert_eq!(report.diagnostics[0].message, "cannot be read: Is a directory (os error 21)");
}

#[test]
fn every_field_is_read_and_printed_as_json() {
    let site = Site::new(
        r#"#!/usr/bin/env offload
        local bits = 2^20
        return {
          build_machine {
            name = "berlin.example.org", port = 2222, user = "me", systems = { "x86_64-linux", "i686-linux" },
            host_key = { "$KEY berlin", "$KEY" }, private_key = "~/.ssh/id", daemon_socket = "/run/guix",
            compression = "zlib@openssh.com,zlib", parallel_builds = 4.0, speed = 2, features = { "kvm", "big-parallel" },
            overload_threshold = false, minimum_disk_space = 10 * bits, connect_timeout = 2.5, stall_timeout = 30,
            keepalive_interval = 5, max_transfers = 8, enabled = false, proxy_command = { "ssh", "-W", "%h:%p", "bastion" },
            substitutes = "never", substitute_urls = { "https://one.example.org", "http://two" }, substitute_timeout = 7,
            keep_connection = false,
            tags = { rack = "B3", cost = 0.4, spare = false, owners = { "ada", "brian" }, site = { room = 7, notes = {} } },
            on_demand = { start = { "virsh", "start", "b" }, stop = function() end, boot_timeout = 60, stop_timeout = 30,
              idle = 5, min_up = 3000, start_after = 0 },
            accepts = function() end, score = print,
          },
          build_machine { name = "paris", $REST },
          local_machine { name = "head", speed = 0.5, systems = { "x86_64-linux" }, features = { "kvm" },
            enabled = false, overload_threshold = 2, tags = { rack = "A1" }, accepts = print, score = print },
          accepts = function() return true end, score = function() return 1 end,
          when_busy = "local", when_unreachable = function() end, max_attempts = 5, wait_for_slot = 60, wait_for_machine = 90,
          on_demand = { max_running = 3, max_starting = 2, max_hours = 7.5 }, on_event = print,
          shared = { url = "postgresql://me@db/farm?sslmode=require", name = "farm", when_down = "local", password_file = "~/pw" },
          limits = { evaluate = 2, decide = 0.25, on_event = 3, memory = 32 * 2^20 },
        }"#,
    );
    let pool = site.load().unwrap();
    let [warning] = &pool.warnings[..] else { panic!("{:?}", pool.warnings) };
    assert!(warning.message.contains("'berlin.example.org' is on demand"), "{}", warning.message);
    let [berlin, paris] = &pool.machines[..] else { panic!("two machines") };
    let expected = serde_json::json!({
        "name": "berlin.example.org", "port": 2222, "user": "me", "systems": ["x86_64-linux", "i686-linux"],
        "host_key": [KEY, KEY], "private_key": "/home/me/.ssh/id", "daemon_socket": "/run/guix",
        "compression": "zlib", "parallel_builds": 4, "speed": 2.0, "features": ["kvm", "big-parallel"],
        "overload_threshold": null, "minimum_disk_space": 10 << 20, "connect_timeout": 2.5, "stall_timeout": 30,
        "keepalive_interval": 5, "keep_connection": null, "max_transfers": 8, "enabled": false,
        "proxy_command": ["ssh", "-W", "%h:%p", "bastion"], "accepts": true, "score": true,
        "substitutes": "never", "substitute_urls": ["https://one.example.org", "http://two"], "substitute_timeout": 7,
        "on_demand": {
            "start": ["virsh", "start", "b"], "stop": "function", "boot_timeout": 60, "stop_timeout": 30, "idle": 5,
            "min_up": 3000, "start_after": 0
        },
        "tags": {
            "rack": "B3", "cost": 0.4, "spare": false, "owners": ["ada", "brian"], "site": { "room": 7, "notes": {} }
        },
    });
    assert_eq!(json_with_every_field(BUILD_MACHINE_FIELDS, berlin), expected);
    json_with_every_field(ON_DEMAND_FIELDS, berlin.machine.on_demand.as_ref().unwrap());
    let expected = serde_json::json!({
        "name": "head", "systems": ["x86_64-linux"], "speed": 0.5, "features": ["kvm"], "overload_threshold": 2.0,
        "enabled": false, "tags": { "rack": "A1" }, "accepts": true, "score": true,
    });
    assert_eq!(json_with_every_field(LOCAL_MACHINE_FIELDS, pool.local.as_ref().unwrap()), expected);
    let limits = serde_json::json!({ "evaluate": 2, "decide": 0.25, "on_event": 3, "memory": 32 << 20 });
    assert_eq!(json_with_every_field(LIMITS_FIELDS, &pool.settings.limits), limits);
    let expected = serde_json::json!({
        "accepts": true, "score": true, "when_busy": "local", "when_unreachable": "function", "max_attempts": 5,
        "wait_for_slot": 60, "wait_for_machine": 90, "on_event": true, "limits": limits,
        "on_demand": { "max_running": 3, "max_starting": 2, "max_hours": 7.5 },
        "shared": {
            "url": "postgresql://me@db/farm?sslmode=require", "name": "farm", "when_down": "local",
            "password_file": "/home/me/pw"
        },
    });
    json_with_every_field(SHARED_FIELDS, pool.settings.shared.as_ref().unwrap());
    json_with_every_field(ON_DEMAND_LIMITS_FIELDS, &pool.settings.on_demand);
    assert_eq!(json_with_every_field(POOL_FIELDS, &pool.settings), expected);

    assert_eq!(berlin.line, Some(4));
    let key = crate::machine::HostKey::parse(KEY).unwrap();
    let expected = Machine::new("paris", "offload", vec!["x86_64-linux".to_owned()], vec![key]);
    assert_eq!(
        paris,
        &Entry { machine: expected, line: Some(17), has_accepts: false, has_score: false, scores_soonest: false }
    );
}

/// Returns the values in JSON, each of which must differ from its default: all fields are given.
fn json_with_every_field<T: Default>(schema: &'static [Field<T>], value: &T) -> serde_json::Value {
    let [json, defaults] =
        [value, &T::default()].map(|value| serde_json::to_value(FieldValues(schema, value)).unwrap());
    for (name, value) in json.as_object().unwrap() {
        assert_ne!(*value, defaults[name], "{name}");
    }
    json
}

#[test]
fn every_spelling_of_compression_is_read() {
    for (text, compression) in [
        ("auto", Compression::Auto),
        ("zlib", Compression::Zlib),
        ("none", Compression::None),
        ("zlib@openssh.com,zlib", Compression::Zlib),
        ("zlib@openssh.com", Compression::Zlib),
        ("none, zlib", Compression::None),
        ("yes", Compression::Zlib),
        ("no", Compression::None),
    ] {
        let site = Site::new(&format!("return {{ build_machine {{ name = 'a', $REST, compression = '{text}' }} }}"));
        assert_eq!(site.load().unwrap().machines[0].machine.compression, compression, "{text}");
    }
}

#[test]
fn a_connection_persists_for_a_limited_time() {
    for (text, kept) in [
        ("false", None),
        ("0.25", Some(Duration::from_millis(250))),
        ("90", Some(Duration::from_secs(90))),
        ("10 * 60", Some(Duration::from_secs(600))),
        ("nil", Some(Duration::from_secs(30))),
    ] {
        let site = Site::new(&format!("return {{ build_machine {{ name = 'a', $REST, keep_connection = {text} }} }}"));
        assert_eq!(site.load().unwrap().machines[0].machine.keep_connection, kept, "{text}");
    }
}

/// The files check themselves with `assert`.
#[test]
fn valid_files_load() {
    for (title, text) in [
        ("nothing", "return {}"),
        ("comment only", "-- nothing\nreturn {}"),
        (
            "a constructed machine is a plain table with its defaults",
            r#"local given = { name = "berlin", $REST }
            local one = build_machine(given)
            assert(tostring(one) == "build_machine<berlin>")
            assert(one ~= given and given.speed == nil and one.speed == 1.0 and one.port == 22)
            assert(#one.features == 0 and one.overload_threshold == 0.8 and one.enabled == true)
            assert(one.keep_connection == 30 and next(one.tags) == nil)
            local copy, fields = {}, 0
            for field, value in pairs(one) do copy[field] = value; fields = fields + 1 end
            assert(fields >= 15 and rawget(one, "name") == "berlin")
            copy.name = "paris"
            local two = build_machine(copy)
            assert(tostring(two) == "build_machine<paris>" and two.user == one.user)
            local three = build_machine { inherit = { tags = { rack = "B3" } }, name = "oslo", $REST }
            assert(three.tags.rack == "B3" and next(build_machine(given).tags) == nil)
            assert(tostring(local_machine {}) == "local_machine<localhost>")
            return { one, two, build_machine { inherit = two, name = "rome", speed = 3 } }"#,
        ),
        (
            "the module has the constructors too",
            r#"local offload = require "offload"
            assert(offload.build_machine == build_machine and offload.local_machine == local_machine)
            local machine = offload.build_machine
            return { machine { name = "a", $REST } }"#,
        ),
        (
            "system and systems override each other",
            r#"local old = build_machine { name = "a", user = "u", host_key = "$KEY", system = "i686-linux" }
            assert(old.systems[1] == "i686-linux")
            local new = build_machine { inherit = old, name = "b", systems = { "x86_64-linux" } }
            assert(new.system == nil and new.systems[1] == "x86_64-linux")
            local again = build_machine { inherit = new, name = "c", system = "armhf-linux" }
            assert(again.systems[1] == "armhf-linux" and #again.systems == 1)
            return { new }"#,
        ),
        (
            "false is a value like others in inherit",
            r#"local base = { enabled = false, overload_threshold = false, keep_connection = false }
            local one = build_machine { inherit = base, name = "a", $REST }
            assert(one.enabled == false and one.overload_threshold == false and one.keep_connection == false)
            local two = build_machine { inherit = one, name = "b", enabled = true }
            assert(two.enabled == true and two.user == "offload")
            return { one, two }"#,
        ),
        (
            "a machine's own false is not overridden by inherit",
            r#"local base = { enabled = true, overload_threshold = 0.5, keep_connection = 60 }
            for _, parent in ipairs { base, build_machine { inherit = base, name = "base", $REST } } do
                local one = build_machine { inherit = parent, name = "a", enabled = false, overload_threshold = false,
                    keep_connection = false, $REST }
                assert(one.enabled == false and one.overload_threshold == false)
                assert(one.keep_connection == false)
            end
            return {}"#,
        ),
        (
            "a machine's own value is not overridden by inherit, and each of the others is taken from it",
            r#"local base = { user = "base", port = 23, speed = 3, tags = { rack = "B3" }, features = { "kvm" } }
            local own = { user = "own", port = 24, speed = 4, tags = { rack = "A1" }, features = { "big" } }
            for field in pairs(own) do
                local machine = build_machine { inherit = base, name = "a", [field] = own[field] }
                for other in pairs(base) do
                    assert(machine[other] == (other == field and own or base)[other], field .. " " .. other)
                end
            end
            return {}"#,
        ),
        (
            "globals of one's own, and asking for one that may be missing",
            r#"hosts = { "a", "b" }
            function machine(name) return build_machine { name = name, $REST } end
            local list = {}
            for _, name in ipairs(hosts) do list[#list + 1] = machine(name) end
            assert(rawget(_G, "nothing") == nil)
            return list"#,
        ),
        (
            "errors that are caught are no errors",
            r#"local ok, message = pcall(error, "x")
            assert(not ok and message == "x")
            assert(not pcall(os.exit, 0) and not pcall(setmetatable, {}, { __gc = true }))
            assert(setmetatable({}, { __index = { x = 1 } }).x == 1)
            local ok, message = pcall(require, "nothing")
            assert(not ok and message:find("module 'nothing' not found", 1, true), message)
            local chunk, message = load("return 1 +")
            assert(chunk == nil and message)
            assert(load("return ...", "name", "t", {})(7) == 7)
            assert(load(string.dump(function() end)) == nil)
            local parts = { "return", " 5" }
            assert(load(function() return table.remove(parts, 1) end)() == 5)
            assert(loadfile("/nonexistent") == nil)
            return {}"#,
        ),
    ] {
        if let Err(report) = Site::new(text).load() {
            panic!("{title}: {report}");
        }
    }
}

#[test]
fn modules_beside_the_file_can_be_required() {
    let site = Site::new(
        r#"local sites = require "sites"
        assert(require "sites" == sites and package.loaded.sites == sites)
        assert(require "sites.berlin" == true)
        assert(dofile(sites.directory .. "data.lua") == 7)
        return { sites.machine("a") }"#,
    );
    site.write("sites/init.lua", "local name, file = ...\nassert(name == 'sites')\nlocal M = { directory = file:match('.*/') .. '../' }\nfunction M.machine(name)\n  return build_machine { name = name, $REST }\nend\nreturn M\n");
    site.write("sites/berlin.lua", "\u{feff}local x = 1");
    site.write("data.lua", "return 7");
    let pool = site.load().unwrap();
    assert_eq!(pool.machines[0].line, Some(5));
}

#[test]
fn limits_are_known_before_the_file_is_evaluated() {
    let wait = "while os.clock() < limit do end";
    let site = Site::new(&format!(
        "local limit = os.clock() + 20\n{wait}\nreturn {{ limits = {{ evaluate = 1 / 4, memory = 2^21 }} }}"
    ));
    let start = Instant::now();
    let report = site.load().unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(
        site.relative(&report),
        "machines.lua:2: error: evaluation stopped: it took longer than 0.25 s (limits.evaluate)"
    );
    let site = Site::new("local text = ('x'):rep(2^22)\nreturn { limits = { memory = 2^21 } }");
    let report = site.load().unwrap_err();
    assert_eq!(report.diagnostics[0].message, "not enough memory: limits.memory is 2 MiB");
}

#[test]
fn an_embedding_program_adds_functions() {
    let site = Site::new("return { build_machine { name = inventory(), $REST } }");
    let context = LoadContext {
        extend: Some(std::sync::Arc::new(|lua| {
            let inventory = lua.create_function(|_, ()| Ok("berlin"))?;
            lua.globals().set("inventory", inventory)
        })),
        ..LoadContext::default()
    };
    let pool = load(&site.path(), &context).unwrap();
    assert_eq!(pool.machines[0].machine.name, "berlin");
}

#[test]
fn a_hundred_machines_load() {
    let mut text = String::from("return {\n");
    for number in 0..100 {
        text += &format!(
            "  build_machine {{\n    name = \"node{number}.example.org\", port = 22, $REST,\n    private_key = \"~/key\",\n    \
             parallel_builds = 4, speed = {number} + 0.5, features = {{ \"kvm\" }},\n  }},\n"
        );
    }
    let site = Site::new(&(text + "}"));
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let pool = site.load().unwrap();
        times.push(start.elapsed());
        assert_eq!(pool.machines.len(), 100);
    }
    times.sort();
    println!("100 machines: median {:?}, best {:?}", times[10], times[0]);
}
