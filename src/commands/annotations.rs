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
use crate::permissions::files;

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

/// Installs them with the rights of the user who controls each file, so that this user cannot redirect root with a link.
fn install(directory: &Path, messages: &mut dyn Write) -> Result<(), (PathBuf, io::Error)> {
    let library = directory.join(".offload");
    let (annotations, luarc) = (library.join("offload.lua"), directory.join(".luarc.json"));
    files::as_owner_of(&library, || {
        // The directory itself is not created, so a misspelt name is an error.
        match fs::create_dir(&library) {
            Err(cause) if !library.is_dir() => Err(cause),
            _ => fs::write(&annotations, ANNOTATIONS),
        }
    })
    .map_err(|cause| (annotations.clone(), cause))?;
    let is_new = files::as_owner_of(&luarc, || match luarc.exists() {
        true => Ok(false),
        false => fs::write(&luarc, LUARC).map(|()| true),
    })
    .map_err(|cause| (luarc.clone(), cause))?;
    let (place, annotations) = (luarc.display(), annotations.display());
    let report = match is_new {
        true => writeln!(messages, "wrote {annotations} and {place}"),
        false => writeln!(
            messages,
            "wrote {annotations}; '{place}' is there already: add \".offload\" to its workspace.library"
        ),
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
    fn root_follows_no_link_of_another_user() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let [theirs, of_root] = ["theirs", "of-root"].map(|name| top.path().join(name));
        for directory in [&theirs, &of_root] {
            fs::create_dir(directory).unwrap();
        }
        chown(&theirs, Some(995), Some(990)).unwrap();
        for (name, target) in [(".luarc.json", of_root.join("new")), (".offload", of_root.clone())] {
            symlink(target, theirs.join(name)).unwrap();
            assert!(run(&below(&theirs), &mut io::sink(), &mut io::sink()).is_err(), "{name}");
            assert_eq!(of_root.read_dir().unwrap().count(), 0, "{name}");
            fs::remove_file(theirs.join(name)).unwrap();
            let _ = fs::remove_dir_all(theirs.join(".offload"));
        }
        run(&below(&theirs), &mut io::sink(), &mut io::sink()).unwrap();
        for name in [".offload", ".offload/offload.lua", ".luarc.json"] {
            assert_eq!(theirs.join(name).metadata().unwrap().uid(), 995, "{name}");
        }
        // In a directory that all users may write to, any of them could have put a link there.
        let shared = top.path().join("shared");
        fs::create_dir_all(shared.join(".offload")).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        symlink(of_root.join("new"), shared.join(".luarc.json")).unwrap();
        assert!(run(&below(&shared), &mut io::sink(), &mut io::sink()).is_err());
        assert_eq!(of_root.read_dir().unwrap().count(), 0);
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
