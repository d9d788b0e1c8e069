//! The documentation says what is true: every block of code in the README and in `doc/` is run, or checked as far as
//! that can be done; tables of fields, statuses, variables and messages are those of the code; links lead somewhere.
//!
//! What is done with a block depends on its language (`blocks`). One in a language without a rule is a failure, so
//! nothing stays unchecked by oversight. Outputs that a page shows are compared with real ones (`console`).

#[path = "../lab/mod.rs"]
mod lab;

mod blocks;
mod bounds;
mod console;
mod fields;
mod links;
mod messages;
mod page;
mod phrases;
mod quick_start;
mod reference;
mod shell;
mod transcript;
mod wording;
