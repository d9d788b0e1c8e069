//! The messages of a machine's daemon during a build, stored until the failure is classified.

use std::collections::BTreeSet;
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::classify::Answer;
use crate::daemon::{BuildEvent, Log, TraceSink};
use crate::local::{LogFull, LogReserve};
use crate::remote::Progress;
use crate::store::path::StorePath;

/// Watches the build of one derivation.
#[derive(Clone)]
pub(super) struct BuildWatch {
    derivation: String,
    outputs: Arc<BTreeSet<StorePath>>,
    progress: Progress,
    seen: Arc<Mutex<Observed>>,
}

#[derive(Default)]
struct Observed {
    has_started: bool,
    has_substituted: bool,
    failure: Option<String>,
    /// The expected and the actual hash, in a message.
    hashes: Option<String>,
    log_full: Option<LogFull>,
    /// The directory of the failed build, if the daemon has kept it.
    kept: Option<String>,
}

impl BuildWatch {
    /// Watches the build of `derivation` through a stream with this `progress`.
    pub fn new(derivation: &StorePath, outputs: &BTreeSet<StorePath>, progress: Progress) -> BuildWatch {
        let outputs = Arc::new(outputs.clone());
        BuildWatch { derivation: derivation.to_string(), outputs, progress, seen: Arc::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Observed> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a sink for log text, which copies it to `log` as long as `reserve` has room. Without room it ends the
    /// stream.
    pub fn log(&self, mut log: Log, mut reserve: Option<LogReserve>) -> Log {
        let watch = self.clone();
        Box::new(move |text| match reserve.as_mut().map_or(Ok(()), |reserve| reserve.take(text.len() as u64)) {
            Ok(()) => {
                log(text);
                watch.progress.step();
            }
            Err(full) => {
                watch.seen().log_full = Some(full);
                watch.progress.stop();
            }
        })
    }

    /// Why no more of the log was taken, if that ended the build.
    pub fn log_full(&self) -> Option<LogFull> {
        self.seen().log_full.take()
    }

    /// Returns the sink for the build trace.
    pub fn sink(&self) -> TraceSink {
        let watch = self.clone();
        Box::new(move |event| watch.take(event))
    }

    fn take(&self, event: &BuildEvent) {
        match event {
            BuildEvent::Started { derivation } if *derivation == self.derivation => {
                if !replace(&mut self.seen().has_started, true) {
                    self.progress.step();
                }
                self.progress.set_building(true);
            }
            BuildEvent::SubstituterStarted => {
                if !replace(&mut self.seen().has_substituted, true) {
                    self.progress.step();
                }
                self.progress.set_building(true);
            }
            BuildEvent::SubstituterEnded => self.progress.set_building(false),
            BuildEvent::Failed { derivation, message } if *derivation == self.derivation => {
                self.seen().failure = Some(message.clone());
            }
            BuildEvent::HashMismatch { algorithm, expected, actual, .. } => {
                self.seen().hashes =
                    Some(format!("\n  expected {algorithm} hash: {expected}\n  actual {algorithm} hash: {actual}"));
            }
            BuildEvent::Kept { directory } => self.seen().kept = Some(directory.clone()),
            _ => (),
        }
    }

    /// Returns the directory of the failed build on the machine, if its daemon has kept it.
    pub fn kept(&self) -> Option<String> {
        self.seen().kept.clone()
    }

    /// Calls `classify_failure` with the daemon's report: `status`, `message` and what was watched.
    pub fn with_answer<T>(&self, status: u32, message: &str, classify_failure: impl FnOnce(&Answer<'_>) -> T) -> T {
        let seen = self.seen();
        let (trace, outputs) = (seen.failure.as_deref(), &*self.outputs);
        classify_failure(&Answer { status, message, has_started: seen.has_started, trace, outputs })
    }

    /// Returns the daemon's message with the details of the failure that were watched.
    pub fn explain(&self, message: &str) -> String {
        let seen = self.seen();
        let failure = seen.failure.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
        format!("{message}{failure}{}", seen.hashes.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn events_of_other_builds_do_not_count() {
        let parse = |name| StorePath::parse(&StoreDir::default(), format!("/gnu/store/{name}").as_bytes()).unwrap();
        let [own, other] =
            ["0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv", "xnryj9c4k27hjviqs29c3dydawc71ga6-foo.drv"].map(parse);
        let watch = BuildWatch::new(&own, &BTreeSet::new(), Progress::default());
        let mut sink = watch.sink();
        let failed = |of: &StorePath| BuildEvent::Failed { derivation: of.to_string(), message: format!("no {of}") };
        sink(&BuildEvent::Started { derivation: other.to_string() });
        sink(&failed(&other));
        watch.with_answer(1, "alas", |answer| assert!(!answer.has_started && answer.trace.is_none()));
        assert_eq!(watch.explain("alas"), "alas");
        sink(&BuildEvent::Started { derivation: own.to_string() });
        sink(&failed(&own));
        let hash = || "00".to_owned();
        sink(&BuildEvent::HashMismatch {
            output: hash(),
            algorithm: "sha256".into(),
            expected: hash(),
            actual: hash(),
        });
        watch.with_answer(1, "alas", |answer| assert_eq!(answer.trace, Some(&*format!("no {own}"))));
        let text = format!("alas: no {own}\n  expected sha256 hash: 00\n  actual sha256 hash: 00");
        assert_eq!(watch.explain("alas"), text);
    }
}
