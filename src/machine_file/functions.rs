//! The functions that a machine file defines, and whom they are asked about. They stay on the interpreter's thread.

use mlua::{Function, Table, Value};

/// Who could build it.
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
}

impl MachineFunctions {
    pub fn of(table: &Table) -> MachineFunctions {
        let function = |field| table.raw_get(field).ok().as_ref().and_then(Value::as_function).cloned();
        MachineFunctions {
            accepts: function("accepts"),
            score: function("score"),
            when_busy: function("when_busy"),
            when_unreachable: function("when_unreachable"),
        }
    }
}

/// What a machine file says that must stay on that thread.
#[derive(Debug)]
pub(super) struct Functions {
    pub pool: MachineFunctions,
    /// In the order of the entries: the tables that functions are given, and functions.
    pub machines: Vec<(Table, MachineFunctions)>,
    pub local: Option<(Table, MachineFunctions)>,
}

impl Functions {
    /// The table and the functions of a candidate.
    pub fn of(&self, candidate: Candidate) -> Option<&(Table, MachineFunctions)> {
        match candidate {
            Candidate::Machine(index) => self.machines.get(index),
            Candidate::Local => self.local.as_ref(),
        }
    }
}
