//! `offload annotations [DIRECTORY]`: writes the annotations of machine files for editors.
//!
//! The annotations are those of lua-language-server (LuaLS, `---@meta`). With a directory, normally that of the machine
//! file, they go to `DIRECTORY/.offload/offload.lua`, and `DIRECTORY/.luarc.json` tells the language server to read
//! them. An existing `.luarc.json` is not changed. Without a directory they go to standard output.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::failure::{CommandError, CommandResult};
use crate::exit::ExitStatus;
use crate::machine_file::ANNOTATIONS;

/// The configuration of the language server: the place of the annotations, and the version of Lua.
const LUARC: &str = r#"{
  "runtime.version": "Lua 5.4",
  "workspace.library": [".offload"]
}
"#;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory of the machine file; without it, the annotations are printed.
    directory: Option<PathBuf>,
}

/// Writes the annotations.
pub fn run(args: &Args, out: &mut dyn Write, messages: &mut dyn Write) -> CommandResult {
    let written = match &args.directory {
        None => out.write_all(ANNOTATIONS.as_bytes()).map_err(|cause| (PathBuf::from("standard output"), cause)),
        Some(directory) => install(directory, messages),
    };
    match written {
        Ok(()) => Ok(ExitStatus::Success),
        Err((path, cause)) => Err(CommandError::failure(format!("cannot write '{}': {cause}", path.display()))),
    }
}

fn install(directory: &Path, messages: &mut dyn Write) -> Result<(), (PathBuf, io::Error)> {
    let library = directory.join(".offload");
    let (annotations, luarc) = (library.join("offload.lua"), directory.join(".luarc.json"));
    // The directory itself is not created, so a misspelt name is an error.
    match fs::create_dir(&library) {
        Err(cause) if !library.is_dir() => return Err((library, cause)),
        _ => {}
    }
    fs::write(&annotations, ANNOTATIONS).map_err(|cause| (annotations.clone(), cause))?;
    let report = if luarc.exists() {
        let place = luarc.display();
        writeln!(
            messages,
            "wrote {}; '{place}' is there already: add \".offload\" to its workspace.library",
            annotations.display()
        )
    } else {
        fs::write(&luarc, LUARC).map_err(|cause| (luarc.clone(), cause))?;
        writeln!(messages, "wrote {} and {}", annotations.display(), luarc.display())
    };
    report.map_err(|cause| (PathBuf::from("standard error"), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(directory: &Path) -> Args {
        Args { directory: Some(directory.to_owned()) }
    }

    #[test]
    fn an_existing_configuration_is_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let mut report = Vec::new();
        assert!(run(&below(directory.path()), &mut io::sink(), &mut report).is_ok());
        let luarc = directory.path().join(".luarc.json");
        assert_eq!(fs::read_to_string(&luarc).unwrap(), LUARC);
        assert_eq!(fs::read_to_string(directory.path().join(".offload/offload.lua")).unwrap(), ANNOTATIONS);
        serde_json::from_str::<serde_json::Value>(LUARC).unwrap();

        fs::write(&luarc, "{}").unwrap();
        assert!(run(&below(directory.path()), &mut io::sink(), &mut report).is_ok());
        assert_eq!(fs::read_to_string(&luarc).unwrap(), "{}");
        assert!(String::from_utf8(report).unwrap().contains("add \".offload\""));
        let mistyped = directory.path().join("mistyped");
        assert!(run(&below(&mistyped), &mut io::sink(), &mut io::sink()).is_err());
        assert!(!mistyped.exists());
        assert!(run(&below(Path::new("/proc/nowhere")), &mut io::sink(), &mut io::sink()).is_err());
    }
}
