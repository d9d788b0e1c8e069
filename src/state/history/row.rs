//! A row of the history.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::state::health::Time;

/// The longest reason that is stored, in characters.
const MAX_REASON: usize = 1000;

/// The longest other text that is stored, in characters: more than any name of a store item or a host has.
const MAX_TEXT: usize = 512;

macro_rules! outcomes {
    ($($(#[$about:meta])* $name:ident = $word:literal,)*) => {
        /// How an attempt or a request ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Outcome {
            $($(#[$about])* $name,)*
        }

        impl Outcome {
            /// All outcomes.
            pub const ALL: &[Outcome] = &[$(Outcome::$name,)*];

            /// Returns its word, as in JSON.
            pub fn word(self) -> &'static str {
                match self {
                    $(Outcome::$name => $word,)*
                }
            }
        }
    };
}

outcomes! {
    /// The machine has built it, and the outputs are in the store.
    Built = "built",
    /// The machine's daemon reports that the build failed.
    BuildFailed = "build-failed",
    /// The machine's daemon reports that a time limit was exceeded.
    TimedOut = "timed-out",
    /// The machine or the connection failed, or the machine's daemon refused the build.
    MachineFailed = "machine-failed",
    /// This machine, the head, failed.
    HeadFailed = "head-failed",
    /// The build was accepted, and no machine was left to try or became free in time.
    NoMachine = "no-machine",
    /// A signal ended the hook, or the program that embeds the library cancelled the build.
    Cancelled = "cancelled",
    /// The request was declined.
    Declined = "declined",
    /// The request was postponed.
    Postponed = "postponed",
}

impl Outcome {
    /// Returns the outcome that has this word.
    pub fn parse(word: &str) -> Option<Outcome> {
        Outcome::ALL.iter().copied().find(|outcome| outcome.word() == word)
    }

    /// Returns whether something failed.
    pub fn is_failure(self) -> bool {
        match self {
            Outcome::BuildFailed
            | Outcome::TimedOut
            | Outcome::MachineFailed
            | Outcome::HeadFailed
            | Outcome::NoMachine => true,
            Outcome::Built | Outcome::Cancelled | Outcome::Declined | Outcome::Postponed => false,
        }
    }

    /// Returns whether this is about a request that was not accepted.
    pub fn is_request(self) -> bool {
        matches!(self, Outcome::Declined | Outcome::Postponed)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// An attempt on a machine, or a request that was not accepted. Times of phases are in milliseconds; of a phase that did
/// not begin, 0. JSON has these names, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub derivation: String,
    /// The name of the derivation, without its hash and `.drv`.
    pub name: String,
    pub system: String,
    /// The user whose command requested the build, if known.
    pub user: Option<String>,
    /// The host name of the head.
    pub head: String,
    /// The machine, with its port if that is not 22; none if no machine was chosen.
    pub machine: Option<String>,
    /// The number of its slot there, from 0; none if it was not recorded.
    pub slot: Option<u32>,
    /// The number of the attempt, from 1; 0 if there was none.
    pub attempt: u32,
    pub outcome: Outcome,
    /// Why it failed, or was not accepted.
    pub reason: Option<String>,
    /// How many times the same reply was given in a row; 1 for attempts.
    pub requests: u64,
    /// When the wait for a machine, or the request, began. Milliseconds since 1970.
    pub started: Time,
    /// When it ended; of several requests, the last one.
    pub ended: Time,
    pub waiting: u64,
    /// Connecting, and sending the missing inputs.
    pub sending: u64,
    pub building: u64,
    pub retrieving: u64,
    /// Moving the outputs into the store.
    pub placing: u64,
    /// Whether the connection was open before; none if there was no connection.
    pub reused_connection: Option<bool>,
    pub sent_items: u64,
    pub sent_bytes: u64,
    /// What the machine fetched from its substitute servers.
    #[serde(rename = "fetched_items")]
    pub substituted_items: u64,
    #[serde(rename = "fetched_bytes")]
    pub substituted_bytes: u64,
    pub retrieved_items: u64,
    pub retrieved_bytes: u64,
}

impl Row {
    /// Returns a row of `derivation`, a store file name such as `/gnu/store/…-hello-2.12.drv`, that began and ended at
    /// `now`. All other values are empty.
    pub fn new(derivation: &str, system: &str, outcome: Outcome, now: Time) -> Row {
        Row {
            derivation: derivation.to_owned(),
            name: name_of(derivation).to_owned(),
            system: system.to_owned(),
            user: None,
            head: String::new(),
            machine: None,
            slot: None,
            attempt: 0,
            outcome,
            reason: None,
            requests: 1,
            started: now,
            ended: now,
            waiting: 0,
            sending: 0,
            building: 0,
            retrieving: 0,
            placing: 0,
            reused_connection: None,
            sent_items: 0,
            sent_bytes: 0,
            substituted_items: 0,
            substituted_bytes: 0,
            retrieved_items: 0,
            retrieved_bytes: 0,
        }
    }

    /// Returns the time that a slot of the machine was taken, in milliseconds.
    pub fn busy(&self) -> u64 {
        [self.building, self.retrieving].iter().fold(self.sending, |sum, phase| sum.saturating_add(*phase))
    }

    /// Returns the time that the build took apart from waiting and from the builder itself, in milliseconds.
    pub fn overhead(&self) -> u64 {
        [self.retrieving, self.placing].iter().fold(self.sending, |sum, phase| sum.saturating_add(*phase))
    }

    /// Returns the row with texts of limited length.
    pub(super) fn shortened(&self) -> Row {
        let mut row = self.clone();
        let texts = [&mut row.derivation, &mut row.name, &mut row.system, &mut row.head];
        for text in texts.into_iter().chain(&mut row.user).chain(&mut row.machine) {
            shorten(text, MAX_TEXT);
        }
        row.reason.iter_mut().for_each(|reason| shorten(reason, MAX_REASON));
        row
    }
}

fn shorten(text: &mut String, limit: usize) {
    if let Some((end, _)) = text.char_indices().nth(limit) {
        text.truncate(end);
    }
}

/// Returns the name of a derivation, without its hash and `.drv`.
fn name_of(derivation: &str) -> &str {
    let base = derivation.rsplit('/').next().unwrap_or(derivation);
    let name = base.split_once('-').map_or(base, |(_, name)| name);
    name.strip_suffix(".drv").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_the_word_of_its_json() {
        for &outcome in Outcome::ALL {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), format!("\"{outcome}\""));
            assert_eq!(Outcome::parse(outcome.word()), Some(outcome));
        }
        assert_eq!(Outcome::parse("Built"), None);
        let failures: Vec<&str> =
            Outcome::ALL.iter().filter(|outcome| outcome.is_failure()).map(|outcome| outcome.word()).collect();
        assert_eq!(failures, ["build-failed", "timed-out", "machine-failed", "head-failed", "no-machine"]);
    }

    #[test]
    fn a_row_has_the_name_of_its_derivation() {
        let row = |drv| Row::new(drv, "x86_64-linux", Outcome::Built, 5);
        assert_eq!(row("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-hello-2.12.1.drv").name, "hello-2.12.1");
        assert_eq!(row("odd").name, "odd");
        assert_eq!((row("odd").started, row("odd").ended), (5, 5));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut row = Row::new("/x", "y", Outcome::Declined, 0);
        (row.reason, row.name) = (Some("é".repeat(2000)), "é".repeat(2000));
        let short = row.shortened();
        assert_eq!(short.reason.unwrap().chars().count(), MAX_REASON);
        assert_eq!(short.name.chars().count(), MAX_TEXT);
    }
}
