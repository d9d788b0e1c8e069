//! Several builds at the same time: each begins when those that it needs have succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use log::warn;

use super::options::BuildOptions;
use super::report::{BuildResult, report};
use crate::cancel::Cancel;
use crate::commands::failure::CommandError;
use crate::commands::machines::own_system;
use crate::commands::prefixed_log::PrefixedLog;
use crate::commands::reporter::Reporter;
use crate::embed::{BuildError, Pool};
use crate::events::{Event, Observer};
use crate::hook::HookArguments;
use crate::store::path::StorePath;

/// Builds of derivations that may need each other.
pub struct Batch<'a> {
    pool: &'a Pool,
    derivations: &'a [StorePath],
    /// For each derivation, the indices of those that come first.
    needs: Vec<BTreeSet<usize>>,
    options: &'a BuildOptions,
    cancel: &'a Cancel,
    messages: File,
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    /// The indices of the derivations that were not begun.
    waiting: BTreeSet<usize>,
    results: BTreeMap<usize, BuildResult>,
}

/// The next thing to do.
enum Step {
    Build(usize),
    Skip(usize, StorePath),
}

impl<'a> Batch<'a> {
    pub fn new(
        pool: &'a Pool,
        derivations: &'a [StorePath],
        needs: Vec<BTreeSet<usize>>,
        options: &'a BuildOptions,
        cancel: &'a Cancel,
    ) -> Result<Batch<'a>, CommandError> {
        let messages = io::stderr().as_fd().try_clone_to_owned();
        let messages = messages.map_err(|cause| CommandError::failure(format!("cannot print messages: {cause}")))?;
        let jobs = Mutex::new(Jobs { waiting: (0..derivations.len()).collect(), ..Jobs::default() });
        let (messages, changed) = (messages.into(), Condvar::new());
        Ok(Batch { pool, derivations, needs, options, cancel, messages, jobs, changed })
    }

    /// Builds all, and returns the results in the order of the derivations.
    pub fn run(self) -> Vec<BuildResult> {
        let workers = self.pool.slots(&self.options.on).clamp(1, self.derivations.len().max(1));
        thread::scope(|scope| {
            for _ in 1..workers {
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, || self.work()) {
                    warn!("fewer builds run at the same time: cannot start a thread: {error}");
                    break;
                }
            }
            self.work();
        });
        self.jobs.into_inner().unwrap_or_else(PoisonError::into_inner).results.into_values().collect()
    }

    fn work(&self) {
        while let Some(step) = self.next() {
            let (index, result) = match step {
                Step::Build(index) => {
                    let derivation = &self.derivations[index];
                    (index, without_panic(derivation, || self.build(derivation)))
                }
                Step::Skip(index, input) => (index, BuildResult::Skipped(input)),
            };
            report(&self.derivations[index], &result);
            self.jobs().results.insert(index, result);
            self.changed.notify_all();
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do; `None` when nothing is left.
    fn next(&self) -> Option<Step> {
        let mut jobs = self.jobs();
        loop {
            let Jobs { waiting, results } = &mut *jobs;
            let step = waiting.iter().find_map(|&index| self.step(index, results));
            if let Some(Step::Build(index) | Step::Skip(index, _)) = step {
                waiting.remove(&index);
                return step;
            }
            if waiting.is_empty() {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns what can be done for a derivation now, if something can.
    fn step(&self, index: usize, results: &BTreeMap<usize, BuildResult>) -> Option<Step> {
        let needs = self.needs.get(index).into_iter().flatten();
        let mut is_ready = true;
        for input in needs {
            match results.get(input) {
                Some(BuildResult::Built(_)) => {}
                Some(_) => return Some(Step::Skip(index, self.derivations[*input].clone())),
                None => is_ready = false,
            }
        }
        is_ready.then_some(Step::Build(index))
    }

    fn build(&self, derivation: &StorePath) -> BuildResult {
        let is_alone = self.derivations.len() == 1;
        let reporter = Reporter::new(&HookArguments::without_limits(&own_system()), &self.messages);
        let mut reporter = if is_alone { reporter } else { reporter.in_lines() };
        let prefix = if is_alone { String::new() } else { format!("{}: ", derivation.name().trim_end_matches(".drv")) };
        let build = self.options.build(self.pool, derivation).cancel(self.cancel).log(PrefixedLog::new(prefix));
        match build.on_event(|event: &Event<'_>| reporter.observe(event)).run() {
            // `OutputRoots` keeps the outputs of all.
            Ok(built) => BuildResult::Built(built.into()),
            Err(error) => BuildResult::Failed(error),
        }
    }
}

/// Returns the result of a build. A panic is a failure: others may wait for this result, and the status of a panic is that
/// of a time-out.
fn without_panic(derivation: &StorePath, build: impl FnOnce() -> BuildResult) -> BuildResult {
    catch_unwind(AssertUnwindSafe(build)).unwrap_or_else(|_| {
        BuildResult::Failed(BuildError::ThisMachine {
            derivation: derivation.to_string(),
            message: "this is a bug in offload".to_owned(),
            hint: Some("report it with the lines above".to_owned()),
            source: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn a_panic_is_the_failure_of_one_build() {
        let path = format!("/gnu/store/{}-x.drv", "a".repeat(32));
        let derivation = StorePath::parse(&StoreDir::default(), path.as_bytes()).unwrap();
        let result = without_panic(&derivation, || panic!("on purpose"));
        let BuildResult::Failed(error) = result else { panic!("no failure") };
        assert!(error.to_string().ends_with("this is a bug in offload"), "{error}");
        let result = without_panic(&derivation, || BuildResult::Skipped(derivation.clone()));
        assert!(matches!(result, BuildResult::Skipped(_)));
    }
}
