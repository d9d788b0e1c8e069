//! `offload add HOST`: prints an entry for the machine file, from the data of the machine.
//!
//! It fetches the SSH server's host key and prints its fingerprint on standard error. Only a comparison with the
//! machine's own fingerprint protects the entry against a man in the middle. Then it tries to log in with that key, and
//! queries the machine's system type and processors. The entry goes to standard output, and nothing is changed. The
//! status is 0 if the host key was fetched, even without a login, else 1.

use std::io::{self, Write};
use std::path::PathBuf;

use super::failure::{CommandError, CommandResult};
use super::terminal::plain;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::{HostKey, Machine, NameFault, check_name};
use crate::remote::{Connection, Error};
use crate::shell::quote;
use crate::ssh::Session;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine's name or address.
    #[arg(value_parser = host)]
    host: String,
    /// The port of its SSH server.
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The account to log in as.
    #[arg(long, default_value = "offload")]
    user: String,
    /// The private key for the account, if it is not the default one.
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
}

/// The data from a login.
struct Facts {
    system: Option<String>,
    cores: Option<u32>,
}

/// Prints an entry for the machine.
pub fn run(args: &Args, engine: &Engine, output: &mut dyn Write, messages: &mut dyn Write) -> CommandResult {
    let unprinted = |error: io::Error| CommandError::output("the entry", &error);
    let mut machine = Machine::new(&args.host, &args.user, Vec::new(), Vec::new());
    machine.port = args.port;
    let private_key = args.private_key.as_deref().map(std::path::absolute).transpose();
    let private_key = private_key.map_err(|error| CommandError::failure(format!("--private-key: {error}")))?;
    machine.private_key.clone_from(&private_key);
    let key = Session::host_key(&machine).map_err(|error| {
        CommandError::failure(plain(&error.to_string())).with_hint(error.hint().map(|hint| plain(&hint).into_owned()))
    })?;
    writeln!(
        messages,
        "{} shows the host key {}\n\
         Compare it with what this prints on the machine itself:\n  \
         cat /etc/ssh/ssh_host_*_key.pub | ssh-keygen -lf -",
        machine.address(),
        key.fingerprint()
    )
    .map_err(unprinted)?;
    machine.host_keys = vec![key.clone()];
    let facts = query(&machine, engine);
    if let Err(error) = &facts {
        let hint = error.hint().map_or(String::new(), |hint| format!("\n  hint: {}", plain(&hint)));
        writeln!(messages, "No login yet: {}{hint}", plain(&error.to_string())).map_err(unprinted)?;
    }
    output.write_all(entry(&machine, &key, facts.ok().as_ref()).as_bytes()).map_err(unprinted)?;
    let name = if args.port == 22 { args.host.clone() } else { format!("{}:{}", args.host, args.port) };
    writeln!(messages, "Put the entry into the machine file, then: offload authorize {}", quote(&name))
        .map_err(unprinted)?;
    Ok(ExitStatus::Success)
}

/// Parses a name for the machine file.
fn host(text: &str) -> Result<String, String> {
    match check_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(NameFault::Port("")) => Err("no port follows the colon; it is an option: --port PORT".to_owned()),
        Err(NameFault::Port(port)) => Err(format!("the port is an option: --port {port}")),
        Err(NameFault::Account(user)) => Err(format!("the account is an option: --user {user}")),
        Err(NameFault::Brackets) => Err("an IPv6 address has no brackets here".to_owned()),
        Err(NameFault::Other) => Err("not a host name or address".to_owned()),
    }
}

/// Logs in and queries the machine.
fn query(machine: &Machine, engine: &Engine) -> Result<Facts, Error> {
    let status = Connection::open(machine)?.probe(engine.directories.store.as_str())?;
    let kernel = status.kernel.as_deref().and_then(|kernel| kernel.split(' ').next());
    let system =
        status.architecture.as_deref().zip(kernel).and_then(|(architecture, kernel)| system(architecture, kernel));
    Ok(Facts { system, cores: status.cores })
}

/// Returns Guix's name of the system type for these outputs of `uname -m` and `uname -s`.
fn system(architecture: &str, kernel: &str) -> Option<String> {
    let processor = match architecture {
        "x86_64" | "aarch64" | "riscv64" | "mips64el" => architecture,
        "i386" | "i486" | "i586" | "i686" => "i686",
        "i686-AT386" => "i586",
        "ppc64le" => "powerpc64le",
        "ppc" => "powerpc",
        _ if architecture.starts_with("armv7") || architecture == "armv8l" => "armhf",
        _ => return None,
    };
    match kernel {
        "Linux" => Some(format!("{processor}-linux")),
        "GNU" => Some(format!("{processor}-gnu")),
        _ => None,
    }
}

/// Returns the entry. Unknown values are left for the administrator.
fn entry(machine: &Machine, key: &HostKey, facts: Option<&Facts>) -> String {
    let mut lines = vec![format!("name = {},", lua(&machine.name))];
    if machine.port != 22 {
        lines.push(format!("port = {},", machine.port));
    }
    lines.push(format!("user = {},", lua(&machine.user)));
    if let Some(path) = &machine.private_key {
        lines.push(format!("private_key = {},", lua(&path.to_string_lossy())));
    }
    lines.push(format!("host_key = {},", lua(&key.to_openssh())));
    match facts.and_then(|facts| facts.system.as_deref()) {
        Some(system) => lines.push(format!("systems = {{ {} }},", lua(system))),
        None => {
            let own = super::machines::own_system();
            lines.push(format!("systems = {{ {} }},  -- a guess: the machine did not report it", lua(&own)));
        }
    }
    if let Some(cores) = facts.and_then(|facts| facts.cores) {
        let noun = if cores == 1 { "processor" } else { "processors" };
        lines.push(format!("parallel_builds = 1,  -- it has {cores} {noun}"));
    }
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("build_machine {{\n{lines}}},\n")
}

/// Quotes a string for Lua.
fn lua(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_ascii_control() => format!("\\{:03}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn the_entry_has_the_known_values() {
        let key = HostKey::parse(KEY).unwrap();
        let facts = Facts { system: Some("aarch64-linux".to_owned()), cores: Some(8) };
        let plain = Machine::new("b1", "offload", Vec::new(), Vec::new());
        let given = Machine { port: 2022, private_key: Some("/a \"b\"".into()), ..plain.clone() };
        let expected = format!(
            "build_machine {{\n  name = \"b1\",\n  port = 2022,\n  user = \"offload\",\n  private_key = \"/a \\\"b\\\"\",\n  \
             host_key = \"{KEY}\",\n  systems = {{ \"aarch64-linux\" }},\n  parallel_builds = 1,  -- it has 8 processors\n}},\n"
        );
        assert_eq!(entry(&given, &key, Some(&facts)), expected);
        assert!(entry(&plain, &key, None).contains("-- a guess"));
    }

    /// The user pastes the entry into a program: no text of it may end early or run code.
    #[test]
    fn every_text_of_the_entry_is_escaped() {
        let key = HostKey::parse(KEY).unwrap();
        let odd = "a\" .. ran .. \"\\\n\r\0]]--[[ü";
        let plain =
            Machine { private_key: Some("/key".into()), ..Machine::new("b1", "offload", Vec::new(), Vec::new()) };
        for (field, machine, system) in [
            ("name", Machine { name: odd.to_owned(), ..plain.clone() }, "x86_64-linux"),
            ("user", Machine { user: odd.to_owned(), ..plain.clone() }, "x86_64-linux"),
            ("private_key", Machine { private_key: Some(odd.into()), ..plain.clone() }, "x86_64-linux"),
            ("systems", plain.clone(), odd),
        ] {
            let facts = Facts { system: Some(system.to_owned()), cores: None };
            let text = entry(&machine, &key, Some(&facts));
            let lua = mlua::Lua::new();
            let list: mlua::Table = lua
                .load(format!("local function build_machine(t) return t end\nreturn {{ {text} }}"))
                .eval()
                .unwrap_or_else(|error| panic!("{field}: {error}\n{text}"));
            let found: mlua::Table = list.get(1).unwrap();
            let value = match found.get(field).unwrap() {
                mlua::Value::Table(list) => list.get(1).unwrap(),
                other => other,
            };
            assert!(value.as_string().is_some_and(|text| *text.as_bytes() == *odd.as_bytes()), "{field}\n{text}");
            assert_eq!(found.get::<String>("host_key").unwrap(), KEY, "{field}");
        }
    }

    #[test]
    fn system_types_are_those_of_guix() {
        for (architecture, kernel, expected) in [
            ("x86_64", "Linux", Some("x86_64-linux")),
            ("ppc64le", "Linux", Some("powerpc64le-linux")),
            ("armv7l", "Linux", Some("armhf-linux")),
            ("i686-AT386", "GNU", Some("i586-gnu")),
            ("x86_64", "Darwin", None),
            ("s390x", "Linux", None),
        ] {
            assert_eq!(system(architecture, kernel).as_deref(), expected);
        }
    }
}
