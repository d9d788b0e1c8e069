//! Host keys in OpenSSH form: `TYPE BASE64 [COMMENT]`, the form of `/etc/ssh/ssh_host_*_key.pub`.
//!
//! `blob` reads the base64 part, and `mistakes` recognizes texts that people paste instead of a key.

mod blob;
mod error;
mod mistakes;

use super::{HostKey, HostKeyKind};
use blob::{check, decode};
pub use error::{HOST_KEY_TYPES, HostKeyError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};

/// The longest text that is read, in characters. The keys of all supported types are much shorter.
const MAX_KEY_TEXT: usize = 8192;

impl HostKey {
    /// Reads a host key in OpenSSH form, with or without a comment after it.
    pub fn parse(text: &str) -> Result<HostKey, HostKeyError> {
        let text = text.trim();
        if text.len() > MAX_KEY_TEXT {
            return Err(HostKeyError::TooLong(text.len()));
        }
        let mut words = text.split_ascii_whitespace();
        let kind = words.next().and_then(HostKeyKind::from_name);
        let Some(kind) = kind.filter(|_| !text.contains('\n')) else { return Err(mistakes::find(text)) };
        let encoded = words.next();
        let encoded = encoded.ok_or(HostKeyError::NoKey(kind))?;
        let blob = decode(encoded).ok_or_else(|| match mistakes::keys_in(text).is_empty() {
            true => HostKeyError::Base64(kind),
            false => mistakes::find(text),
        })?;
        check(kind, &blob)?;
        // The rest is a comment, unless it is another key.
        if words.any(|word| HostKeyKind::from_name(word).is_some()) && mistakes::keys_in(text).len() > 1 {
            return Err(mistakes::find(text));
        }
        Ok(HostKey { kind, blob })
    }

    /// Returns the key's fingerprint as OpenSSH shows it: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }
}

#[cfg(test)]
mod tests;
