//! A trial of the functions of a machine file, for `offload eval`: a function that fails for every sample request is
//! broken, although the hook would use the defaults in its place.
//!
//! Only a failure that all samples have in common counts, since a function may be right to raise an error for some
//! request. A function that reads the derivation is not judged: there is none.

use super::diagnostic::{Diagnostic, Severity};
use super::functions::Candidate;
use super::pool::Pool;
use super::request::{LuaRequest, LuaStatus, NO_DERIVATION};
use std::collections::BTreeSet;

/// The number of system types that are tried.
const MAX_SYSTEMS: usize = 8;

/// Returns the errors of the functions that fail for every sample request.
pub fn try_functions(pool: &Pool) -> Vec<Diagnostic> {
    let mut common: Option<Vec<Diagnostic>> = None;
    for request in samples(pool) {
        // Each request reports all of its errors.
        pool.forget_reported();
        let failures = failures(pool, request);
        let is_stopped = failures.iter().any(|failure| failure.message.ends_with("not called any more"));
        let is_same = |one: &Diagnostic, other: &Diagnostic| {
            (&one.file, one.line, &one.field) == (&other.file, other.line, &other.field)
        };
        common = Some(match common {
            Some(common) if !is_stopped => {
                common.into_iter().filter(|one| failures.iter().any(|other| is_same(one, other))).collect()
            }
            _ => failures,
        });
        if is_stopped {
            break;
        }
    }
    pool.forget_reported();
    common.unwrap_or_default()
}

/// Returns one request for each system type, and one that requires all features.
fn samples(pool: &Pool) -> Vec<LuaRequest> {
    let machines = || pool.machines.iter().map(|entry| &entry.machine);
    let systems: BTreeSet<&String> = machines().flat_map(|machine| &machine.systems).collect();
    let features: BTreeSet<&String> = machines().flat_map(|machine| &machine.features).collect();
    let sample = |system: &str, name: &str| LuaRequest {
        system: system.to_owned(),
        derivation: format!("/gnu/store/00000000000000000000000000000000-{name}.drv"),
        name: name.to_owned(),
        wants_local: true,
        user: Some("alice".to_owned()),
        max_silent_time: 3600,
        build_timeout: 86400,
        ..LuaRequest::default()
    };
    let mut samples: Vec<LuaRequest> =
        systems.iter().take(MAX_SYSTEMS).map(|system| sample(system, "hello-2.12.1")).collect();
    if let Some(first) = systems.first() {
        let features = features.into_iter().cloned().collect();
        samples.push(LuaRequest { features, user: None, ..sample(first, "linux-libre-6.12.9.tar.xz") });
    }
    samples
}

/// Calls all functions with `request`, and returns the errors.
fn failures(pool: &Pool, request: LuaRequest) -> Vec<Diagnostic> {
    let callbacks = pool.callbacks(request);
    let status = LuaStatus {
        load: Some(0.5),
        loadavg: Some([2.0, 2.0, 2.0]),
        cores: Some(4),
        pressure: Some(0.0),
        free_memory: Some(4 << 30),
        free_disk: Some(100 << 30),
        free_inodes: Some(1 << 20),
        running: Some(0),
        clock_skew: Some(0.0),
        age: Some(1.0),
        reachable: Some(true),
        power: None,
        facts: None,
    };
    let local = pool.local.iter().map(|_| Candidate::Local);
    for candidate in (0..pool.machines.len()).map(Candidate::Machine).chain(local) {
        callbacks.accepts(candidate);
        callbacks.score(candidate, &status);
    }
    callbacks.when_busy();
    callbacks.when_unreachable();
    callbacks.max_attempts();
    callbacks.wait_for_slot();
    let is_judged =
        |failure: &Diagnostic| failure.severity == Severity::Error && !failure.message.contains(NO_DERIVATION);
    callbacks.take_warnings().into_iter().filter(is_judged).collect()
}
