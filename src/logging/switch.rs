//! A log whose levels can change while the process runs: for some time, others replace those of the environment.
//!
//! Messages are filtered here and not by env_logger, whose levels are fixed. After the time, the usual levels apply again
//! at once, also in a process that does not look for a change any more.

use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use env_filter::Filter;
use env_logger::Logger;
use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};

/// The time between two looks for a change.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Levels, in the syntax of env_logger, that apply until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemporaryLevels {
    pub levels: String,
    pub until: SystemTime,
}

/// Finds the temporary levels that apply now.
pub type FindLevels = Box<dyn Fn() -> Option<TemporaryLevels> + Send + Sync>;

/// The log of this process.
static LOG: OnceLock<SwitchableLog> = OnceLock::new();

struct SwitchableLog {
    /// Prints every message.
    printer: Logger,
    usual: Filter,
    temporary: RwLock<Option<(TemporaryLevels, Filter)>>,
    find: Option<FindLevels>,
    last_look: RwLock<Option<Instant>>,
}

/// Installs the log of this process, with its usual levels. `find` is called by [`refresh`].
pub(super) fn install(printer: Logger, usual: Filter, find: Option<FindLevels>) -> Result<(), SetLoggerError> {
    let (temporary, last_look) = (RwLock::default(), RwLock::default());
    let log = LOG.get_or_init(|| SwitchableLog { printer, usual, temporary, find, last_look });
    log::set_logger(log)?;
    log::set_max_level(log.usual.filter());
    log.look();
    Ok(())
}

/// Looks for temporary levels, if the last look is more than a second old. A process that lives long calls this now and
/// then.
pub fn refresh() {
    let Some(log) = LOG.get().filter(|log| log.find.is_some()) else { return };
    let last = *log.last_look.read().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() >= LOOK_INTERVAL) {
        log.look();
    }
}

impl SwitchableLog {
    fn look(&self) {
        let Some(find) = &self.find else { return };
        *self.last_look.write().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let found = find();
        let mut temporary = self.temporary.write().unwrap_or_else(PoisonError::into_inner);
        if temporary.as_ref().map(|(levels, _)| levels) != found.as_ref() {
            *temporary = found.map(|found| (found.clone(), filter(&with_usual(&found.levels))));
        }
        let level = temporary.as_ref().map_or(self.usual.filter(), |(_, filter)| filter.filter());
        log::set_max_level(level.max(self.usual.filter()));
    }

    /// Returns the result of `ask` for the filter that applies now.
    fn with_filter<T>(&self, ask: impl FnOnce(&Filter) -> T) -> T {
        let temporary = self.temporary.read().unwrap_or_else(PoisonError::into_inner);
        match &*temporary {
            Some((levels, filter)) if SystemTime::now() < levels.until => ask(filter),
            _ => ask(&self.usual),
        }
    }
}

/// Adds the usual level to levels that are for certain modules only, which would hide the errors of all others.
fn with_usual(levels: &str) -> String {
    let is_for_all = |part: &str| part.trim().parse::<LevelFilter>().is_ok();
    match levels.split(['/', ',']).any(is_for_all) {
        true => levels.to_owned(),
        false => format!("info,{levels}"),
    }
}

/// Returns the filter for these levels.
pub(super) fn filter(levels: &str) -> Filter {
    env_filter::Builder::new().parse(levels).build()
}

impl Log for SwitchableLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.with_filter(|filter| filter.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if self.with_filter(|filter| filter.matches(record)) {
            self.printer.log(record);
        }
    }

    fn flush(&self) {
        self.printer.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use env_logger::{Builder, Target};
    use log::Level;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn levels_of_modules_hide_no_errors_of_others() {
        let error = Metadata::builder().level(Level::Error).target("offload::other").build();
        for levels in ["offload::ssh=trace", "offload::ssh=trace,warn", "debug"] {
            assert!(filter(&with_usual(levels)).enabled(&error), "{levels}");
        }
        let debug = Metadata::builder().level(Level::Debug).target("offload::other").build();
        assert!(!filter(&with_usual("offload::ssh=trace")).enabled(&debug));
    }

    #[test]
    fn other_levels_apply_until_their_time() {
        let lines = Lines::default();
        let mut printer = Builder::new();
        printer.filter_level(log::LevelFilter::Trace).target(Target::Pipe(Box::new(lines.clone())));
        printer.format(|out, record| std::io::Write::write_fmt(out, format_args!("{} ", record.args())));
        let until = Arc::new(Mutex::new(None));
        let found = Arc::clone(&until);
        let find = move || {
            let until = *found.lock().unwrap();
            until.map(|until| TemporaryLevels { levels: "offload::a=debug,error".to_owned(), until })
        };
        let (temporary, last_look) = (RwLock::default(), RwLock::default());
        let log = SwitchableLog {
            printer: printer.build(),
            usual: filter("offload=info"),
            temporary,
            find: Some(Box::new(find)),
            last_look,
        };
        let printed = |text: &str| {
            for (level, target) in
                [(Level::Debug, "offload::a"), (Level::Info, "offload::b"), (Level::Trace, "offload::a")]
            {
                let args = format_args!("{text}-{level}-{target}").to_string();
                log.log(&Record::builder().level(level).target(target).args(format_args!("{args}")).build());
            }
            String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap()
        };
        log.look();
        assert_eq!(printed("usual"), "usual-INFO-offload::b ");
        *until.lock().unwrap() = Some(SystemTime::now() + Duration::from_secs(3600));
        assert_eq!(printed("not-seen-yet"), "not-seen-yet-INFO-offload::b ");
        log.look();
        assert_eq!(printed("other"), "other-DEBUG-offload::a ");
        // Another time is another record. This one is over, and nobody looks again.
        *until.lock().unwrap() = Some(SystemTime::now() - Duration::from_secs(1));
        log.look();
        assert_eq!(printed("over"), "over-INFO-offload::b ");
        *until.lock().unwrap() = None;
        log.look();
        assert_eq!(printed("gone"), "gone-INFO-offload::b ");
    }
}
