//! The limits and options of an attempt: what the head's daemon and the machine file allow, for each step.

use std::time::Duration;

use crate::daemon::Options;
use crate::hook::HookArguments;
use crate::machine::Machine;
use crate::remote::{SilencePolicy, timeouts};

/// The limits of an attempt on one machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limits {
    /// The options for the machine's daemon.
    pub options: Options,
    /// How long the machine's daemon may be silent while it builds, and otherwise.
    pub build: SilencePolicy,
    pub answer: SilencePolicy,
    /// The interval at which a wait for other transfers is reported.
    pub report_interval: Duration,
}

impl Limits {
    pub fn new(arguments: &HookArguments, machine: &Machine) -> Limits {
        let max_silent_time = arguments.max_silent_time;
        Limits {
            options: options(arguments),
            build: SilencePolicy::build(machine, max_silent_time),
            answer: SilencePolicy::answer(machine, max_silent_time),
            report_interval: timeouts::report_interval(max_silent_time),
        }
    }
}

/// Returns the options of a build for the daemon of a machine.
pub(super) fn options(arguments: &HookArguments) -> Options {
    Options {
        keep_failed: arguments.keep_failed,
        build_timeout: arguments.build_timeout,
        max_silent_time: arguments.max_silent_time,
        // The head's daemon has looked for substitutes of the outputs, unless its client switched that off.
        use_substitutes: false,
        // The trace separates the messages of the daemon about the build from the output of the builder.
        print_build_trace: true,
        multiplexed_build_output: true,
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Substitutes;

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn each_limit_is_that_of_its_source() {
        let machine = |stall_timeout: u64, substitutes| Machine {
            stall_timeout: Duration::from_secs(stall_timeout),
            substitutes,
            ..Machine::new("b1", "offload", Vec::new(), Vec::new())
        };
        // The stream that builds has substitutes off, whatever the machine file says about inputs.
        for (max_silent_time, build_timeout, stall_timeout, substitutes) in [
            (seconds(30), seconds(700), 5, Substitutes::Always),
            (seconds(3600), None, 60, Substitutes::Never),
            (None, seconds(30), 7, Substitutes::Auto),
        ] {
            let keep_failed = build_timeout.is_none();
            let arguments = HookArguments {
                max_silent_time,
                build_timeout,
                keep_failed,
                ..HookArguments::without_limits("x86_64-linux")
            };
            let limits = Limits::new(&arguments, &machine(stall_timeout, substitutes));
            assert_eq!(
                limits.options,
                Options {
                    max_silent_time,
                    build_timeout,
                    keep_failed,
                    use_substitutes: false,
                    print_build_trace: true,
                    multiplexed_build_output: true,
                    ..Options::default()
                }
            );
            let stall_timeout = Duration::from_secs(stall_timeout);
            let silence = max_silent_time.map(|time| time + stall_timeout);
            assert_eq!(limits.build.give_up, silence);
            assert_eq!(limits.answer.give_up, silence.or(seconds(3600)));
            assert_eq!(limits.build.build_start, max_silent_time.or(seconds(3600)));
            assert_eq!(limits.answer.build_start, None);
            assert_eq!(limits.build.trickle, Some(5 * stall_timeout));
            let report_interval = max_silent_time.map_or(30, |time| (time.as_secs() / 3).min(30));
            assert_eq!(Some(limits.report_interval), seconds(report_interval));
        }
    }
}
