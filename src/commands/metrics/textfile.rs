//! Writing the file for node exporter.
//!
//! The file replaces the old one with rename, so that node exporter never reads a half-written one. Root writes as the user who
//! controls the directory, so that this user cannot redirect root with a link.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::permissions::identity;

/// The name of the file.
const FILE: &str = "offload.prom";

/// Writes the file in `directory`.
pub fn write(directory: &Path, text: &str) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    identity::in_directory(Path::new("/"), &directory, || {
        // node exporter reads only names that end in .prom.
        let (new, file) = (directory.join(".offload.prom.new"), directory.join(FILE));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // node exporter usually runs as another user.
        let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
        let written = opened.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, &file));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn the_file_is_replaced_as_a_whole_and_readable_for_all() {
        let top = tempfile::tempdir().unwrap();
        write(top.path(), "one\n").unwrap();
        let before = fs::File::open(top.path().join(FILE)).unwrap();
        fs::write(top.path().join(".offload.prom.new"), "left by a killed process").unwrap();
        write(top.path(), "two\n").unwrap();
        assert_eq!(fs::read_to_string(top.path().join(FILE)).unwrap(), "two\n");
        assert_eq!(io::read_to_string(before).unwrap(), "one\n");
        assert_eq!(fs::metadata(top.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(top.path().read_dir().unwrap().count(), 1);
        assert!(write(&top.path().join("missing"), "x").is_err());
    }

    #[test]
    fn root_writes_as_the_user_who_controls_the_directory() {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let [theirs, of_root] = ["theirs", "of-root"].map(|name| top.path().join(name));
        for directory in [&theirs, &of_root] {
            fs::create_dir(directory).unwrap();
        }
        chown(&theirs, Some(995), Some(990)).unwrap();
        write(&theirs, "x").unwrap();
        assert_eq!(fs::metadata(theirs.join(FILE)).unwrap().uid(), 995);
        symlink(&of_root, theirs.join("link")).unwrap();
        assert!(write(&theirs.join("link"), "x").is_err());
        assert_eq!(of_root.read_dir().unwrap().count(), 0);
    }
}
