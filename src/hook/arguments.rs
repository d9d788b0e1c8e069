//! The hook's command line: `[offload] SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT`.
//!
//! The two times are decimal seconds; 0 means that there is no limit. The trace flag is `1` or `0` up to Guix 1.4, and
//! `true` or `false` since. The caller removes the daemon's leading word `offload`.

use std::time::Duration;

use super::request::is_system;

/// The daemon's settings for all builds of one hook process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookArguments {
    /// The daemon's own system type.
    pub system: String,
    /// The time without output after which a build fails; `None`: unlimited.
    pub max_silent_time: Option<Duration>,
    /// Whether the client wants trace lines (`@ build-remote …`).
    pub print_build_trace: bool,
    /// The time after which a build fails; `None`: unlimited.
    pub build_timeout: Option<Duration>,
    /// Whether the machine keeps the directory of a failed build. guix-daemon offloads no such build.
    pub keep_failed: bool,
}

/// An argument that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookArgumentError {
    #[error(
        "the build hook takes four arguments, SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT, and got {0}"
    )]
    Count(usize),
    #[error("{field}: expected {expected}, found '{found}'")]
    Value { field: &'static str, expected: &'static str, found: String },
}

impl HookArguments {
    /// Returns the arguments of a head of this system type without limits.
    pub fn without_limits(system: &str) -> HookArguments {
        HookArguments {
            system: system.to_owned(),
            max_silent_time: None,
            print_build_trace: false,
            build_timeout: None,
            keep_failed: false,
        }
    }

    /// Parses the four arguments.
    pub fn parse(arguments: &[String]) -> Result<HookArguments, HookArgumentError> {
        let [system, max_silent_time, print_build_trace, build_timeout] = arguments else {
            return Err(HookArgumentError::Count(arguments.len()));
        };
        if !is_system(system) {
            return Err(unexpected("SYSTEM", "a system type such as x86_64-linux", system));
        }
        Ok(HookArguments {
            system: system.clone(),
            max_silent_time: seconds("MAX-SILENT-TIME", max_silent_time)?,
            print_build_trace: flag(print_build_trace)?,
            build_timeout: seconds("BUILD-TIMEOUT", build_timeout)?,
            keep_failed: false,
        })
    }
}

fn seconds(field: &'static str, text: &str) -> Result<Option<Duration>, HookArgumentError> {
    // u32, as in the worker protocol that sends the value to the build machine.
    match text.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds.into()))),
        Err(_) => Err(unexpected(field, "a number of seconds", text)),
    }
}

fn flag(text: &str) -> Result<bool, HookArgumentError> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(unexpected("PRINT-BUILD-TRACE?", "0, 1, true or false", text)),
    }
}

fn unexpected(field: &'static str, expected: &'static str, found: &str) -> HookArgumentError {
    HookArgumentError::Value { field, expected, found: found.escape_debug().take(80).collect() }
}

/// Returns the system type of this machine in Guix's notation. guix-daemon gives its own to the build hook; the other
/// programs use that of this one.
pub fn own_system() -> String {
    let processor = match std::env::consts::ARCH {
        "x86" => "i686",
        "arm" => "armhf",
        "powerpc64" => "powerpc64le",
        other => other,
    };
    let kernel = if std::env::consts::OS == "hurd" { "gnu" } else { std::env::consts::OS };
    format!("{processor}-{kernel}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<HookArguments, HookArgumentError> {
        HookArguments::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn both_spellings_of_the_trace_flag_are_read() {
        for (word, value) in [("0", false), ("1", true), ("false", false), ("true", true)] {
            let arguments = parse(&format!("x86_64-linux 3600 {word} 0")).unwrap();
            assert_eq!(arguments.print_build_trace, value);
            assert_eq!(arguments.max_silent_time, Some(Duration::from_secs(3600)));
            assert_eq!(arguments.build_timeout, None);
        }
    }

    #[test]
    fn errors_name_the_argument() {
        let message = |line| parse(line).unwrap_err().to_string();
        assert_eq!(message("x86_64-linux 0 yes 0"), "PRINT-BUILD-TRACE?: expected 0, 1, true or false, found 'yes'");
        assert_eq!(message("x86_64-linux -1 1 0"), "MAX-SILENT-TIME: expected a number of seconds, found '-1'");
        assert!(message("x86_64-linux 0 1").ends_with("got 3"));
        assert!(message("X86 0 1 0").starts_with("SYSTEM: "));
    }
}
