//! The destination of outputs that are only compared: a temporary directory. Nothing of them enters the store.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::CWD;

use super::destination::Destination;
use super::download::Downloaded;
use crate::local::{Dump, RestoreError, Store, TemporaryStore, staged_item};
use crate::store::path::{StoreDir, StorePath};

/// Outputs of one build, restored in a directory of their own.
pub struct KeptApart {
    directory: TemporaryStore,
    hashes: RefCell<BTreeMap<StorePath, [u8; 32]>>,
}

impl KeptApart {
    /// Makes the directory.
    pub fn new(store: &StoreDir) -> Result<KeptApart, RestoreError> {
        let directory = TemporaryStore::new(store)?;
        Ok(KeptApart { directory, hashes: RefCell::default() })
    }

    /// Returns the SHA-256 of the nar of each output.
    pub fn hashes(&self) -> BTreeMap<StorePath, [u8; 32]> {
        self.hashes.borrow().clone()
    }

    /// Returns the place of an output.
    pub fn path(&self, output: &StorePath) -> PathBuf {
        staged_item(self.directory.path(), output)
    }

    /// Reads an output, as a nar.
    pub fn dump(&self, output: &StorePath) -> io::Result<Dump> {
        let path = CString::new(self.path(output).as_os_str().as_bytes()).map_err(io::Error::other)?;
        Dump::new(CWD, &path)
    }
}

impl Destination for KeptApart {
    fn place(&self, outputs: Downloaded<'_>) -> Result<(), String> {
        for output in outputs.staged {
            self.hashes.borrow_mut().insert(output.trailer.path, output.nar_hash);
            output.staging.keep();
        }
        Ok(())
    }

    fn has_log_file(&self) -> bool {
        false
    }

    fn staging(&self) -> Option<&Store> {
        Some(self.directory.store())
    }

    fn wants_rebuild(&self) -> bool {
        true
    }
}
