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
