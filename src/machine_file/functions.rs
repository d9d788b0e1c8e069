//! The functions that a machine file defines, with their candidates. They stay on the interpreter's thread.

use mlua::{Function, Table, Value};

/// A candidate for a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Candidate {
    /// A build machine, by its index in [`Pool::machines`](super::Pool::machines).
    Machine(usize),
    /// The head itself.
    Local,
}

/// The functions of a machine or of the pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MachineFunctions {
    pub accepts: Option<Function>,
    pub score: Option<Function>,
    pub when_busy: Option<Function>,
    pub when_unreachable: Option<Function>,
    pub max_attempts: Option<Function>,
    pub wait_for_slot: Option<Function>,
    pub on_event: Option<Function>,
}

impl MachineFunctions {
    pub fn of(table: &Table) -> MachineFunctions {
        let function = |field| table.raw_get(field).ok().as_ref().and_then(Value::as_function).cloned();
        MachineFunctions {
            accepts: function("accepts"),
            score: function("score"),
            when_busy: function("when_busy"),
            when_unreachable: function("when_unreachable"),
            max_attempts: function("max_attempts"),
            wait_for_slot: function("wait_for_slot"),
            on_event: function("on_event"),
        }
    }
}

/// The parts of a machine file that must stay on that thread.
#[derive(Debug)]
pub(super) struct Functions {
    pub pool: MachineFunctions,
    /// In the order of the entries: the tables that functions receive, and the functions of the machine.
    pub machines: Vec<(Table, MachineFunctions)>,
    pub local: Option<(Table, MachineFunctions)>,
}

impl Functions {
    /// Returns the table and the functions of a candidate.
    pub fn of(&self, candidate: Candidate) -> Option<&(Table, MachineFunctions)> {
        match candidate {
            Candidate::Machine(index) => self.machines.get(index),
            Candidate::Local => self.local.as_ref(),
        }
    }
}
