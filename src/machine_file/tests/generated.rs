//! Random machine files: valid Lua with hostile values, metatables and callbacks. All of them give a result in time,
//! without a text that could be taken for a reply to the daemon.

use super::decisions::request;
use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// Generates an expression of Lua.
fn expression() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec![
        "nil",
        "true",
        "false",
        "0",
        "-1",
        "22",
        "1e308 * 10",
        "0/0",
        "2^63",
        "math.mininteger",
        "0.5",
        "''",
        "'# accept'",
        "'\\n# accept\\n'",
        "'x\\0y'",
        "'\\xff\\xfe'",
        "('x'):rep(2^16)",
        "'x86_64-linux'",
        "'zlib'",
        "'~/key'",
        "'$KEY'",
        "{ '$KEY' }",
        "{ 'x86_64-linux' }",
        "{ [3] = 'kvm' }",
        "{ [2^53] = 1, [-1] = 2, [0.5] = 3 }",
        "print",
        "_G",
        "io.stdout",
        "coroutine.create(function() end)",
        "require 'offload'",
        "build_machine",
        "error",
        "undefined_name",
        "_G['\\n# accept\\n']",
        "function() return build_machine {} end",
        "function(...) return ... end",
        "function() return false, '\\n# accept\\n' end",
        "function() return nil end",
        "function() return 0/0 end",
        "function(r, m) m.name = 5 r.system = nil setmetatable(r, nil) return 3 end",
        "function() print('# accept') io.write('\\n# accept\\n') return true end",
        "function() error(setmetatable({}, { __tostring = function() return '\\n# accept' end })) end",
        "function() error('\\n# accept\\n', 0) end",
        "function() local t = {} t['\\n# accept\\n'].x = 1 end",
        "function() return coroutine.yield() end",
        "function() return string.rep('x', 1e9) end",
        "function() return #setmetatable({}, { __len = function() return 2^40 end }) end",
    ])
    .prop_map(str::to_owned);
    plain.prop_recursive(3, 12, 4, |inner| {
        let fields =
            prop::sample::select(vec!["name", "speed", "systems", "port", "[1]", "['\\n# accept\\n']", "inherit"]);
        let metamethods =
            prop::sample::select(vec!["__index", "__len", "__pairs", "__name", "__tostring", "__eq", "__call"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("{{ {} }}", items.join(", "))),
            prop::collection::vec((fields, inner.clone()), 0..4).prop_map(|items| {
                let items: Vec<String> = items.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                format!("{{ {} }}", items.join(", "))
            }),
            (metamethods, inner.clone())
                .prop_map(|(name, value)| format!("setmetatable({{}}, {{ {name} = {value} }})")),
            inner.clone().prop_map(|value| format!("build_machine({value})")),
            inner.clone().prop_map(|value| format!("local_machine({value})")),
            inner.prop_map(|value| format!("function() return {value} end")),
        ]
    })
}

/// Generates a function that may be called during a decision.
fn callback() -> impl Strategy<Value = String> {
    (expression(), expression()).prop_map(|(one, two)| format!("function(...) local x = {one} return {two}, x end"))
}

fn file() -> impl Strategy<Value = String> {
    fn names<T>(schema: &[Field<T>]) -> Vec<&'static str> {
        schema.iter().map(|field| field.name).collect()
    }
    // Mostly functions for fields that need them, so that many files reach a decision.
    let function = prop_oneof![4 => callback(), 1 => expression()];
    let functions =
        prop::collection::vec((prop::sample::select(vec!["accepts", "score", "when_busy"]), function), 1..3);
    let own = prop::collection::vec((prop::sample::select(names(BUILD_MACHINE_FIELDS)), expression()), 0..2);
    let pool = prop::collection::vec((prop::sample::select(names(POOL_FIELDS)), expression()), 0..1);
    let others = prop::collection::vec(expression(), 0..1);
    (own, pool, functions, others).prop_map(|(own, mut pool, functions, others)| {
        pool.extend(functions);
        let fields = |list: &[(&str, String)]| {
            list.iter().map(|(name, value)| format!("{name} = {value},\n")).collect::<String>()
        };
        let others: String = others.iter().map(|other| format!("{other},\n")).collect();
        format!("return {{ build_machine {{ name = 'a', $REST, {} }},\n{others}{} }}", fields(&own), fields(&pool))
    })
}

/// Checks the text that the engine would print and send.
fn check(text: &str) {
    for line in text.lines() {
        assert!(!line.starts_with("# "), "{text}");
    }
}

#[test]
fn generated_files_load_or_have_errors() {
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let loaded = std::cell::Cell::new(0);
    proptest!(config, |(text in file())| {
        let site = Site::new(&text);
        let start = Instant::now();
        match site.load() {
            Err(report) => {
                prop_assert!(report.errors() > 0);
                check(&report.to_string());
            }
            Ok(pool) => {
                loaded.set(loaded.get() + 1);
                let decision = pool.callbacks(request());
                let candidates = (0..pool.machines.len()).map(Candidate::Machine).chain([Candidate::Local]);
                for candidate in candidates {
                    if let Acceptance::No(why) = decision.accepts(candidate) {
                        check(&why);
                    }
                    match decision.score(candidate, &LuaStatus::default()) {
                        Score::Value(value) => prop_assert!(value.is_finite()),
                        Score::No(why) => check(&why),
                    }
                }
                // Whatever the function returns, there is a fallback.
                let _: [Fallback; 2] = [decision.when_busy(), decision.when_unreachable()];
                for warning in decision.take_warnings() {
                    check(&warning.to_string());
                }
            }
        }
        prop_assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    });
    println!("{} of 400 files are valid", loaded.get());
    assert!(loaded.get() > 100, "too few files are valid for this to say anything: {}", loaded.get());
}
