//! Sends a small text item to a machine and back, to check whether both sides accept each other's signatures. Also checks that
//! the machine's store is not the local store.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::bundle::UNAUTHORIZED_KEY_ERROR;
use super::rejected::RejectedOutput;
use crate::daemon::{self, Client, ExportError};
use crate::gcrypt::{self, SigningKey};
use crate::store::export::{END_MARKER, HashingReader, HashingWriter, ITEM_MARKER, Trailer};
use crate::store::nar::{self, NarPath, Visitor, Writer};
use crate::store::path::{self, PathError, StoreDir, StorePath};
use crate::store::signature::{Acl, PublicKey};
use crate::store::wire;

/// The name of the item.
const ITEM_NAME: &str = "offload-test";

/// The reason why the item could not be created, or was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureTestError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("cannot write the trial item: {0}")]
    Write(#[from] io::Error),
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    #[error("it answers with other items than the one that was sent")]
    OtherItem,
    #[error(transparent)]
    Refused(RejectedOutput),
}

impl SignatureTestError {
    /// Returns whether the other side does not trust the key that signed the item.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, SignatureTestError::Daemon(daemon::Error::Daemon { message, .. }) if message.contains(UNAUTHORIZED_KEY_ERROR))
    }
}

/// Adds an item with this text to the store behind `client`.
pub fn make<S: Read + Write>(client: &mut Client<S>, text: &str) -> Result<StorePath, daemon::Error> {
    client.add_text_to_store(ITEM_NAME, text.as_bytes(), &BTreeSet::new())
}

/// Adds an item with this text to the store behind `client`, and downloads it. Returns the key that signed it.
pub fn sign<S: Read + Write>(
    client: &mut Client<S>,
    store: &StoreDir,
    acl: &Acl,
    text: &str,
) -> Result<PublicKey, SignatureTestError> {
    let path = make(client, text)?;
    download(client, store, acl, &path).map_err(|error| match error {
        ExportError::Daemon(error) => error.into(),
        ExportError::Consumer(rejected) => SignatureTestError::Refused(rejected),
    })
}

/// Returns whether the store behind `client` is `store` on this machine: adds an item there, and checks whether it exists here.
/// The item is garbage afterwards.
pub fn is_store_here<S: Read + Write>(client: &mut Client<S>, store: &StoreDir) -> Result<bool, SignatureTestError> {
    let chance = RandomState::new().build_hasher().finish();
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let text = format!("{chance:x} {time} {}\n", process::id());
    // The text is unique, so the item did not exist before.
    let path = path::text_path(store, ITEM_NAME, &Sha256::digest(&text).into(), &[])?;
    Ok(make(client, &text)? == path && fs::symlink_metadata(path.as_str()).is_ok())
}

/// Imports an item with this text, signed with `key`, into the store behind `client`.
pub fn upload<S: Read + Write>(
    client: &mut Client<S>,
    store: &StoreDir,
    key: &SigningKey,
    text: &str,
) -> Result<StorePath, SignatureTestError> {
    let path = path::text_path(store, ITEM_NAME, &Sha256::digest(text).into(), &[])?;
    let bundle = bundle(path.clone(), text, key)?;
    match client.import_paths(&mut bundle.as_slice())?.as_slice() {
        [imported] if *imported == path => Ok(path),
        _ => Err(SignatureTestError::OtherItem),
    }
}

/// Exports `path` from the store behind `client`, and checks it as an output is checked. Returns the key that signed
/// it.
pub fn download<S: Read + Write>(
    client: &mut Client<S>,
    store: &StoreDir,
    acl: &Acl,
    path: &StorePath,
) -> Result<PublicKey, ExportError<RejectedOutput>> {
    client.export_path(path, true, |item| -> Result<PublicKey, RejectedOutput> {
        let mut reader = HashingReader::new(item);
        reader.reset();
        nar::read(&mut reader, &mut nar::Nothing).map_err(RejectedOutput::Nar)?;
        let (trailer, digest) = Trailer::read(store, &mut reader)?;
        if trailer.path != *path {
            return Err(RejectedOutput::OtherItem(trailer.path));
        }
        gcrypt::verify(&trailer.signature.ok_or(RejectedOutput::NotSigned)?, &digest, acl)
            .map_err(RejectedOutput::Signature)
    })
}

fn bundle(path: StorePath, text: &str, key: &SigningKey) -> io::Result<Vec<u8>> {
    let mut bundle = Vec::new();
    wire::write_u64(&mut bundle, ITEM_MARKER)?;
    let mut writer = HashingWriter::new(&mut bundle);
    let mut nar = Writer::new(&mut writer);
    nar.file(&NarPath::root(), false, text.len() as u64, &mut text.as_bytes())?;
    nar.finish()?;
    let mut trailer = Trailer { path, references: Vec::new(), deriver: None, signature: None };
    trailer.write_signed_part(&mut writer)?;
    trailer.signature = Some(key.sign(&writer.digest()).map_err(io::Error::other)?);
    trailer.write_signature(&mut writer)?;
    wire::write_u64(&mut bundle, END_MARKER)?;
    Ok(bundle)
}
