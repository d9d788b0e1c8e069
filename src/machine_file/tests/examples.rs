//! The machine files in `examples/` do what their comments say.

use super::decisions::request;
use super::*;
use crate::store::derivation::Derivation;
use crate::store::path::StoreDir;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// Loads an example, which must not give a warning.
fn example(name: &str) -> Pool {
    let cache = tempfile::tempdir().unwrap();
    let context = LoadContext { cache: Some(cache.path().join("cache")), ..LoadContext::default() };
    let pool = load(&directory().join(name), &context).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(pool.warnings, [], "{name}");
    pool
}

fn names(pool: &Pool) -> Vec<&str> {
    pool.machines.iter().map(|entry| entry.machine.name.as_str()).collect()
}

const FIRST: Candidate = Candidate::Machine(0);
const SECOND: Candidate = Candidate::Machine(1);

fn named(name: &str) -> LuaRequest {
    LuaRequest { name: name.into(), ..request() }
}

/// Returns a request for a derivation with a usual output.
fn requiring(features: &[&str]) -> LuaRequest {
    with_derivation(features, "", "")
}

/// Returns a request for a derivation with a fixed output.
fn for_fixed_output() -> LuaRequest {
    with_derivation(&[], "sha256", &"ab".repeat(32))
}

fn with_derivation(features: &[&str], method: &str, hash: &str) -> LuaRequest {
    let text = format!(
        "Derive([(\"out\",\"/gnu/store/9jd3ddi4i7ymp3l9vs7vhfx7xl9wvhxz-o\",\"{method}\",\"{hash}\")],[],[],\
         \"x86_64-linux\",\"/bin/sh\",[],[])"
    );
    let read = move || Derivation::parse(&StoreDir::default(), text.as_bytes()).map_err(|error| error.to_string());
    let features = features.iter().map(|&feature| feature.to_owned()).collect();
    LuaRequest { features, reader: Some(DerivationReader(Arc::new(read))), ..request() }
}

fn score(decision: &RequestCallbacks, candidate: Candidate, status: &LuaStatus) -> f64 {
    match decision.score(candidate, status) {
        Score::Value(value) => value,
        Score::No(why) => panic!("{why}"),
    }
}

#[test]
fn all_examples_are_here() {
    let files: BTreeSet<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".lua"))
        .collect();
    let known = [
        "bastion.lua",
        "command.lua",
        "features.lua",
        "head.lua",
        "inventory.lua",
        "load-and-disk.lua",
        "minimal.lua",
        "shared-defaults.lua",
        "time-of-day.lua",
    ];
    assert_eq!(files, known.map(str::to_owned).into());
}

#[test]
fn minimal_lua_has_defaults() {
    let pool = example("minimal.lua");
    assert_eq!(names(&pool), ["build.example.org"]);
    assert_eq!(pool.settings, Settings::default());
}

#[test]
fn shared_defaults_lua_inherits_fields() {
    let pool = example("shared-defaults.lua");
    assert_eq!(names(&pool), ["node1.example.org", "node2.example.org", "node3.example.org", "node1.example.org"]);
    assert!(pool.machines.iter().all(|entry| entry.machine.parallel_builds == 4 && entry.machine.user == "offload"));
    assert_eq!(pool.machines[3].machine.systems, ["aarch64-linux"]);
}

#[test]
fn features_lua_accepts_by_feature() {
    let pool = example("features.lua");
    let large = pool.callbacks(requiring(&["big-parallel"]));
    assert_eq!((large.accepts(FIRST), large.accepts(SECOND)), (Acceptance::Yes, Acceptance::Yes));
    let small = pool.callbacks(requiring(&[]));
    assert_eq!(small.accepts(FIRST), Acceptance::No("only builds that require big-parallel".into()));
    assert_eq!(small.accepts(SECOND), Acceptance::Yes);
    let source = pool.callbacks(for_fixed_output());
    assert_eq!(source.accepts(SECOND), Acceptance::No("a fixed output: the head fetches it".into()));
    for decision in [large, small, source] {
        assert_eq!(decision.take_warnings(), []);
    }
}

#[test]
fn load_and_disk_lua_scores_by_load_and_disk() {
    let pool = example("load-and-disk.lua");
    assert_eq!(pool.machines[0].machine.minimum_disk_space, 5 << 30);
    let decision = pool.callbacks(named("hello"));
    let unknown = LuaStatus::default();
    assert_eq!(score(&decision, FIRST, &unknown), 2.0);
    let busy = LuaStatus { load: Some(1.0), pressure: Some(60.0), free_disk: Some(10 << 30), ..unknown.clone() };
    assert_eq!(score(&decision, FIRST, &busy), 0.25);
    let browser = pool.callbacks(named("ungoogled-chromium-131"));
    assert_eq!(browser.score(FIRST, &busy), Score::No("not enough room for a browser".into()));
    assert_eq!(decision.take_warnings(), []);
}

#[test]
fn time_of_day_lua_depends_on_the_hour() {
    let pool = example("time-of-day.lua");
    assert!(pool.machines[0].machine.enabled);
    let working = !pool.machines[1].machine.enabled;
    assert_eq!(pool.settings.when_busy, Some(if working { Fallback::Local } else { Fallback::Wait }));
}

#[test]
fn inventory_lua_reads_a_file() {
    let pool = example("inventory.lua");
    assert_eq!(names(&pool), ["node1.example.org", "node2.example.org"]);
    assert_eq!((pool.machines[0].machine.speed, pool.machines[0].machine.parallel_builds), (2.5, 8));
    assert_eq!(pool.machines[1].machine.features, ["kvm"]);
}

#[test]
fn command_lua_runs_a_program() {
    let pool = example("command.lua");
    assert_eq!(names(&pool), ["10.0.0.11", "10.0.0.12"]);
    assert_eq!(pool.machines[0].machine.parallel_builds, 4);
}

#[test]
fn bastion_lua_connects_through_a_proxy() {
    let pool = example("bastion.lua");
    assert_eq!(names(&pool), ["10.1.0.5", "10.1.0.6"]);
    let command = pool.machines[1].machine.proxy_command.as_ref().unwrap();
    assert!(command.contains(&"%h:%p".to_owned()) && command[0] == "ssh");
}

#[test]
fn head_lua_builds_small_things_on_the_head() {
    let pool = example("head.lua");
    let status = LuaStatus::default();
    let large = pool.callbacks(named("gcc-14.2.0"));
    assert!(score(&large, FIRST, &status) > score(&large, Candidate::Local, &status));
    let small = pool.callbacks(named("profile"));
    assert!(score(&small, FIRST, &status) < score(&small, Candidate::Local, &status));
    assert_eq!(small.take_warnings(), []);
}
