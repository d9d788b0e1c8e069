//! Evaluation of a machine file: run it, decode its result, check the whole; all errors are in one report.

use super::constructors::{Constructor, ConstructorCall};
use super::diagnostic::{Diagnostic, Report, Severity};
use super::duplicates;
use super::fields::{Fields, Finding, FindingLocation, Subject};
use super::functions::{Functions, MachineFunctions};
use super::loaded_file::LoadedFile;
use super::locate::Locator;
use super::machine_fields::{BUILD_MACHINE_FIELDS, Entry, LOCAL_MACHINE_FIELDS, LocalMachine};
use super::schema::{self, Field};
use super::settings::{self, Limits, POOL_FIELDS, Settings};
use super::shared;
use crate::lua::values::describe;
use crate::lua::{DeferredError, FileRun, LuaError, Runtime, Source};
use mlua::chunk::ChunkMode;
use mlua::{Function, Table, Value};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// The contents of a machine file, as values that can leave the interpreter's thread.
#[derive(Debug)]
pub(super) struct Evaluated {
    pub machines: Vec<Entry>,
    pub local: Option<LocalMachine>,
    pub settings: Settings,
    pub warnings: Vec<Diagnostic>,
}

/// Returns the limits that the text of a machine file has as `limits = { … }`.
///
/// They are needed before the file has been evaluated, so the text of the table is evaluated alone, without variables.
/// Computed limits take effect only after the evaluation.
pub(super) fn limits(runtime: &Runtime, text: &str, limits: Limits) -> Limits {
    // Most files have none, and large ones take long to scan.
    if !text.contains("limits") {
        return limits;
    }
    let Some(range) = Source::new(text).table_after("limits") else { return limits };
    let table = runtime.limited(|lua| {
        let text = format!("return {}", &text[range]);
        lua.load(text)
            .set_name("=limits")
            .set_mode(ChunkMode::Text)
            .set_environment(lua.create_table()?)
            .eval::<Table>()
    });
    table.map_or(limits, |table| settings::stated_limits(&table, limits))
}

/// Evaluates a machine file with these `limits`.
pub(super) fn evaluate(file: &mut LoadedFile, text: &[u8], limits: Limits) -> Result<Evaluated, Report> {
    let FileRun { result, deferred } = file.runtime.run_file(text);
    let context = &file.runtime.context;
    let made = file.made.take();
    let numbers = made.iter().enumerate().map(|(number, made)| (made.table.to_pointer() as usize, number)).collect();
    let home = context.home.clone();
    let mut decoder = Decoder { made: &made, numbers, findings: Vec::new(), limits, home };
    let (decoded, lua_error) = match result {
        Ok(value) => (decoder.returned(&value), None),
        Err(error) => {
            decoder.constructed();
            (None, Some(error))
        }
    };
    let findings = decoder.findings;
    let mut diagnostics = Vec::new();
    if !(findings.is_empty() && deferred.is_empty()) {
        diagnostics = Locator::new(context, &made).locate(findings, &deferred);
    }
    if let Some(lua_error) = lua_error.filter(|lua_error| !follows(lua_error, &deferred)) {
        diagnostics.push(Diagnostic::of_lua_error(lua_error, context));
    }
    let failed = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    match decoded {
        Some((mut evaluated, functions)) if !failed => {
            mark_soonest(&mut evaluated, &functions, file.soonest.as_ref());
            context.set_memory(evaluated.settings.limits.memory);
            file.functions = Some(functions);
            evaluated.warnings = diagnostics;
            Ok(evaluated)
        }
        _ => Err(Report { diagnostics }),
    }
}

/// Records which scores are `offload.soonest` itself, so that the engine computes them.
fn mark_soonest(evaluated: &mut Evaluated, functions: &Functions, soonest: Option<&Function>) {
    let is_soonest = |functions: &MachineFunctions| functions.score.is_some() && functions.score.as_ref() == soonest;
    evaluated.settings.scores_soonest = is_soonest(&functions.pool);
    for (entry, (_, functions)) in evaluated.machines.iter_mut().zip(&functions.machines) {
        entry.scores_soonest = is_soonest(functions);
    }
    if let (Some(local), Some((_, functions))) = (&mut evaluated.local, &functions.local) {
        local.scores_soonest = is_soonest(functions);
    }
}

/// Returns whether an error repeats a deferred one, or is a consequence of it.
fn follows(lua_error: &LuaError, deferred: &[DeferredError]) -> bool {
    deferred.iter().any(|deferred| {
        let named = deferred.global.as_ref().map(|global| format!("(global '{global}')"));
        lua_error.message == deferred.message || named.is_some_and(|name| lua_error.message.contains(&name))
    })
}

struct Decoder<'a> {
    made: &'a [ConstructorCall],
    /// The number of the call that made a table, by the table's address. All of them exist as long as `made`.
    numbers: HashMap<usize, usize>,
    findings: Vec<Finding>,
    limits: Limits,
    home: Option<PathBuf>,
}

impl Decoder<'_> {
    fn error(&mut self, place: FindingLocation, message: String, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        let finding = Finding { severity: Severity::Error, place, field: None, message, hint, missing: false };
        self.findings.push(finding);
    }

    /// Checks the constructors' calls of a file that did not run to its end.
    fn constructed(&mut self) {
        let address = |table: &Table| table.to_pointer() as usize;
        let bases: HashSet<usize> = self.made.iter().filter_map(|made| made.inherit.as_ref().map(address)).collect();
        let base = |made: &ConstructorCall| bases.contains(&address(&made.table));
        let whole: Vec<usize> = (0..self.made.len().min(1000)).filter(|&index| !base(&self.made[index])).collect();
        for index in whole {
            match self.made[index].constructor {
                Constructor::Build => drop(self.build(index)),
                Constructor::Local => drop(self.local(index)),
            }
        }
    }

    /// Decodes the result of the file.
    fn returned(&mut self, value: &Value) -> Option<(Evaluated, Functions)> {
        const EXPECTED: &str = "expected the machine file to return a list of build machines";
        let Value::Table(pool) = value else {
            let hint = value.is_nil().then_some("end the file with: return { build_machine { … } }");
            self.error(FindingLocation::Pool, format!("{EXPECTED}, found {}", describe(value)), hint);
            return None;
        };
        if self.number_of(pool).is_some() {
            let hint = Some("put it into a list: return { build_machine { … } }");
            self.error(FindingLocation::Pool, format!("{EXPECTED}, found {}", describe(value)), hint);
            return None;
        }
        let mut settings = Settings { limits: self.limits, ..Settings::default() };
        let mut fields = Fields::new(pool, FindingLocation::Pool, Subject::Pool, &mut self.findings);
        fields.home = self.home.as_deref();
        schema::read(POOL_FIELDS, &mut fields, &mut settings);
        let mut functions = Functions { pool: MachineFunctions::of(pool), machines: Vec::new(), local: None };
        let (machines, local) = self.items(pool, &mut functions);
        if settings.shared.is_some() {
            self.findings.extend(shared::on_demand_finding(&machines));
        }
        Some((Evaluated { machines, local, settings, warnings: Vec::new() }, functions))
    }

    fn items(&mut self, pool: &Table, functions: &mut Functions) -> (Vec<Entry>, Option<LocalMachine>) {
        let pairs = pool.pairs::<Value, Value>().filter_map(Result::ok);
        let items = pairs.filter_map(|(key, value)| Some((key.as_integer().filter(|_| key.is_integer())?, value)));
        let mut items: Vec<(i64, Value)> = items.collect();
        items.sort_by_key(|(index, _)| *index);
        if items.first().is_some_and(|(index, _)| *index < 1) {
            self.error(FindingLocation::Pool, "the list of machines begins before index 1".to_owned(), None);
        }
        // Each hole is an error, and the items behind it are checked, too.
        let mut expected = 1;
        for (index, _) in items.iter().filter(|(index, _)| *index >= 1) {
            if *index > expected {
                let place = usize::try_from(expected).map_or(FindingLocation::Pool, FindingLocation::Item);
                let hint = Some("an expression there is nil");
                self.error(place, format!("the list of machines has nothing at index {expected}"), hint);
            }
            expected = index.saturating_add(1);
        }
        let (mut machines, mut numbers, mut local) = (Vec::new(), Vec::new(), None);
        for (index, item) in &items {
            let index = usize::try_from(*index).unwrap_or_default();
            let number = item.as_table().and_then(|table| self.number_of(table));
            match number.map(|number| (number, self.made[number].constructor)) {
                Some((number, Constructor::Build)) => {
                    if let Some(entry) = self.build(number) {
                        let table = &self.made[number].table;
                        let has_functions = entry.has_accepts || entry.has_score;
                        let own = if has_functions { MachineFunctions::of(table) } else { MachineFunctions::default() };
                        machines.push(entry);
                        functions.machines.push((table.clone(), own));
                        numbers.push(number);
                    }
                }
                Some((number, Constructor::Local)) if local.is_some() => {
                    let message = "local_machine: the pool has one already; there is one head only".to_owned();
                    self.error(FindingLocation::Constructed(number), message, None);
                }
                Some((number, Constructor::Local)) => {
                    let table = &self.made[number].table;
                    local = Some(self.local(number));
                    functions.local = Some((table.clone(), MachineFunctions::of(table)));
                }
                None => {
                    let message = format!("machine {index}: expected a build_machine, found {}", describe(item));
                    let hint = item.is_table().then_some("write build_machine { … }, also around a copy");
                    self.error(FindingLocation::Item(index), message, hint);
                }
            }
        }
        duplicates::check(&machines, &functions.machines, &numbers, &mut self.findings);
        (machines, local)
    }

    /// Returns the number of the call that made this table.
    fn number_of(&self, table: &Table) -> Option<usize> {
        self.numbers.get(&(table.to_pointer() as usize)).copied()
    }

    fn build(&mut self, number: usize) -> Option<Entry> {
        let line = self.made[number].position.as_ref().map(|position| position.line);
        let mut entry = Entry { line, ..Entry::default() };
        self.read(number, BUILD_MACHINE_FIELDS, &mut entry).then_some(entry)
    }

    fn local(&mut self, number: usize) -> LocalMachine {
        let mut machine = LocalMachine::default();
        self.read(number, LOCAL_MACHINE_FIELDS, &mut machine);
        machine
    }

    /// Reads the table of a constructor's call. Returns false if the result cannot be used.
    fn read<T>(&mut self, number: usize, schema: &[Field<T>], value: &mut T) -> bool {
        let made = &self.made[number];
        let place = FindingLocation::Constructed(number);
        if let Some(instead) = &made.instead {
            let name = made.constructor.name();
            let message = format!("{name}: expected a table, found {}", describe(instead));
            self.error(place, message, Some(&format!("write {name} {{ … }}")));
            return false;
        }
        let subject = Subject::Machine(made.constructor.name());
        let mut fields = Fields::new(&made.table, place, subject, &mut self.findings);
        fields.home = self.home.as_deref();
        schema::read(schema, &mut fields, value)
    }
}
