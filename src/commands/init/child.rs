//! Other commands of this program, as processes of their own.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::commands::as_user;
use crate::commands::failure::CommandError;
use crate::exit::ExitStatus;
use crate::machine::{HostKey, Machine};
use crate::own_executable;

/// This program, with the machine file for its commands; `None` is the default one.
pub struct Offload<'a> {
    pub machine_file: Option<&'a Path>,
}

impl Offload<'_> {
    /// Runs a command with this process's input and output.
    pub fn run(&self, words: &[&str]) -> Result<ExitStatus, CommandError> {
        let ended = self.command(words).status().map_err(|error| failed(words, &error))?;
        Ok(ExitStatus::from_code(ended.code()))
    }

    /// Runs a command without input, and returns its messages.
    pub fn output(&self, words: &[&str]) -> Result<(ExitStatus, String), CommandError> {
        let output = self.command(words).stdin(Stdio::null()).output().map_err(|error| failed(words, &error))?;
        Ok((ExitStatus::from_code(output.status.code()), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Returns the entry of a machine in the machine file, which exists. Only what is needed for a login is set.
    pub fn entry(&self, machine: &Machine) -> Result<Option<Machine>, CommandError> {
        let mut command = self.command(&["eval", "--json"]);
        let ended = as_user::output(command.stdin(Stdio::null()).stderr(Stdio::null()));
        let (status, printed) = ended.map_err(|error| failed(&["eval"], &error))?;
        if ExitStatus::from_code(status.code()) != ExitStatus::Success {
            // Once more, for messages to read.
            let (_, messages) = self.output(&["eval"])?;
            return Err(CommandError::report(ExitStatus::MachineFile, messages.trim_end()));
        }
        let pool: serde_json::Value = serde_json::from_slice(&printed).unwrap_or_default();
        let entries = pool["machines"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(entries.iter().filter_map(decode).find(|entry| entry.address() == machine.address()))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = own_executable::command("offload");
        command.args(words);
        if let Some(file) = self.machine_file {
            command.arg("--machine-file").arg(file);
        }
        command
    }
}

/// Decodes an entry of `offload eval --json`.
fn decode(entry: &serde_json::Value) -> Option<Machine> {
    let keys = entry["host_key"].as_array()?.iter().filter_map(|key| HostKey::parse(key.as_str()?).ok()).collect();
    let mut machine = Machine::new(entry["name"].as_str()?, entry["user"].as_str()?, Vec::new(), keys);
    machine.port = entry["port"].as_u64()?.try_into().ok()?;
    machine.private_key = entry["private_key"].as_str().map(Into::into);
    let word = |word: &serde_json::Value| word.as_str().map(str::to_owned);
    machine.proxy_command = entry["proxy_command"].as_array().and_then(|words| words.iter().map(word).collect());
    Some(machine)
}

fn failed(words: &[&str], error: &std::io::Error) -> CommandError {
    CommandError::failure(format!("cannot run `offload {}`: {error}", words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_decoded_for_a_login() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        let mut entry = serde_json::json!({
            "name": "b1", "port": 2022, "user": "u", "host_key": [key], "private_key": "/key", "speed": 2.0,
            "proxy_command": ["nc", "%h"],
        });
        let machine = decode(&entry).unwrap();
        let expected = Machine::new("b1", "u", Vec::new(), vec![HostKey::parse(key).unwrap()]);
        let proxy_command = Some(["nc", "%h"].map(str::to_owned).into());
        assert_eq!(machine, Machine { port: 2022, private_key: Some("/key".into()), proxy_command, ..expected });
        entry["private_key"] = serde_json::Value::Null;
        assert_eq!(decode(&entry).unwrap().private_key, None);
        entry["port"] = 70_000.into();
        assert_eq!(decode(&entry), None);
    }
}
