//! Reasons to reject an item that arrived.

use crate::gcrypt::VerifyError;
use crate::local::FixedError;
use crate::store::export::ExportError;
use crate::store::nar::NarError;
use crate::store::path::StorePath;
use crate::store::signature::PublicKey;

/// The reason why an item is rejected.
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
    /// The hint for other keys would be wrong for this one.
    #[error("it is signed with a key that is no longer authorized here: {0}")]
    Revoked(PublicKey),
    #[error(transparent)]
    Fixed(FixedError),
}

/// Returns the message. Its hint contains the key, in one line that can be copied.
fn signature_problem(error: &VerifyError) -> String {
    match error {
        // The key comes from the machine and goes into a shell command.
        VerifyError::Unauthorized { key } if !key.to_string().contains('\'') => format!(
            "it is signed with a key that is not authorized here\n  hint: if you trust that machine, as root: `echo '{key}' | \
             guix archive --authorize`"
        ),
        VerifyError::Hash => format!("its signature does not match its contents: {error}"),
        VerifyError::NotSexp(cause) => format!("{error}: {cause}"),
        _ => error.to_string(),
    }
}
