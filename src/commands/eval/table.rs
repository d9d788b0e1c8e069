//! The pool as a table for people.

use std::io::{self, Write};
use std::time::Duration;

use crate::commands::table::{self, Heading, Heading::Number, Heading::Text};
use crate::machine::Machine;
use crate::machine_file::{Fallback, Pool, Settings, SlotWait};

const HEADINGS: [Heading; 6] =
    [Text("NAME"), Text("SYSTEMS"), Number("SLOTS"), Number("SPEED"), Text("FEATURES"), Text("NOTES")];

pub(super) fn write(pool: &Pool, output: &mut dyn Write) -> io::Result<()> {
    let count = match pool.machines.len() {
        0 => "no build machines".to_owned(),
        1 => "1 build machine".to_owned(),
        count => format!("{count} build machines"),
    };
    writeln!(output, "{}: {count}", pool.path.display())?;
    let rows = rows(pool);
    if !rows.is_empty() {
        writeln!(output)?;
        let mut table = table::table(&HEADINGS);
        table.add_rows(rows);
        table::lines(&table).iter().try_for_each(|line| writeln!(output, "{line}"))?;
    }
    writeln!(output)?;
    write_settings(&pool.settings, output)
}

fn rows(pool: &Pool) -> Vec<[String; 6]> {
    let list = |items: &[String]| if items.is_empty() { "-".to_owned() } else { items.join(", ") };
    let machines = pool.machines.iter().map(|entry| {
        let machine = &entry.machine;
        let notes = [
            (!machine.enabled, "disabled"),
            (entry.has_accepts, "accepts"),
            (entry.has_score, "score"),
            (machine.proxy_command.is_some(), "proxy"),
            (machine.keep_connection.is_none(), "no persistent connection"),
        ];
        [
            label(machine),
            list(&machine.systems),
            machine.parallel_builds.to_string(),
            machine.speed.to_string(),
            list(&machine.features),
            list(&notes.iter().filter(|(holds, _)| *holds).map(|(_, note)| (*note).to_owned()).collect::<Vec<_>>()),
        ]
    });
    let head = pool.local.iter().map(|local| {
        let note = if local.enabled { "the head itself" } else { "the head itself, disabled" };
        [
            local.name.escape_debug().to_string(),
            local.systems.as_ref().map_or("its own".to_owned(), |systems| list(systems)),
            "-".to_owned(),
            local.speed.to_string(),
            list(&local.features),
            note.to_owned(),
        ]
    });
    machines.chain(head).collect()
}

/// Returns the name of a machine, with its port if that is not SSH's own.
fn label(machine: &Machine) -> String {
    match machine.port {
        22 => machine.name.clone(),
        port => format!("{}:{port}", machine.name),
    }
}

fn slot_wait(wait: SlotWait) -> String {
    match wait {
        SlotWait::Unlimited => "as long as the daemon allows".to_owned(),
        SlotWait::Limited(time) => format!("{} s", time.as_secs_f64()),
        SlotWait::Function => "a function".to_owned(),
    }
}

fn write_settings(settings: &Settings, output: &mut dyn Write) -> io::Result<()> {
    let given = |function: bool, default: &'static str| if function { "a function" } else { default };
    let fallback = |setting: Option<Fallback>| setting.map_or("a function", Fallback::name);
    let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
    let limits = &settings.limits;
    let lines = [
        ("accepts", given(settings.has_accepts, "every build").to_owned()),
        ("score", given(settings.has_score, "speed / (1 + load)").to_owned()),
        ("when_busy", fallback(settings.when_busy).to_owned()),
        ("when_unreachable", fallback(settings.when_unreachable).to_owned()),
        ("max_attempts", settings.max_attempts.map_or("a function".to_owned(), |attempts| attempts.to_string())),
        ("wait_for_slot", slot_wait(settings.wait_for_slot)),
        ("on_event", given(settings.has_on_event, "none").to_owned()),
        ("wait_for_machine", seconds(settings.wait_for_machine)),
        (
            "limits",
            format!(
                "{} s to evaluate, {} s to decide, {} s for an event, {} MiB",
                limits.evaluate.as_secs_f64(),
                limits.decide.as_secs_f64(),
                limits.on_event.as_secs_f64(),
                limits.memory >> 20
            ),
        ),
    ];
    lines.iter().try_for_each(|(name, value)| writeln!(output, "{name:<16}  {value}"))
}
