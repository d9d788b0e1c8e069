//! Several builds at the same time: each begins when those that it needs have succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::options::BuildOptions;
use super::report::{BuildResult, report};
use crate::cancel::Cancel;
use crate::commands::failure::CommandError;
use crate::commands::machines::own_system;
use crate::commands::prefixed_log::PrefixedLog;
use crate::commands::reporter::Reporter;
use crate::embed::Pool;
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
            (1..workers).for_each(|_| drop(scope.spawn(|| self.work())));
            self.work();
        });
        self.jobs.into_inner().unwrap_or_else(PoisonError::into_inner).results.into_values().collect()
    }

    fn work(&self) {
        while let Some(step) = self.next() {
            let (index, result) = match step {
                Step::Build(index) => (index, self.build(&self.derivations[index])),
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
