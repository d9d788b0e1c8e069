//! The functions of a machine file: when they are called, the meaning of their results, and the effects of their
//! errors.

use super::*;
use crate::hook;
use crate::store::derivation::Derivation;
use crate::store::path::{StoreDir, StorePath};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) fn request() -> LuaRequest {
    let derivation = b"/gnu/store/9jd3ddi4i7ymp3l9vs7vhfx7xl9wvhxz-linux-libre-6.12.3.drv";
    let request = hook::Request {
        wants_local: true,
        system: "x86_64-linux".into(),
        derivation: StorePath::parse(&StoreDir::default(), derivation).unwrap(),
        features: vec!["kvm".into()],
    };
    let arguments = ["x86_64-linux", "3600", "0", "86400"].map(str::to_owned);
    LuaRequest::new(&request, &hook::HookArguments::parse(&arguments).unwrap())
}

/// Returns a pool of the machines `a` (speed 1) and `b` (speed 4), with `fields` for the pool and `own` for `b`.
fn site(fields: &str, own: &str) -> Site {
    Site::new(&format!(
        "local offload = require \"offload\"\nreturn {{\n  build_machine {{ name = \"a\", $REST }},\n  \
         build_machine {{ name = \"b\", $REST, speed = 4, {own} }},\n  local_machine {{ speed = 0.5 }},\n{fields} }}"
    ))
}

const A: Candidate = Candidate::Machine(0);
const B: Candidate = Candidate::Machine(1);

fn warnings(site: &Site, decision: &RequestCallbacks) -> Vec<String> {
    decision.take_warnings().iter().map(|warning| site.relative(warning)).collect()
}

#[test]
fn defaults_apply_without_functions() {
    let site = site("", "");
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    let load = |load| LuaStatus { load: Some(load), ..LuaStatus::default() };
    assert_eq!(decision.accepts(A), Acceptance::Yes);
    assert_eq!(decision.score(B, &LuaStatus::default()), Score::Value(4.0));
    assert_eq!(decision.score(B, &load(1.0)), Score::Value(2.0));
    assert_eq!(decision.score(Candidate::Local, &load(0.0)), Score::Value(0.5));
    assert!(matches!(decision.score(Candidate::Machine(2), &load(0.0)), Score::No(_)));
    assert_eq!((decision.when_busy(), decision.when_unreachable()), (Fallback::Wait, Fallback::Local));
    assert_eq!(warnings(&site, &decision), [""; 0]);
}

#[test]
fn pool_and_machine_must_both_accept() {
    let site = site(
        "accepts = function(request, machine) return machine.name ~= 'a', 'not a' end",
        "accepts = function(request, machine) return request.name == 'hello', 'only hello' end",
    );
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    assert_eq!(decision.accepts(A), Acceptance::No("not a".into()));
    assert_eq!(decision.accepts(B), Acceptance::No("only hello".into()));
    assert_eq!(decision.accepts(Candidate::Local), Acceptance::Yes);
    let hello = pool.callbacks(LuaRequest { name: "hello".into(), ..request() });
    assert_eq!(hello.accepts(B), Acceptance::Yes);
    assert_eq!(warnings(&site, &decision), [""; 0]);
}

/// Each may refuse what the other accepts, and the reason is that of the one who refuses.
#[test]
fn neither_the_pool_nor_the_machine_overrules_the_other() {
    for (pool, own, expected) in [
        ("return true", "return true", Acceptance::Yes),
        ("return false, 'pool'", "return true", Acceptance::No("pool".into())),
        ("return true", "return false, 'own'", Acceptance::No("own".into())),
        ("return false, 'pool'", "return false, 'own'", Acceptance::No("pool".into())),
        ("error('broken')", "return true", Acceptance::No("accepts failed: broken".into())),
        ("return true", "error('broken')", Acceptance::No("accepts failed: broken".into())),
    ] {
        let function = |body: &str| format!("accepts = function() {body} end");
        let site = site(&function(pool), &function(own));
        let loaded = site.load().unwrap();
        let accepts = loaded.callbacks(request()).accepts(B);
        assert_eq!(accepts, expected, "pool: {pool}; machine: {own}");
        // The head has no function of its own here: the pool's counts.
        let local = loaded.callbacks(request()).accepts(Candidate::Local);
        assert_eq!(local == Acceptance::Yes, pool == "return true", "{pool}");
    }
}

/// Whatever either of them gives, that of the machine counts; the pool's where it has none.
#[test]
fn the_score_of_a_machine_replaces_the_pools() {
    for (pool, own, expected) in [
        ("return false, 'pool'", "return 7", Score::Value(7.0)),
        ("return 7", "return false, 'own'", Score::No("own".into())),
        ("return 100", "return 1", Score::Value(1.0)),
        ("error('broken')", "return 7", Score::Value(7.0)),
        ("return 7", "error('broken')", Score::Value(4.0)),
    ] {
        let function = |body: &str| format!("score = function() {body} end");
        let site = site(&function(pool), &function(own));
        let loaded = site.load().unwrap();
        let decision = loaded.callbacks(request());
        assert_eq!(decision.score(B, &LuaStatus::default()), expected, "pool: {pool}; machine: {own}");
        let of_pool = decision.score(A, &LuaStatus::default());
        let alone = match pool {
            "return false, 'pool'" => Score::No("pool".into()),
            "error('broken')" => Score::Value(1.0),
            number => Score::Value(number.trim_start_matches("return ").parse().unwrap()),
        };
        assert_eq!(of_pool, alone, "{pool}");
    }
}

#[test]
fn the_score_of_the_machine_wins() {
    let site = site(
        "score = function(request, machine, status) return machine.speed * 10 / (1 + (status.load or 0)) end",
        "score = function(request, machine, status) if (status.running or 0) > 2 then return false, 'full' end return 7 end",
    );
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    assert_eq!(decision.score(A, &LuaStatus { load: Some(3.0), ..LuaStatus::default() }), Score::Value(2.5));
    assert_eq!(decision.score(B, &LuaStatus::default()), Score::Value(7.0));
    assert_eq!(decision.score(B, &LuaStatus { running: Some(3), ..LuaStatus::default() }), Score::No("full".into()));
    assert_eq!(decision.score(Candidate::Local, &LuaStatus::default()), Score::Value(5.0));
}

#[test]
fn functions_of_the_head_are_called() {
    let site = Site::new(
        "return { local_machine { accepts = function(r, m) return m.name ~= 'localhost', m.name end, score = function() return 3 end } }",
    );
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    assert_eq!(decision.accepts(Candidate::Local), Acceptance::No("localhost".into()));
    assert_eq!(decision.score(Candidate::Local, &LuaStatus::default()), Score::Value(3.0));
}

#[test]
fn functions_decide_when_busy_and_when_unreachable() {
    let site = site(
        "when_busy = function(request) return request.wants_local and 'local' or 'wait' end, when_unreachable = function() return 'never' end",
        "",
    );
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    assert_eq!((decision.when_busy(), decision.when_unreachable()), (Fallback::Local, Fallback::Local));
    assert_eq!(
        warnings(&site, &decision),
        [
            "machines.lua:6: error: when_unreachable: expected \"wait\" or \"local\", found \"never\"; the default applies"
        ]
    );
}

#[test]
fn functions_get_their_arguments() {
    let site = site(
        r#"accepts = function(request, machine)
          assert(request.system == "x86_64-linux" and request.features[1] == "kvm" and #request.features == 1)
          assert(request.name == "linux-libre-6.12.3" and request.derivation:match("%.drv$"))
          assert(request.wants_local == true and request.max_silent_time == 3600 and request.build_timeout == 86400)
          assert(tostring(machine) == "build_machine<a>" and machine.parallel_builds == 1)
          local fields = {}
          for field in pairs(request) do fields[#fields + 1] = field end
          assert(#fields == 11)
          assert(request.user == "alice" and request.attempt == 3 and request.waiting == 40)
          assert(#request.tried == 2 and request.tried[1] == "b" and request.tried[2] == "a")
          request.note = "kept"
          return true
        end,
        score = function(request, machine, status)
          assert(request.note == "kept")
          assert(status.load == 0.5 and status.loadavg[3] == 3 and status.cores == 8 and status.pressure == 1.5)
          assert(status.free_memory == 2^30 and status.free_disk == 2^31 and status.free_inodes == 9)
          assert(status.running == 1 and status.clock_skew == -2 and status.age == 7 and status.reachable == true)
          assert(status.power == "starting")
          return 1
        end"#,
        "",
    );
    let pool = site.load().unwrap();
    let counts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&counts);
    let queue = QueueCounter(Arc::new(move || 40 + counter.fetch_add(1, Ordering::SeqCst)));
    let tried = ["b", "a"].map(str::to_owned).to_vec();
    let decision = pool.callbacks(LuaRequest { user: Some("alice".into()), tried, queue: Some(queue), ..request() });
    let status = LuaStatus {
        load: Some(0.5),
        loadavg: Some([1.0, 2.0, 3.0]),
        cores: Some(8),
        pressure: Some(1.5),
        free_memory: Some(1 << 30),
        free_disk: Some(1 << 31),
        free_inodes: Some(9),
        running: Some(1),
        clock_skew: Some(-2.0),
        age: Some(7.0),
        reachable: Some(true),
        power: Some("starting"),
        facts: None,
    };
    assert_eq!(decision.accepts(A), Acceptance::Yes);
    assert_eq!(decision.score(A, &status), Score::Value(1.0));
    assert_eq!(warnings(&site, &decision), [""; 0]);
    // The queue is counted once in a decision.
    assert_eq!(counts.load(Ordering::SeqCst), 1);
}

#[test]
fn functions_limit_attempts_and_waits() {
    let decided = |fields: &str, request: LuaRequest| {
        let site = site(fields, "");
        let pool = site.load().unwrap();
        let decision = pool.callbacks(request);
        let values = (decision.max_attempts(), decision.wait_for_slot().map(|wait| wait.as_secs_f64()));
        (values, warnings(&site, &decision))
    };
    let functions = "max_attempts = function(request) return request.user == 'ci' and 1 or 5 end, \
                     wait_for_slot = function(request) return request.user == 'ci' and 7.5 or nil end";
    let ci = || LuaRequest { user: Some("ci".into()), ..request() };
    assert_eq!(decided("", ci()), ((3, None), vec![]));
    assert_eq!(decided("max_attempts = 2, wait_for_slot = 9", ci()), ((2, Some(9.0)), vec![]));
    assert_eq!(decided(functions, ci()), ((1, Some(7.5)), vec![]));
    assert_eq!(decided(functions, request()), ((5, None), vec![]));
    for (attempts, wait) in [("0", "-1"), ("1001", "86401"), ("1.5", "'7'"), ("nil", "{}")] {
        let functions =
            format!("max_attempts = function() return {attempts} end, wait_for_slot = function() return {wait} end");
        let (values, warnings) = decided(&functions, request());
        assert_eq!(values, (3, None), "{functions}");
        let expected = ["from 1 to 1000, found", "from 0 to 86400, or nil, found"];
        assert!(warnings.len() == 2 && (0..2).all(|i| warnings[i].contains(expected[i])), "{warnings:?}");
    }
}

#[test]
fn facts_are_found_when_a_function_reads_them() {
    let site = site(
        r#"accepts = function(request)
          if request.name ~= "linux-libre-6.12.3" then return request.expected_seconds == nil end
          return request.expected_seconds == 12.5 and request.expected_output_bytes == 7
            and math.type(request.expected_output_bytes) == "integer" and request.input_bytes == nil
            and request.expected_seconds == 12.5
        end,
        score = function(request, machine, status)
          if machine.name == "a" then return 1 end
          assert(status.missing_inputs == 3 and status.missing_bytes == nil)
          return offload.soonest(request, machine, status) * 2
        end"#,
        "",
    );
    let pool = site.load().unwrap();
    let finds = Arc::new(AtomicUsize::new(0));
    let counted = |finds: &Arc<AtomicUsize>| {
        let finds = Arc::clone(finds);
        move || finds.fetch_add(1, Ordering::SeqCst)
    };
    let count = counted(&finds);
    let facts = RequestFacts(Arc::new(move || {
        count();
        FoundRequestFacts { input_bytes: None, expected_seconds: Some(12.5), expected_output_bytes: Some(7) }
    }));
    let decision = pool.callbacks(LuaRequest { facts: Some(facts.clone()), ..request() });
    assert_eq!((decision.accepts(A), decision.accepts(B)), (Acceptance::Yes, Acceptance::Yes));
    assert_eq!(finds.load(Ordering::SeqCst), 1);
    let count = counted(&finds);
    let of_machine = MachineFacts(Arc::new(move || {
        count();
        FoundFacts { soonest: -4.5, missing_inputs: Some(3), missing_bytes: None }
    }));
    let status = LuaStatus { facts: Some(of_machine), ..LuaStatus::default() };
    assert_eq!((decision.score(A, &status), finds.load(Ordering::SeqCst)), (Score::Value(1.0), 1));
    assert_eq!((decision.score(B, &status), finds.load(Ordering::SeqCst)), (Score::Value(-9.0), 3));
    assert_eq!(warnings(&site, &decision), [""; 0]);
    // Without facts they are nil.
    let decision = pool.callbacks(LuaRequest { name: "other".into(), ..request() });
    assert_eq!(decision.accepts(A), Acceptance::Yes);
    assert_eq!(warnings(&site, &decision), [""; 0]);
}

#[test]
fn soonest_is_known_as_the_score_and_as_a_function() {
    for (fields, own, expected) in [
        ("score = offload.soonest", "", [true, true, true]),
        ("score = offload.soonest", "score = function() return 1 end", [true, false, true]),
        ("", "score = offload.soonest", [false, true, false]),
        ("score = function(...) return offload.soonest(...) end", "", [false; 3]),
        ("", "", [false; 3]),
    ] {
        let pool = site(fields, own).load().unwrap();
        assert_eq!([A, B, Candidate::Local].map(|candidate| pool.uses_soonest(candidate)), expected, "{fields} {own}");
    }
    // As `offload eval` tries it: without facts, speed and load order the machines.
    let site = site("score = function(...) return offload.soonest(...) end", "");
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    let load = |load| LuaStatus { load: Some(load), ..LuaStatus::default() };
    assert_eq!(decision.score(A, &load(0.0)), Score::Value(-30.0));
    assert_eq!(decision.score(B, &load(1.0)), Score::Value(-15.0));
    assert_eq!(try_functions(&pool).len(), 0);
    for call in ["offload.soonest()", "offload.soonest(request, machine)", "offload.soonest(1, machine, status)"] {
        let site = super::decisions::site(&format!("score = function(request, machine, status) return {call} end"), "");
        let pool = site.load().unwrap();
        let decision = pool.callbacks(request());
        assert_eq!(decision.score(A, &load(0.0)), Score::Value(1.0));
        let warnings = warnings(&site, &decision);
        assert!(warnings[0].contains("soonest: expected the request, the machine and the status"), "{warnings:?}");
    }
}

#[test]
fn the_derivation_is_read_on_request() {
    let site = site(
        r#"accepts = function(request)
          local derivation = request:read_derivation()
          assert(derivation == request:read_derivation())
          local function path(name) return "/gnu/store/9jd3ddi4i7ymp3l9vs7vhfx7xl9wvhxz-" .. name end
          assert(derivation.builder == "/bin/sh" and derivation.args[2] == "x" and derivation.env.out == path("o"))
          assert(derivation.inputs[path("i.drv")][1] == "lib" and derivation.sources[1] == path("s"))
          local out = derivation.outputs.out
          assert(out.path == path("o") and out.method == "sha256" and out.hash == ("ab"):rep(32))
          return derivation.env.big == "1", "small"
        end"#,
        "",
    );
    let pool = site.load().unwrap();
    let reads = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&reads);
    let reader = DerivationReader(Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        let path = |name: &str| format!("/gnu/store/9jd3ddi4i7ymp3l9vs7vhfx7xl9wvhxz-{name}");
        let text = format!(
            "Derive([(\"out\",\"{}\",\"sha256\",\"{}\")],[(\"{}\",[\"lib\"])],[\"{}\"],\"x86_64-linux\",\"/bin/sh\",\
             [\"-c\",\"x\"],[(\"big\",\"no\"),(\"out\",\"{}\")])",
            path("o"),
            "ab".repeat(32),
            path("i.drv"),
            path("s"),
            path("o")
        );
        Derivation::parse(&StoreDir::default(), text.as_bytes()).map_err(|error| error.to_string())
    }));
    let decision = pool.callbacks(LuaRequest { reader: Some(reader), ..request() });
    assert_eq!(decision.accepts(A), Acceptance::No("small".into()));
    assert_eq!(decision.accepts(B), Acceptance::No("small".into()));
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    assert_eq!(warnings(&site, &decision), [""; 0]);
    let failing = DerivationReader(Arc::new(|| Err("No such file or directory".into())));
    let decision = pool.callbacks(LuaRequest { reader: Some(failing), ..request() });
    let unreadable = "the derivation /gnu/store/9jd3ddi4i7ymp3l9vs7vhfx7xl9wvhxz-linux-libre-6.12.3.drv cannot be read: No \
                      such file or directory";
    assert_eq!(decision.accepts(A), Acceptance::No(format!("accepts failed: {unreadable}")));
    assert_eq!(
        warnings(&site, &decision),
        [format!("machines.lua:7: error: accepts: {unreadable}; it counts as false")]
    );
}

#[test]
fn invalid_results_have_defaults() {
    let failed = |why: &str| Acceptance::No(format!("accepts failed: {why}"));
    for (body, verdict, warning) in [
        ("", Acceptance::Yes, "accepts: expected true or false, found nothing; it counts as true"),
        ("return nil, 'why'", Acceptance::Yes, "accepts: expected true or false, found nothing; it counts as true"),
        ("return 1", Acceptance::Yes, "accepts: expected true or false, found 1; it counts as true"),
        ("return {}", Acceptance::Yes, "accepts: expected true or false, found a table; it counts as true"),
        ("return false", Acceptance::No("accepts returned false".into()), ""),
        ("return false, 5", Acceptance::No("5".into()), ""),
        ("return false, 'two\\nlines'", Acceptance::No("two lines".into()), ""),
        ("error('oh', 0)", failed("oh"), "accepts: oh; it counts as false"),
        ("error()", failed("nil"), "accepts: nil; it counts as false"),
        ("error('two\\nlines', 0)", failed("two lines"), "accepts: two lines; it counts as false"),
        (
            "error({})",
            failed("an error was raised with a table instead of a message"),
            "accepts: an error was raised with a table instead of a message; it counts as false",
        ),
        ("return flase", failed("undefined global 'flase'"), "accepts: undefined global 'flase'; it counts as false"),
        (
            "coroutine.yield()",
            failed("attempt to yield from outside a coroutine"),
            "accepts: attempt to yield from outside a coroutine; it counts as false",
        ),
    ] {
        let site = site(&format!("accepts = function(request, machine) {body} end"), "");
        let pool = site.load().unwrap();
        let decision = pool.callbacks(request());
        assert_eq!(decision.accepts(A), verdict, "{body}");
        decision.accepts(B);
        // Only a missing result is allowed.
        let severity = if warning.contains("found nothing") { "warning" } else { "error" };
        let expected = if warning.is_empty() { vec![] } else { vec![format!("machines.lua:6: {severity}: {warning}")] };
        assert_eq!(warnings(&site, &decision), expected, "{body}: once");
    }
    for (body, score, warning) in [
        ("", 4.0, "found nothing"),
        ("return 0/0", 4.0, "found NaN"),
        ("return '5'", 4.0, "found \"5\""),
        ("return true", 4.0, "found true"),
        ("return {}", 4.0, "found a table"),
        ("return 1/0", f64::MAX, ""),
        ("return -1/0", f64::MIN, ""),
        ("return -3", -3.0, ""),
    ] {
        let site = site(&format!("score = function() {body} end"), "");
        let pool = site.load().unwrap();
        let decision = pool.callbacks(request());
        assert_eq!(decision.score(B, &LuaStatus::default()), Score::Value(score), "{body}");
        let message =
            format!("machines.lua:6: error: score: expected a number or false, {warning}; the default applies");
        let expected = if warning.is_empty() { vec![] } else { vec![message] };
        assert_eq!(warnings(&site, &decision), expected, "{body}");
    }
}

#[test]
fn an_error_shows_the_calls_of_the_user() {
    let site = site(
        "score = function(request, machine, status)\n  return machine.speed * offload.json.decode('{}').weight\nend",
        "",
    );
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    assert_eq!(decision.score(B, &LuaStatus::default()), Score::Value(4.0));
    assert_eq!(
        warnings(&site, &decision),
        [
            "machines.lua:7: error: score: attempt to perform arithmetic on a nil value (field 'weight'); the default applies"
        ]
    );
}

#[test]
fn a_misspelt_field_is_an_error_where_it_is_read() {
    for (function, message) in [
        (
            "accepts = function(request, machine) return request.sytem == 'x' end",
            "request has no field 'sytem'; did you mean 'system'?",
        ),
        (
            "accepts = function(request, machine) return machine.sped > 1 end",
            "machine has no field 'sped'; did you mean 'speed'?",
        ),
        (
            "accepts = function(request, machine) return machine.hostname == 'x' end",
            "machine has no field 'hostname'; did you mean 'name'?",
        ),
        (
            "score = function(request, machine, status) return status.laod end",
            "status has no field 'laod'; did you mean 'load'?",
        ),
        ("when_busy = function(request) return request.usr end", "request has no field 'usr'; did you mean 'user'?"),
    ] {
        let site = site(function, "");
        let pool = site.load().unwrap();
        let decision = pool.callbacks(request());
        decision.accepts(A);
        decision.score(A, &LuaStatus::default());
        decision.when_busy();
        let found = warnings(&site, &decision);
        assert!(found.len() == 1 && found[0].contains(message), "{function}: {found:?}");
        assert!(pool.has_failed_functions());
    }
    // A field without a value is nil, and so is what is no name.
    let site = site(
        "accepts = function(request, machine)
           return request[1] == nil and machine.proxy_command == nil and machine.inherit == nil end,
         score = function(request, machine, status) return status.load == nil and 7 end",
        "",
    );
    let pool = site.load().unwrap();
    let decision = pool.callbacks(request());
    assert_eq!(decision.accepts(A), Acceptance::Yes);
    assert_eq!(decision.score(A, &LuaStatus::default()), Score::Value(7.0));
    assert!(warnings(&site, &decision).is_empty() && !pool.has_failed_functions());
}

#[test]
fn only_functions_that_fail_for_every_request_are_broken() {
    for (function, expected) in [
        ("accepts = function(request) return nosuch.x end", Some("accepts: undefined global 'nosuch'")),
        ("score = function(request, machine) return machine.name * 2 end", Some("score: attempt to mul")),
        (
            "when_busy = function(request) return 'maybe' end",
            Some("when_busy: expected \"wait\" or \"local\", found \"maybe\""),
        ),
        (
            "when_unreachable = function(request) return request.sytem end",
            Some("when_unreachable: request has no field 'sytem'"),
        ),
        ("max_attempts = function(request) return 0 end", Some("max_attempts: expected a whole number from 1 to 1000")),
        ("wait_for_slot = function(request) return 'long' end", Some("wait_for_slot: expected a number of seconds")),
        (
            "accepts = function(request) while true do end end, limits = { decide = 0.1 }",
            Some("accepts: took longer than 0.1 s"),
        ),
        // Some request would pass.
        ("accepts = function(request) return #request.features > 0 or error('none') end", None),
        ("accepts = function(request) return #request.features == 0 or error('some') end", None),
        ("accepts = function(request) return request:read_derivation().env.x ~= nil end", None),
        ("accepts = function(request) end", None),
        ("accepts = function(request) return request.user .. 'x' ~= '' end", None),
        ("score = function(request, machine, status) return 1 / status.load end", None),
    ] {
        let site = site(function, "features = { 'kvm' }");
        let found: Vec<String> =
            super::super::try_functions(&site.load().unwrap()).iter().map(ToString::to_string).collect();
        match expected {
            None => assert!(found.is_empty(), "{function}: {found:?}"),
            Some(message) => assert!(!found.is_empty() && found[0].contains(message), "{function}: {found:?}"),
        }
    }
}
