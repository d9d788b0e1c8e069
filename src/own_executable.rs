//! Starts the executable of this process again, under another name.
//!
//! The executable is `/proc/self/exe`, even if its file was replaced. If a user started the program through the dynamic
//! loader (`ld-linux… --library-path DIRECTORY PROGRAM …`), as on a machine whose C library is too old, `/proc/self/exe`
//! is the loader. Then the words before the program's own arguments are needed too. `/proc/self/cmdline` has all of them.
//! `--argv0` of the loader (glibc 2.33 and later) gives the program its name. Source: ld.so(8), proc(5).

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// The loader's option for the name of the program.
const NAME_OPTION: &str = "--argv0";

/// Returns whether the executable can be started again. It cannot where `/proc` is hidden.
pub fn can_start() -> bool {
    Path::new(OWN_EXECUTABLE).exists()
}

/// Returns whether a user started the program through the dynamic loader.
pub fn is_through_loader() -> bool {
    loader_words(own_words(), env::args_os().count(), NAME_OPTION).is_some()
}

/// Returns the command line of this process. The last word is empty.
fn own_words() -> Vec<OsString> {
    let all = fs::read("/proc/self/cmdline").unwrap_or_default();
    all.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

/// Returns a command that starts the executable under `name`. The caller adds arguments.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(OWN_EXECUTABLE);
    match loader_words(own_words(), env::args_os().count(), name) {
        Some((loader, arguments)) => command.arg0(loader).args(arguments),
        None => command.arg0(name),
    };
    command
}

/// Returns the loader and its arguments, with `name` as the name of the program, if the process with the command line
/// `words` was started through the loader. `count` is the number of the program's arguments, its own name included. The
/// last word is empty, because each word ends with a zero byte.
fn loader_words(mut words: Vec<OsString>, count: usize, name: &str) -> Option<(OsString, Vec<OsString>)> {
    words.pop();
    words.truncate((words.len() + 1).checked_sub(count)?);
    let mut words = words.into_iter();
    let (loader, program) = (words.next()?, words.next_back()?);
    let mut arguments: Vec<OsString> = words.collect();
    if let Some(at) = arguments.iter().position(|word| word == NAME_OPTION) {
        arguments.drain(at..arguments.len().min(at + 2));
    }
    arguments.extend([OsStr::new(NAME_OPTION), OsStr::new(name), program.as_os_str()].map(OsStr::to_owned));
    Some((loader, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str, count: usize) -> Option<String> {
        // As in /proc, with an end after the last word.
        let words = line.split(' ').chain([""]).map(OsString::from).collect();
        let (loader, arguments) = loader_words(words, count, "other")?;
        let all: Vec<String> = [loader].into_iter().chain(arguments).map(|word| word.into_string().unwrap()).collect();
        Some(all.join(" "))
    }

    #[test]
    fn the_loader_gets_its_own_words_and_the_new_name() {
        assert_eq!(words("/opt/offload/guix", 1), None);
        assert_eq!(words("guix offload x86_64-linux 3600 0 0", 6), None);
        // With fewer words than arguments, as where a process has changed what others see.
        assert_eq!(words("guix", 6), None);
        let started = "/lib/ld.so --argv0 other /opt/offload";
        assert_eq!(words("/lib/ld.so /opt/offload", 1).as_deref(), Some(started));
        assert_eq!(words("/lib/ld.so /opt/offload --argv0 x", 3).as_deref(), Some(started));
        let started = "/lib/ld.so --library-path /lib --argv0 other /opt/offload";
        assert_eq!(
            words("/lib/ld.so --library-path /lib --argv0 guix /opt/offload offload a", 3).as_deref(),
            Some(started)
        );
        assert_eq!(words("/lib/ld.so --argv0 guix --library-path /lib /opt/offload", 1).as_deref(), Some(started));
    }

    #[test]
    fn this_test_can_be_started_again() {
        assert!(can_start());
        let output = command("other").arg("--list").output().unwrap();
        let list = String::from_utf8(output.stdout).unwrap();
        assert!(list.contains("own_executable::tests::this_test_can_be_started_again"), "{list}");
    }
}
