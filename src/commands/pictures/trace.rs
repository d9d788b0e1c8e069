//! The history in Chrome's trace format, for trace viewers such as Perfetto.
//!
//! A machine is a process, a slot is a thread, and a build is a slice with its phases inside. Waiting and placing take no slot:
//! they are asynchronous slices of the machine. Requests and failures without a machine belong to a process of their own.
//! Times are microseconds since 1970. Source: "Trace Event Format" of the Chromium project; `tests/golden/trace.schema.json`
//! is its part that is used here.
//!
//! Numbers of processes begin with 1, and no two threads have the same number: viewers take 0 for the idle thread of a kernel.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::lanes::{Lane, Span, lanes};
use super::units::MAX_TIME;
use crate::state::health::Time;
use crate::state::history::Row;

#[derive(Default, Serialize)]
struct Event<'a> {
    name: &'a str,
    ph: &'static str,
    pid: usize,
    tid: usize,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The scope of an instant: its thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Arguments<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Arguments<'a> {
    Name { name: &'a str },
    Index { sort_index: usize },
    Row(&'a Row),
}

/// Writes the trace. The rows may be in any order.
pub fn write(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let mut trace = Trace { out, is_first: true, number: 0 };
    trace.out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    let lanes = lanes(rows);
    let mut machines: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, lane) in lanes.iter().enumerate() {
        let next = machines.len() + 1;
        let (pid, tid) = (*machines.entry(lane.machine).or_insert(next), at + 1);
        if pid == next {
            trace.names("process", lane.machine, (pid, tid), pid)?;
        }
        trace.names("thread", &format!("slot {}", lane.slot), (pid, tid), tid)?;
        trace.lane(lane, pid, tid)?;
    }
    let (pid, tid) = (machines.len() + 1, lanes.len() + 1);
    let mut others = rows.iter().filter(|row| row.machine.is_none()).peekable();
    if others.peek().is_some() {
        trace.names("process", "no machine", (pid, tid), pid)?;
        trace.names("thread", "requests", (pid, tid), tid)?;
    }
    for row in others {
        let (from, ended) = (micros(row.started), micros(row.started.saturating_add(row.waiting)));
        trace.asynchronous(&row.name, "waiting", (from, ended), (pid, tid))?;
        let (cat, args) = (Some(row.outcome.word()), Some(Arguments::Row(row)));
        let base = Event { name: &row.name, pid, tid, ..Event::default() };
        trace.add(&Event { ph: "i", ts: micros(row.ended), cat, s: Some("t"), args, ..base })?;
    }
    trace.out.write_all(b"\n]}\n")
}

fn micros(time: Time) -> u64 {
    time.min(MAX_TIME) * 1000
}

struct Trace<'a> {
    out: &'a mut dyn Write,
    is_first: bool,
    /// The number of asynchronous slices.
    number: u64,
}

impl Trace<'_> {
    fn add(&mut self, event: &Event<'_>) -> io::Result<()> {
        if !std::mem::replace(&mut self.is_first, false) {
            self.out.write_all(b",\n")?;
        }
        Ok(serde_json::to_writer(&mut *self.out, event)?)
    }

    /// Names a process or a thread, and gives it its place.
    fn names(&mut self, kind: &str, name: &str, (pid, tid): (usize, usize), sort_index: usize) -> io::Result<()> {
        let (named, index) = (format!("{kind}_name"), format!("{kind}_sort_index"));
        let event = |name, args| Event { name, ph: "M", pid, tid, args: Some(args), ..Event::default() };
        self.add(&event(&named, Arguments::Name { name }))?;
        self.add(&event(&index, Arguments::Index { sort_index }))
    }

    fn lane(&mut self, lane: &Lane<'_>, pid: usize, tid: usize) -> io::Result<()> {
        for span in &lane.spans {
            let &Span { row, requested, from, to, placed, .. } = span;
            self.asynchronous(&row.name, "waiting", (micros(requested), micros(from)), (pid, tid))?;
            let slice = |name, cat, from: Time, to: Time, args| {
                let (ts, dur) = (micros(from), Some(micros(to) - micros(from)));
                Event { name, ph: "X", pid, tid, ts, cat: Some(cat), dur, args, ..Event::default() }
            };
            self.add(&slice(&row.name, row.outcome.word(), from, to, Some(Arguments::Row(row))))?;
            for (phase, begin, end) in span.phases().into_iter().filter(|(_, begin, end)| end > begin) {
                self.add(&slice(phase, "phase", begin, end, None))?;
            }
            self.asynchronous(&row.name, "placing", (micros(to), micros(placed)), (pid, tid))?;
        }
        Ok(())
    }

    /// Adds a slice that may overlap others, unless it has no length.
    fn asynchronous(
        &mut self,
        name: &str,
        phase: &'static str,
        (from, to): (u64, u64),
        (pid, tid): (usize, usize),
    ) -> io::Result<()> {
        if to <= from {
            return Ok(());
        }
        self.number += 1;
        let id = || Some(format!("{:#x}", self.number));
        let (begin, end) = (id(), id());
        let cat = Some(phase);
        self.add(&Event { name, ph: "b", pid, tid, ts: from, cat, id: begin, ..Event::default() })?;
        self.add(&Event { name, ph: "e", pid, tid, ts: to, cat, id: end, ..Event::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::history::Outcome;

    #[test]
    fn machines_are_processes_slots_are_threads_and_phases_are_inside_builds() {
        let row = Row::new("/gnu/store/x-a.drv", "x86_64-linux", Outcome::Built, 1);
        let [waiting, sending, building, retrieving, placing] = [10, 20, 30, 0, 50];
        let machine = Some("b\"1".to_owned());
        let built = Row { machine, slot: Some(4), waiting, sending, building, retrieving, placing, ..row.clone() };
        let declined = Row { outcome: Outcome::Declined, ended: 9, ..row };
        let mut text = Vec::new();
        write(&[declined, built], &mut text).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let shown = |event: &serde_json::Value| {
            let number = |name: &str| event[name].as_u64().unwrap();
            let text = |name: &str| event[name].as_str().unwrap_or("").to_owned();
            let named = event["args"]["name"].as_str().unwrap_or("");
            let times = format!("{} {}", number("ts"), event["dur"].as_u64().unwrap_or(0));
            format!(
                "{}/{} {} {} {} {} {named}",
                number("pid"),
                number("tid"),
                text("ph"),
                text("name"),
                text("cat"),
                times
            )
        };
        let events: Vec<String> = trace["traceEvents"].as_array().unwrap().iter().map(shown).collect();
        let expected = [
            "1/1 M process_name  0 0 b\"1",
            "1/1 M process_sort_index  0 0 ",
            "1/1 M thread_name  0 0 slot 4",
            "1/1 M thread_sort_index  0 0 ",
            "1/1 b a waiting 1000 0 ",
            "1/1 e a waiting 11000 0 ",
            "1/1 X a built 11000 50000 a",
            "1/1 X sending phase 11000 20000 ",
            "1/1 X building phase 31000 30000 ",
            "1/1 b a placing 61000 0 ",
            "1/1 e a placing 111000 0 ",
            "2/2 M process_name  0 0 no machine",
            "2/2 M process_sort_index  0 0 ",
            "2/2 M thread_name  0 0 requests",
            "2/2 M thread_sort_index  0 0 ",
            "2/2 i a declined 9000 0 a",
        ];
        assert_eq!(events, expected);
    }
}
