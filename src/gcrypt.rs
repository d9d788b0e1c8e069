//! Signatures of store items in Guix's form, and signatures for logins, with libgcrypt.
//!
//! Guix signs the SHA-256 of an item with ECDSA over the Edwards curve Ed25519 and deterministic nonces (RFC 6979), or,
//! with old keys, with RSA and PKCS #1. libgcrypt is the only library that does the former, so this is a binding to the
//! few functions that are needed. The signatures are bit for bit those of `guix authenticate`.
//!
//! The calls themselves are in `ffi`, the only file here with `unsafe` code. Handles of libgcrypt never leave this
//! module. [`store::sexp`](crate::store::sexp) parses or writes all their input, except the secret key. libgcrypt alone
//! reads that one, from and into its secure memory, which is not swapped if the system allows it, and wiped when freed.
//! Without it libgcrypt would leave the key and intermediate results in freed memory. The pool takes 128 KiB and grows.
//! While libgcrypt handles a secret, it allocates only from there, since it otherwise copies parts of keys into usual
//! memory (`ffi`). The private keys of SSH users are handled in the same way (`user_key`).
//!
//! Not checked here: who owns the key files, and the quality of the keys.

mod digest;
mod ffi;
mod user_key;

pub use digest::{Digest, DigestError};
pub use user_key::{Curve, Message, Secret, UserKey};

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use zeroize::Zeroizing;

use crate::permissions::{self, Need};
use crate::store::sexp::{Sexp, SexpError};
use crate::store::signature::{self, Acl, Algorithm, PublicKey, Signature, SignatureError};
use ffi::Handle;

/// The size limit of a key file, in bytes. One with an RSA key of 4096 bits has 4 KiB.
const MAX_KEY_FILE: usize = 64 << 10;

/// A key pair that signs store items. Threads can share it.
pub struct SigningKey {
    secret: Handle,
    public: PublicKey,
    algorithm: Algorithm,
}

impl SigningKey {
    /// Reads the pair whose secret key is the file `path`, usually `/etc/guix/signing-key.sec`; the public key is the
    /// file beside it whose name ends in `.pub`. It refuses a secret key that others can read, a key of this user's own
    /// that its group can read, and a pair whose halves do not belong together.
    pub fn load(path: &Path) -> Result<SigningKey, Error> {
        let public_path = path.with_extension("pub");
        let text = read(&public_path, |_| Ok(()))?;
        let public =
            PublicKey::parse(&text).map_err(|source| Error::PublicKey { path: public_path.clone(), source })?;
        let algorithm = public.algorithm().ok_or(Error::Algorithm { path: public_path })?;
        let text = read(path, |metadata| {
            // A key of root's may be readable by the group of an unprivileged daemon.
            let closed = if metadata.uid() == geteuid().as_raw() { 0o077 } else { 0o027 };
            match metadata.mode() {
                mode if mode & closed == 0 => Ok(()),
                mode => Err(Error::NotSecret { path: path.to_owned(), mode: mode & 0o7777 }),
            }
        })?;
        let secret = Handle::secret(&text).map_err(|problem| Error::SecretKey { path: path.to_owned(), problem })?;
        let key = SigningKey { secret, public, algorithm };
        // The halves belong together if one verifies a signature of the other.
        let digest = [0x5a; 32];
        let mine = key.signature(&digest).map_err(|problem| Error::SecretKey { path: path.to_owned(), problem })?;
        match check(&mine) {
            Ok(()) => Ok(key),
            Err(_) => Err(Error::Mismatch { path: path.to_owned() }),
        }
    }

    /// Returns the complete signature of a SHA-256 digest, in the form for an export stream. It is ASCII unless one of
    /// its numbers happens to look like text in ISO 8859-1.
    pub fn sign(&self, digest: &[u8; 32]) -> Result<Vec<u8>, Error> {
        self.signature(digest).map(|signature| signature.to_advanced()).map_err(|problem| Error::Sign { problem })
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn signature(&self, digest: &[u8; 32]) -> Result<Signature, String> {
        let data = Handle::new(&signature::data(self.algorithm, digest).to_advanced())?;
        let value = data.sign(&self.secret)?.canonical();
        let value = Sexp::parse(&value).map_err(|error| error.to_string())?;
        let signature = Signature::new(*digest, value, self.public.clone()).map_err(|error| error.to_string())?;
        match signature.algorithm() {
            algorithm if algorithm == self.algorithm => Ok(signature),
            _ => Err("the secret key is of another kind than the public key".to_owned()),
        }
    }
}

/// Shows only the public half.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Returns the key of the list that made `signature` of `digest`. The checks come in the order of the errors.
pub fn verify(signature: &[u8], digest: &[u8; 32], acl: &Acl) -> Result<PublicKey, VerifyError> {
    let signature = match Signature::parse(signature) {
        Ok(signature) => signature,
        Err(SignatureError::Sexp(error)) => return Err(VerifyError::NotSexp(error)),
        Err(SignatureError::Shape { .. }) => return Err(VerifyError::Corrupt),
    };
    if !acl.authorizes(signature.public_key()) {
        return Err(VerifyError::Unauthorized { key: signature.public_key().clone() });
    }
    // The whole digest is compared: ECDSA does not sign its last three bits.
    if signature.digest() != digest {
        return Err(VerifyError::Hash);
    }
    if signature.public_key().algorithm() != Some(signature.algorithm()) {
        return Err(VerifyError::Invalid { problem: "its key is of another kind".to_owned() });
    }
    check(&signature).map_err(|problem| VerifyError::Invalid { problem })?;
    Ok(signature.public_key().clone())
}

/// Verifies the signature itself.
fn check(signature: &Signature) -> Result<(), String> {
    let [value, data, key] = [signature.value(), &signature.data(), signature.public_key().as_sexp()]
        .map(|part| Handle::new(&part.to_advanced()));
    value?.verify(&data?, &key?)
}

/// Reads the text of a key file, once `accept` has accepted its owner and mode. The text is wiped when it is
/// dropped, and does not move until then.
fn read(path: &Path, accept: impl FnOnce(&Metadata) -> Result<(), Error>) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |cause| Error::Read { path: path.to_owned(), cause };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    accept(&metadata)?;
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE + 1));
    file.take(MAX_KEY_FILE as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() > MAX_KEY_FILE {
        return Err(failed(io::Error::other(format!("it is larger than {MAX_KEY_FILE} bytes"))));
    }
    Ok(text)
}

/// The reason why there is no signing key, or no signature.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot read the signing key '{path}': {cause}{}",
        permissions::remedy::hint(path, Need::ReadSecret, cause)
    )]
    Read { path: PathBuf, cause: io::Error },
    #[error(
        "the secret key '{path}' has mode {mode:04o}: its group or others can use it\n  hint: `chmod 400 '{path}'`"
    )]
    NotSecret { path: PathBuf, mode: u32 },
    #[error("'{path}' is not a public key")]
    PublicKey { path: PathBuf, source: SignatureError },
    #[error("the public key '{path}' is neither an ECC key over Ed25519 nor an RSA key")]
    Algorithm { path: PathBuf },
    #[error("'{path}' is not a secret key that can sign: {problem}")]
    SecretKey { path: PathBuf, problem: String },
    #[error("the secret key '{path}' does not belong to the public key beside it")]
    Mismatch { path: PathBuf },
    #[error("cannot sign: {problem}")]
    Sign { problem: String },
}

/// The reason why a signature is rejected. The messages are those of Guix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("signature is not a valid s-expression")]
    NotSexp(#[source] SexpError),
    #[error("corrupt signature data")]
    Corrupt,
    #[error("unauthorized public key: {key}")]
    Unauthorized { key: PublicKey },
    /// The signature is of other data.
    #[error("invalid hash")]
    Hash,
    #[error("invalid signature: {problem}")]
    Invalid { problem: String },
}

#[cfg(test)]
mod tests;
