//! Why an item that arrived is not taken.

use crate::gcrypt::VerifyError;
use crate::local::FixedError;
use crate::store::export::ExportError;
use crate::store::nar::NarError;
use crate::store::path::StorePath;
use crate::store::signature::PublicKey;

/// Why what arrived is not acceptable.
#[derive(Debug, thiserror::Error)]
pub enum RejectedOutput {
    #[error(transparent)]
    Nar(NarError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("there are data after the end of the item")]
    More,
    #[error("it is another item, '{0}'")]
    OtherItem(StorePath),
    #[error("it refers to '{0}', which is neither an input nor an output of the derivation")]
    Reference(StorePath),
    #[error("it lacks a signature")]
    NotSigned,
    #[error("{}", signature_problem(.0))]
    Signature(VerifyError),
    /// The remedy for other keys would be wrong for this one.
    #[error("it is signed with a key that was authorized here before and is not any more: {0}")]
    Revoked(PublicKey),
    #[error(transparent)]
    Fixed(FixedError),
}

/// The remedy belongs to the message: the key is right there, in one line that can be copied.
fn signature_problem(error: &VerifyError) -> String {
    match error {
        // The machine's own words are about to be given to a shell.
        VerifyError::Unauthorized { key } if !key.to_string().contains('\'') => format!(
            "it is signed with a key that is not authorized here\n  hint: if you trust that machine, as root: `echo '{key}' | \
             guix archive --authorize`"
        ),
        VerifyError::Hash => format!("its signature is of something else: {error}"),
        VerifyError::NotSexp(cause) => format!("{error}: {cause}"),
        _ => error.to_string(),
    }
}
