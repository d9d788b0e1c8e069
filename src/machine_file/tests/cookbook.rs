//! Rules of the cookbook that depend on earlier attempts and on the queue, which `offload explain` does not have.

use super::decisions::request;
use super::*;
use std::path::Path;
use std::sync::Arc;

/// Loads the machine file below a heading of the cookbook.
fn entry(heading: &str) -> Pool {
    let page = include_str!("../../../doc/manual/cookbook.md");
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, rest) = rest.split_once("\n```lua\n").unwrap();
    let (text, _) = rest.split_once("```\n").unwrap();
    load_text(Path::new("/etc/guix/machines.lua"), text.into(), &LoadContext::default())
        .unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn a_failed_build_leaves_the_rack() {
    let pool = entry("Retry elsewhere");
    let accepted = |tried: &[&str]| {
        let tried = tried.iter().map(|&name| name.to_owned()).collect();
        let decision = pool.callbacks(LuaRequest { tried, ..request() });
        let accepted = [0, 1, 2].map(|index| decision.accepts(Candidate::Machine(index)) == Acceptance::Yes);
        assert_eq!(decision.take_warnings(), []);
        accepted
    };
    assert_eq!(accepted(&[]), [true; 3]);
    assert_eq!(accepted(&["node2.example.org"]), [false, false, true]);
    assert_eq!(accepted(&["node3.example.org"]), [true, true, false]);
    assert_eq!(accepted(&["node3.example.org", "node1.example.org"]), [false; 3]);
    let attempts = |name: &str| pool.callbacks(LuaRequest { name: name.into(), ..request() }).max_attempts();
    assert_eq!((attempts("linux-libre-6.12.9"), attempts("hello-2.12.1")), (3, 2));
}

#[test]
fn a_long_queue_makes_the_expensive_machine_worth_its_cost() {
    let pool = entry("Cost and rack");
    let score = |waiting| {
        let queue = Some(QueueCounter(Arc::new(move || waiting)));
        pool.callbacks(LuaRequest { queue, ..request() }).score(Candidate::Machine(1), &LuaStatus::default())
    };
    assert_eq!(score(10), Score::No("too expensive while few builds wait".into()));
    assert_eq!(score(11), Score::Value(1.6));
}

#[test]
fn the_machine_that_has_the_inputs_is_chosen_although_it_is_slow() {
    let pool = entry("A machine that has the inputs");
    const GIB: u64 = 1 << 30;
    let score = |index, missing_bytes| {
        let facts = MachineFacts(Arc::new(move || FoundFacts { missing_bytes, ..FoundFacts::default() }));
        let status = LuaStatus { facts: Some(facts), ..LuaStatus::default() };
        let of_request =
            RequestFacts(Arc::new(|| FoundRequestFacts { input_bytes: Some(4 * GIB), ..FoundRequestFacts::default() }));
        let decision = pool.callbacks(LuaRequest { facts: Some(of_request), ..request() });
        match decision.score(Candidate::Machine(index), &status) {
            Score::Value(score) => score,
            score => panic!("{score:?}"),
        }
    };
    assert_eq!((score(0, Some(0)), score(1, Some(0))), (2.0, 1.0));
    // 2 GiB take the fast machine more than a minute and a half.
    assert!(score(0, Some(2 * GIB)) < score(1, Some(0)));
    assert!(score(0, Some(2 * GIB)) > score(1, Some(2 * GIB)));
    // Nothing known: all inputs are missing.
    assert_eq!(score(0, None), score(0, Some(4 * GIB)));
}
