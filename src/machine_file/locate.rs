//! The conversion of findings to diagnostics, each with its file and line.

use super::constructors::{ConstructorCall, label};
use super::diagnostic::{Diagnostic, Severity};
use super::fields::{Finding, FindingLocation};
use crate::lua::{Context, DeferredError, ItemLines, Position, Source, read_chunk};
use std::collections::{BTreeMap, BTreeSet};

/// The limit of findings in a report; more would not help.
const MAX_FINDINGS: usize = 100;

pub(super) struct Locator<'a> {
    context: &'a Context,
    made: &'a [ConstructorCall],
    /// The texts of the chunks, read again.
    texts: BTreeMap<String, String>,
}

impl<'a> Locator<'a> {
    pub fn new(context: &'a Context, made: &'a [ConstructorCall]) -> Locator<'a> {
        let positions = made.iter().filter_map(|made| made.position.as_ref());
        let mut chunks: BTreeSet<String> = positions.map(|position| position.chunk.clone()).collect();
        chunks.insert(context.main_chunk());
        let text = |chunk: &String| {
            let text = context.file_of(chunk).and_then(|file| read_chunk(&file).ok()).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        let texts = chunks.into_iter().map(|chunk| (chunk.clone(), text(&chunk))).collect();
        Locator { context, made, texts }
    }

    /// Returns the diagnostics, sorted by file and line.
    pub fn locate(&self, findings: Vec<Finding>, deferred: &[DeferredError]) -> Vec<Diagnostic> {
        let sources: BTreeMap<&str, Source> =
            self.texts.iter().map(|(chunk, text)| (chunk.as_str(), Source::new(text))).collect();
        let main = self.context.main_chunk();
        let mut located: Vec<Diagnostic> = deferred.iter().map(|deferred| self.deferred(deferred)).collect();
        let reads: Vec<&Position> = deferred.iter().filter_map(|deferred| deferred.position.as_ref()).collect();
        let mut without_base = BTreeSet::new();
        for mut finding in findings {
            let (chunk, line, items) = match finding.place {
                FindingLocation::Constructed(number) => match &self.made[number].position {
                    Some(Position { chunk, line }) => {
                        let constructor = self.made[number].constructor.name();
                        let items = sources.get(chunk.as_str()).map(|source| source.call(constructor, *line));
                        (chunk.clone(), Some(*line), items.unwrap_or_default())
                    }
                    None => (main.clone(), None, ItemLines::default()),
                },
                FindingLocation::Item(index) => {
                    let items = sources.get(main.as_str()).map(Source::returned).unwrap_or_default();
                    (main.clone(), items.positional.get(index - 1).copied(), items)
                }
                FindingLocation::Pool => {
                    let items = sources.get(main.as_str()).map(Source::returned).unwrap_or_default();
                    (main.clone(), items.line, items)
                }
                FindingLocation::PoolTable(name) => {
                    let items = sources.get(main.as_str()).map(|source| source.named(name)).unwrap_or_default();
                    (main.clone(), items.line, items)
                }
            };
            // The fields that an undefined `inherit` would have are no mistakes of their own.
            if let (true, FindingLocation::Constructed(number)) = (finding.missing, finding.place)
                && let Some(&written) = items.fields.get("inherit")
                && self.made[number].inherit.is_none()
            {
                let reported = reads.iter().any(|read| read.chunk == chunk && read.line == written);
                let is_nil =
                    self.made[number].table.raw_get::<mlua::Value>("inherit").is_ok_and(|value| value.is_nil());
                if reported || !is_nil || !without_base.insert(number) {
                    continue;
                }
                let subject = label(self.made[number].constructor, &self.made[number].table);
                finding.field = Some("inherit".to_owned());
                finding.message = format!("{subject}: inherit: expected a table, found nil");
                finding.hint = None;
                finding.missing = false;
            }
            let written = finding.field.as_ref().and_then(|field| items.fields.get(field)).copied();
            let line = written.or(line);
            // A nil value that follows from a deferred error is not reported.
            let read_here = |read: &&Position| read.chunk == chunk && Some(read.line) == line;
            let empty = finding.missing || matches!(finding.place, FindingLocation::Item(_));
            if empty && line.is_some() && reads.iter().any(read_here) && (written.is_some() || !finding.missing) {
                continue;
            }
            if finding.missing && written.is_some() {
                finding.message = finding.message.replace(": missing: ", ": ") + ", found nil";
            }
            let file = self.context.path_of(&Position { chunk, line: 0 });
            let Finding { severity, field, message, hint, .. } = finding;
            located.push(Diagnostic { severity, file, line, field, message, hint, trace: Vec::new() });
        }
        self.bounded(located)
    }

    fn deferred(&self, deferred: &DeferredError) -> Diagnostic {
        let (file, line) = match &deferred.position {
            Some(position) => (self.context.path_of(position), Some(position.line)),
            None => (self.context.file.display().to_string(), None),
        };
        Diagnostic { hint: deferred.hint.clone(), ..Diagnostic::error(file, deferred.message.clone()).at(line) }
    }

    /// Sorts them, removes duplicates, and limits their number.
    fn bounded(&self, mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let main = self.context.file.display().to_string();
        diagnostics.sort_by(|one, other| {
            let key = |diagnostic: &Diagnostic| (diagnostic.file != main, diagnostic.file.clone(), diagnostic.line);
            key(one).cmp(&key(other))
        });
        diagnostics.dedup();
        let more = diagnostics.len().saturating_sub(MAX_FINDINGS);
        if more > 0 {
            let errors = diagnostics[MAX_FINDINGS..].iter().any(|one| one.severity == Severity::Error);
            diagnostics.truncate(MAX_FINDINGS);
            let message = format!("and {more} more");
            diagnostics.push(if errors {
                Diagnostic::error(main, message)
            } else {
                Diagnostic::warning(main, message)
            });
        }
        diagnostics
    }
}
