//! The access-control list of this machine: the keys whose signatures it accepts.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::permissions::{self, Need};
use crate::store::signature::{Acl, SignatureError};

/// The size limit of the file, in bytes: room for thousands of keys.
const MAX_ACL_SIZE: u64 = 1 << 20;

/// The size of most lists or more: they are read in one piece.
const FIRST_READ: usize = 8 << 10;

/// Reads the list in `file`, which is `acl` in the configuration directory.
pub fn load_acl(file: &Path) -> Result<Acl, AclError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(FIRST_READ);
        File::open(file)?.take(MAX_ACL_SIZE + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let file = file.to_owned();
    match read() {
        Ok(text) if text.len() as u64 > MAX_ACL_SIZE => Err(AclError::TooLong { file }),
        Ok(text) => Acl::parse(&text).map_err(|cause| AclError::Invalid { file, cause }),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(AclError::Missing { file }),
        Err(cause) => Err(AclError::Read { file, cause }),
    }
}

/// The reason why the list cannot be read.
#[derive(Debug, Error)]
pub enum AclError {
    #[error(
        "'{file}' is missing, so nothing built elsewhere is accepted; authorize each build machine's key: \
         `guix archive --authorize < signing-key.pub`"
    )]
    Missing { file: PathBuf },
    #[error("cannot read '{file}': {cause}{}", permissions::remedy::hint(file, Need::Read, cause))]
    Read { file: PathBuf, cause: io::Error },
    #[error("'{file}' is larger than a list of keys can be")]
    TooLong { file: PathBuf },
    #[error("'{file}' is not a valid list of keys: {cause}")]
    Invalid { file: PathBuf, cause: SignatureError },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("acl");
        let key = "(public-key (ecc (curve Ed25519) (q #AB#)))";
        std::fs::write(&file, format!("(acl (entry {key} (tag (guix import))))\n")).unwrap();
        assert_eq!(load_acl(&file).unwrap().keys().len(), 1);
        // As large as it may be.
        let text = format!("(acl (entry {key} (tag (guix import))))");
        let blanks = " ".repeat(MAX_ACL_SIZE as usize - text.len());
        std::fs::write(&file, text + &blanks).unwrap();
        assert_eq!(load_acl(&file).unwrap().keys().len(), 1);
    }

    #[test]
    fn an_invalid_list_is_reported_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("acl");
        let message = || load_acl(&file).unwrap_err().to_string();
        assert!(message().contains("acl' is missing") && message().contains("guix archive --authorize"));
        std::fs::write(&file, "(acl (entry").unwrap();
        assert!(message().contains("acl' is not a valid list"));
        std::fs::write(&file, vec![b' '; 2 << 20]).unwrap();
        assert!(message().contains("larger"));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(message().contains("cannot read"));
    }
}
