//! The manifest of the installed files: a text file beside the program, `manifest`.
//!
//! It has a line for each file: `directory PATH` was created; `sha256:HEX PATH` and `link:TARGET PATH` were written.
//! Paths are those of the installed system. While files are being replaced it has both the old and the new line, so
//! that an interrupted run can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::permissions::{open_regular, read_bounded};

const MANIFEST_NAME: &str = "manifest";

/// The size of the longest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 16 << 20;

/// The size of the longest file that can be an installed one, in bytes.
const MAX_PROGRAM: u64 = 1 << 30;

/// The installed files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub directories: BTreeSet<PathBuf>,
    /// The marks of the files that each path may have.
    pub marks: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl Manifest {
    /// Returns its path.
    pub fn path(directory: &Path) -> PathBuf {
        directory.join(MANIFEST_NAME)
    }

    /// Reads the file, if there is one.
    pub fn read(file: &Path) -> io::Result<Option<Manifest>> {
        let opened = open_regular(file, OFlags::RDONLY);
        match opened.and_then(|file| read_bounded(file, MAX_MANIFEST)) {
            Ok(text) => Ok(Some(Manifest::parse(&String::from_utf8_lossy(&text)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Manifest {
        let mut manifest = Manifest::default();
        for (mark, path) in text.lines().filter_map(|line| line.split_once(" /")) {
            let path = Path::new("/").join(path);
            if mark == "directory" {
                manifest.directories.insert(path);
            } else {
                manifest.add(&path, mark);
            }
        }
        manifest
    }

    pub fn add(&mut self, path: &Path, mark: &str) {
        self.marks.entry(path.to_owned()).or_default().insert(mark.to_owned());
    }

    /// Returns whether the file at `path`, here `file`, is the one that was installed.
    pub fn has(&self, path: &Path, file: &Path) -> io::Result<bool> {
        let Some(marks) = self.marks.get(path) else { return Ok(false) };
        Ok(mark(file)?.is_some_and(|mark| marks.contains(&mark)))
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for directory in &self.directories {
            // Writing to a string does not fail.
            let _ = writeln!(text, "directory {}", directory.display());
        }
        for (path, marks) in &self.marks {
            for mark in marks {
                let _ = writeln!(text, "{mark} {}", path.display());
            }
        }
        text
    }
}

/// Returns a mark that identifies a file or link; `None` if there is none. Anything else, or a longer file than the
/// program can be, has a mark that never matches.
pub fn mark(file: &Path) -> io::Result<Option<String>> {
    let metadata = match fs::symlink_metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if metadata.is_symlink() {
        return Ok(Some(mark_of_link(&fs::read_link(file)?)));
    }
    if !metadata.is_file() || metadata.len() > MAX_PROGRAM {
        return Ok(Some("other".to_owned()));
    }
    let mut hash = Hashed(Sha256::new());
    // Its owner may exchange or extend it meanwhile.
    io::copy(&mut open_regular(file, OFlags::RDONLY)?.take(MAX_PROGRAM), &mut hash)?;
    Ok(Some(hex(&hash.0.finalize())))
}

pub fn mark_of_link(target: &Path) -> String {
    format!("link:{}", String::from_utf8_lossy(target.as_os_str().as_bytes()))
}

pub fn mark_of_bytes(contents: &[u8]) -> String {
    hex(&Sha256::digest(contents))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

struct Hashed(Sha256);

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_manifest_can_be_read() {
        let mut manifest = Manifest::default();
        manifest.directories.insert("/usr/local/lib/of load".into());
        manifest.add(Path::new("/usr/local/lib/of load/guix"), &mark_of_link(Path::new("offload")));
        manifest.add(Path::new("/etc/x"), &mark_of_bytes(b""));
        manifest.add(Path::new("/etc/x"), &mark_of_bytes(b"new"));
        let text = manifest.text();
        assert!(text.contains("link:offload /usr/local/lib/of load/guix\n"), "{text}");
        assert!(
            text.contains("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 /etc/x\n"),
            "{text}"
        );
        assert_eq!(Manifest::parse(&text), manifest);
        assert_eq!(Manifest::parse("no sense\n\ndirectory relative\n"), Manifest::default());
    }

    #[test]
    fn a_changed_file_does_not_match() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        let path = Path::new("/etc/x");
        let mut manifest = Manifest::default();
        manifest.add(path, &mark_of_bytes(b"old"));
        assert!(!manifest.has(path, &file).unwrap());
        fs::write(&file, "old").unwrap();
        assert!(manifest.has(path, &file).unwrap());
        fs::write(&file, "changed").unwrap();
        assert!(!manifest.has(path, &file).unwrap());
        assert_eq!(mark(directory.path()).unwrap().as_deref(), Some("other"));
    }

    /// The owner of the daemon's state can replace a link there by anything.
    #[test]
    fn a_file_without_an_end_is_none_of_the_installed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(mark(&file).unwrap().as_deref(), Some("other"));
        assert_eq!(Manifest::read(&file).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(mark(&pipe).unwrap().as_deref(), Some("other"));
        assert!(Manifest::read(&pipe).is_err());
    }
}
