//! Reports the events of a build: to the daemon's client, or to the user of a command.

use std::fs::File;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::progress::Progress;
use crate::events::{Event, Observer};
use crate::hook::HookArguments;
use crate::hook::build_log::build_remote;
use crate::logging;
use crate::remote::timeouts;
use crate::state::{Queue, StateDirectory, health, wait_reports};

/// The reports of the builds of one client that wait: one line now and then for all of them.
pub struct SharedWaits<'a> {
    state: &'a StateDirectory,
    /// guix-daemon's process for the client.
    client: u32,
    /// The longest silence of this hook, because of the daemon's timer.
    silence: Option<Duration>,
    last_line: Instant,
}

impl<'a> SharedWaits<'a> {
    /// Shares the reports with the other hooks of this process of guix-daemon.
    pub fn new(state: &'a StateDirectory, client: u32, arguments: &HookArguments) -> SharedWaits<'a> {
        let silence = timeouts::silence_report_interval(arguments.max_silent_time);
        SharedWaits { state, client, silence, last_line: Instant::now() }
    }

    /// Returns whether this hook reports now that it waits.
    fn is_due(&mut self, is_reachable: bool) -> bool {
        let is_silent = self.silence.is_some_and(|silence| self.last_line.elapsed() >= silence);
        let interval = timeouts::report_interval(None);
        let is_due = is_silent
            || wait_reports::is_due(self.state, (self.client, is_reachable), interval, health::now()).unwrap_or_else(
                |error| {
                    debug!("{error}");
                    true
                },
            );
        if is_due {
            self.last_line = Instant::now();
        }
        is_due
    }

    /// Reports how many builds wait, beside the one whose report this is.
    fn report_others(&self) {
        match Queue::length(self.state).unwrap_or(0) {
            0 | 1 => {}
            count => info!("{count} builds wait for a build slot; `offload status` shows them"),
        }
    }
}

/// Prints the most important events, and logs all of them for debugging.
pub struct Reporter<'a> {
    messages: &'a File,
    is_traced: bool,
    shared: Option<SharedWaits<'a>>,
    progress: Progress<'a>,
}

impl<'a> Reporter<'a> {
    /// Makes a reporter that writes to `messages`: the daemon's pipe, or a terminal if the hook is run by hand.
    pub fn new(arguments: &HookArguments, messages: &'a File) -> Reporter<'a> {
        let line_every = timeouts::report_interval(arguments.max_silent_time);
        let progress = Progress::new(messages, line_every);
        Reporter { messages, is_traced: arguments.print_build_trace, shared: None, progress }
    }
}

impl<'a> Reporter<'a> {
    /// Reports waits together with other hooks.
    pub fn sharing(self, waits: SharedWaits<'a>) -> Self {
        Reporter { shared: Some(waits), ..self }
    }

    /// Reports progress in lines, also to a terminal: several builds share it.
    pub fn in_lines(self) -> Self {
        Reporter { progress: self.progress.in_lines(), ..self }
    }
}

impl Observer for Reporter<'_> {
    fn observe(&mut self, event: &Event<'_>) {
        // Only a hook looks for levels.
        logging::refresh();
        self.progress.observe(event);
        if let Event::Building { derivation, machine } = event
            && self.is_traced
            && let Err(error) = build_remote(&mut self.messages, derivation, machine)
        {
            debug!("cannot write a trace line: {error}");
        }
        match event {
            Event::Abandoned { .. } => warn!("{event}"),
            Event::Waiting { seconds, is_reachable, .. } => {
                let is_due = self.shared.as_mut().is_none_or(|waits| waits.is_due(*is_reachable));
                match &self.shared {
                    _ if !is_due => debug!("{event}"),
                    Some(waits) if *seconds > 0 => {
                        info!("{event}");
                        waits.report_others();
                    }
                    _ => info!("{event}"),
                }
            }
            // The first line of the build log names the machine, and the daemon's client may print a line of its own.
            Event::Preparing { .. }
            | Event::WaitingForOther { .. }
            | Event::WaitingForStart { .. }
            | Event::Queueing { .. }
            | Event::Fetching { .. }
            | Event::FetchEnded { .. } => info!("{event}"),
            _ => debug!("{event}"),
        }
    }
}
