//! Reports the events of a build: to the daemon's client, or to the user of a command.

use std::fs::File;

use log::{debug, info, warn};

use super::progress::Progress;
use crate::events::{Event, Observer};
use crate::hook::HookArguments;
use crate::hook::build_log::build_remote;
use crate::remote::timeouts;

/// Prints the most important events, and logs all of them for debugging.
pub struct Reporter<'a> {
    messages: &'a File,
    is_traced: bool,
    progress: Progress<'a>,
}

impl<'a> Reporter<'a> {
    /// Makes a reporter that writes to `messages`: the daemon's pipe, or a terminal if the hook is run by hand.
    pub fn new(arguments: &HookArguments, messages: &'a File) -> Reporter<'a> {
        let line_every = timeouts::report_interval(arguments.max_silent_time);
        Reporter { messages, is_traced: arguments.print_build_trace, progress: Progress::new(messages, line_every) }
    }
}

impl Reporter<'_> {
    /// Reports progress in lines, also to a terminal: several builds share it.
    pub fn in_lines(self) -> Self {
        Reporter { progress: self.progress.in_lines(), ..self }
    }
}

impl Observer for Reporter<'_> {
    fn observe(&mut self, event: &Event<'_>) {
        self.progress.observe(event);
        if let Event::Building { derivation, machine } = event
            && self.is_traced
            && let Err(error) = build_remote(&mut self.messages, derivation, machine)
        {
            debug!("cannot write a trace line: {error}");
        }
        match event {
            Event::Abandoned { .. } => warn!("{event}"),
            Event::Offloading { .. }
            | Event::Preparing { .. }
            | Event::Waiting { .. }
            | Event::WaitingForOther { .. }
            | Event::WaitingForStart { .. }
            | Event::Queueing { .. }
            | Event::Fetching { .. }
            | Event::FetchEnded { .. } => info!("{event}"),
            _ => debug!("{event}"),
        }
    }
}
