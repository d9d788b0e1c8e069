//! `offload annotations [DIRECTORY]`: what an editor must know about machine files.
//!
//! The annotations are those of lua-language-server (LuaLS, `---@meta`). With a directory, normally the one that holds
//! the machine file, they go to `DIRECTORY/.offload/offload.lua`, and `DIRECTORY/.luarc.json` tells the language server
//! to read them; one that is there already is left alone. Without a directory they go to standard output.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::exit::ExitStatus;
use crate::machine_file::ANNOTATIONS;

/// Tells the language server where the annotations are, and which Lua this is.
const LUARC: &str = r#"{
  "runtime.version": "Lua 5.4",
  "workspace.library": [".offload"]
}
"#;

/// Writes the annotations.
pub fn run(directory: Option<&Path>, out: &mut dyn Write, messages: &mut dyn Write) -> ExitStatus {
    let written = match directory {
        None => out.write_all(ANNOTATIONS.as_bytes()).map_err(|cause| (PathBuf::from("standard output"), cause)),
        Some(directory) => install(directory, messages),
    };
    match written {
        Ok(()) => ExitStatus::Success,
        Err((path, cause)) => {
            let _ = writeln!(messages, "offload: error: cannot write '{}': {cause}", path.display());
            ExitStatus::Failure
        }
    }
}

fn install(directory: &Path, messages: &mut dyn Write) -> Result<(), (PathBuf, io::Error)> {
    let library = directory.join(".offload");
    let (annotations, luarc) = (library.join("offload.lua"), directory.join(".luarc.json"));
    // And not the directory itself: a name that is mistyped is not made.
    match fs::create_dir(&library) {
        Err(cause) if !library.is_dir() => return Err((library, cause)),
        _ => {}
    }
    fs::write(&annotations, ANNOTATIONS).map_err(|cause| (annotations.clone(), cause))?;
    let said = if luarc.exists() {
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
    said.map_err(|cause| (PathBuf::from("standard error"), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut said = Vec::new();
        assert_eq!(run(Some(directory.path()), &mut io::sink(), &mut said), ExitStatus::Success);
        let luarc = directory.path().join(".luarc.json");
        assert_eq!(fs::read_to_string(&luarc).unwrap(), LUARC);
        assert_eq!(fs::read_to_string(directory.path().join(".offload/offload.lua")).unwrap(), ANNOTATIONS);
        serde_json::from_str::<serde_json::Value>(LUARC).unwrap();

        fs::write(&luarc, "{}").unwrap();
        assert_eq!(run(Some(directory.path()), &mut io::sink(), &mut said), ExitStatus::Success);
        assert_eq!(fs::read_to_string(&luarc).unwrap(), "{}");
        assert!(String::from_utf8(said).unwrap().contains("add \".offload\""));
        let mistyped = directory.path().join("mistyped");
        assert_eq!(run(Some(&mistyped), &mut io::sink(), &mut io::sink()), ExitStatus::Failure);
        assert!(!mistyped.exists());
        assert_eq!(run(Some(Path::new("/proc/nowhere")), &mut io::sink(), &mut io::sink()), ExitStatus::Failure);
    }
}
