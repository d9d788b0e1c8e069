//! Dispatches the arguments of the program: to the build hook, a subcommand, or the real `guix`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;

use clap::{CommandFactory, FromArgMatches};
use env_logger::Target;

use super::as_user::AsUserError;
use super::failure::{CommandError, CommandResult};
use super::{Command, CommandLine};
use super::{
    add, annotations, as_user, authorize, build, build_hook, challenge, complete, convert, daemon_user, disconnect,
    documents, drain, eval, explain, guix_wrapper, help, history, history_file, init, install, log, log_level,
    machines, metrics, on_event, power, report, shared, ssh, status, test,
};
use crate::engine::{Engine, STATE_SUBDIRECTORY};
use crate::exit::ExitStatus;
use crate::hook::HookArguments;
use crate::local::Directories;
use crate::logging;
use crate::permissions::User;
use crate::remote::owner;

/// Runs the program with its arguments, the program's own name first.
///
/// Under the name `guix` only `offload` is handled here; other commands run the real `guix`. guix-daemon puts the word
/// `offload` before the hook's arguments.
pub fn main(mut arguments: Vec<OsString>) -> ExitStatus {
    owner::serve_if_asked(&arguments);
    let argv0 = if arguments.is_empty() { OsString::from("offload") } else { arguments.remove(0) };
    let has_leading_word = arguments.first().is_some_and(|word| word == OsStr::new("offload"));
    if guix_wrapper::is_called_as_guix(&argv0) && !has_leading_word {
        eprintln!("guix: error: {}", guix_wrapper::exec_real_guix(&argv0, &arguments));
        return ExitStatus::Failure;
    }
    if has_leading_word {
        arguments.remove(0);
    }
    if as_user::is_wanted(&arguments)
        && let Err(error) = as_user::become_user(&mut arguments)
    {
        eprintln!("offload: error: {error}");
        return ExitStatus::Failure;
    }
    if is_build_hook(&arguments) {
        return build_hook::run(&arguments);
    }
    let words = [OsString::from("offload")].into_iter().chain(arguments.iter().cloned());
    let parsed = help::definition().try_get_matches_from(words);
    match parsed.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(command_line) => {
            // Messages would disturb the line that is being written.
            if !matches!(command_line.command, Command::Complete(_)) {
                logging::start(Target::Stderr);
            }
            let ended = match run_as_other_user(&command_line.command, &arguments) {
                Ok(Some(status)) => Ok(status),
                Ok(None) => run(command_line.command),
                Err(error) => Err(error),
            };
            ended.unwrap_or_else(|error| error.print(&mut io::stderr()))
        }
        Err(error) => {
            // Help and version are errors to clap, and go to standard output.
            match error.print().and_then(|()| io::stdout().flush()) {
                _ if error.use_stderr() => ExitStatus::Usage,
                Ok(()) => ExitStatus::Success,
                Err(cause) => CommandError::output("the help", &cause).print(&mut io::stderr()),
            }
        }
    }
}

/// Runs a command of root's as the user who can write the file that the command evaluates. A command that checks what
/// the hook needs runs as the daemon's user in any case. `None`: this process runs it.
fn run_as_other_user(command: &Command, arguments: &[OsString]) -> Result<Option<ExitStatus>, CommandError> {
    // The command reports an error in the directories.
    let Ok(directories) = Directories::from_environment() else { return Ok(None) };
    let file = |named: Option<&Path>| machines::machine_file(named, &directories);
    let state = directories.state.join(STATE_SUBDIRECTORY);
    let for_machine_file = |named: Option<&Path>| as_user::for_machine_file(&file(named), &state);
    let for_checks = |named: Option<&Path>| -> Result<Option<User>, AsUserError> {
        Ok(for_machine_file(named)?.or_else(|| daemon_user::for_checks(&directories)))
    };
    let for_evaluation = |named: Option<&Path>| daemon_user::for_evaluation(&directories, named);
    let user = match command {
        Command::Convert(args) => as_user::for_program(args.file())?,
        Command::Explain(arguments) if arguments.probes() => for_checks(arguments.machine_file())?,
        Command::Explain(arguments) => for_evaluation(arguments.machine_file())?,
        Command::Start(args) | Command::Stop(args) => for_checks(args.machine_file())?,
        Command::Reap(args) if args.as_daemon => return power::reap_as_daemon().map(Some),
        Command::Reap(args) => for_checks(args.machine_file())?,
        Command::OnEvent(args) => for_checks(args.machine_file())?,
        Command::Drain(args) => for_machine_file(args.machine_file())?,
        Command::Undrain(args) => for_machine_file(args.machine_file())?,
        Command::Disconnect(args) => for_machine_file(args.machine_file())?,
        Command::Shared(args) => for_checks(args.machine_file())?,
        Command::Eval(args) => for_evaluation(args.machine_file())?,
        Command::Test(arguments) => for_checks(arguments.machine_file())?,
        Command::Authorize(arguments) => for_machine_file(arguments.machine_file())?,
        Command::Ssh(arguments) => for_machine_file(arguments.machine_file())?,
        Command::Status(arguments) => for_checks(arguments.machine_file())?,
        Command::History(args) => match (as_user::for_state(&state)?, args.file()) {
            // That user may be unable to write the file.
            (Some(user), Some(file)) => return history_file::write_as(&user, arguments, file).map(Some),
            (user, _) => user,
        },
        Command::Report(args) => match for_checks(args.machine_file())?.or(as_user::for_state(&state)?) {
            Some(user) => return history_file::write_as(&user, arguments, args.file()).map(Some),
            None => None,
        },
        Command::Log(_) => as_user::for_state(&state)?,
        Command::Metrics(arguments) => match for_checks(arguments.machine_file())?.or(as_user::for_state(&state)?) {
            // That user may be unable to write the file.
            Some(user) if arguments.writes_file() => return metrics::run_as(&user, arguments).map(Some),
            user => user,
        },
        Command::Challenge(arguments) => for_checks(arguments.machine_file())?,
        Command::Build(arguments) => match for_checks(arguments.machine_file())? {
            // That user may be unable to read the input, and to make roots.
            Some(user) => return build::run_as(&user, arguments, &directories).map(Some),
            None => None,
        },
        Command::Add(args) => args.changed_file().map(for_machine_file).transpose()?.flatten(),
        // They evaluate no file, or handle it themselves.
        Command::Annotations(_)
        | Command::Init(_)
        | Command::Install(_)
        | Command::Uninstall(_)
        | Command::Complete(_)
        | Command::LogLevel(_)
        | Command::Documents(_) => None,
    };
    if let (Command::Test(_), Some(user)) = (command, &user) {
        ::log::info!("checked as '{}', the user that guix-daemon runs as", user.name);
    }
    let reads_input =
        matches!(command, Command::Authorize(_) | Command::Ssh(_) | Command::Challenge(_) | Command::Explain(_));
    let input = if reads_input { Stdio::inherit() } else { Stdio::null() };
    Ok(user.map(|user| as_user::run(&user, arguments, input)).transpose()?)
}

fn run(command: Command) -> CommandResult {
    let directories = Directories::from_environment().map_err(CommandError::failure)?;
    let mut engine = Engine::new(directories, HookArguments::without_limits(&machines::own_system()));
    engine.hand_events_to(on_event::launch);
    let (out, messages) = (&mut io::stdout(), &mut io::stderr());
    match command {
        Command::Eval(args) => eval::run(&args, &engine, out, messages),
        Command::Annotations(args) => annotations::run(&args, out, messages),
        Command::Explain(args) => explain::run(&args, &engine),
        Command::Start(args) => power::start(&args, &engine, messages),
        Command::Stop(args) => power::stop(&args, &engine, messages),
        Command::Reap(args) => power::reap(&args, &engine, messages),
        Command::OnEvent(args) => on_event::run(&args, &engine),
        Command::Drain(args) => drain::drain(&args, &engine, messages),
        Command::Undrain(args) => drain::undrain(&args, &engine, messages),
        Command::Disconnect(args) => disconnect::run(&args, &engine, messages),
        Command::Shared(args) => shared::run(&args, &engine, out),
        Command::Install(args) => install::install(&args, help::definition(), &engine, out),
        Command::Uninstall(args) => install::uninstall(&args, &engine, out),
        Command::Documents(args) => documents::run(&args, help::definition()),
        Command::Complete(args) => complete::run(&args, help::definition(), &engine, out),
        Command::Test(args) => test::run(&args, &engine),
        Command::Init(args) => init::run(&args, &engine),
        Command::Add(args) => add::run(&args, &engine, out, messages),
        Command::Authorize(args) => authorize::run(&args, &engine),
        Command::Status(args) => status::run(&args, &engine),
        Command::History(args) => history::run(&args, &engine),
        Command::Metrics(args) => metrics::run(&args, &engine),
        Command::Report(args) => report::run(&args, &engine),
        Command::Log(args) => log::run(&args, &engine),
        Command::LogLevel(args) => log_level::run(&args, &engine, out, messages),
        Command::Challenge(args) => challenge::run(&args, &engine),
        Command::Build(args) => build::run(&args, &engine),
        Command::Ssh(args) => ssh::run(&args, &engine),
        Command::Convert(args) => convert::run(&args, out, messages),
    }
}

/// Returns whether the arguments are those of the daemon: four, of which the first is a system type, which has a
/// hyphen, and is neither an option nor a subcommand. So a misspelt subcommand is not taken for a build.
fn is_build_hook(arguments: &[OsString]) -> bool {
    let [first, _, _, _] = arguments else { return false };
    let is_subcommand = |word: &str| CommandLine::command().get_subcommands().any(|command| command.get_name() == word);
    first.to_str().is_some_and(|word| word.contains('-') && !word.starts_with('-') && !is_subcommand(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_arguments_are_the_build_hook() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(is_build_hook(&words("x86_64-linux 3600 1 0")));
        for line in ["--help", "-V", "convert machines.scm", "convert a b c", "drian b1 --for 2h", "x86_64-linux"] {
            assert!(!is_build_hook(&words(line)), "{line}");
        }
        assert!(!is_build_hook(&[]));
    }
}
