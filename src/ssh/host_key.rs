//! Host keys: the algorithms to request from a server, and the text of a key for people.
//!
//! The encoding of a key is that of RFC 4253, section 6.6, RFC 5656 and RFC 8709: a string with its type, then the
//! parts of the key. Keys are compared byte by byte and never decoded.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use crate::machine::{HostKey, HostKeyKind};

/// Returns the algorithms to request, separated by commas, so that the server shows a key of a pinned type. RSA keys
/// must sign with SHA-2, because the algorithm `ssh-rsa` uses SHA-1.
pub(super) fn algorithms(pinned: &[HostKey]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for key in pinned {
        for name in algorithms_of(key.kind) {
            if !names.contains(name) {
                names.push(name);
            }
        }
    }
    names.join(",")
}

fn algorithms_of(kind: HostKeyKind) -> &'static [&'static str] {
    match kind {
        HostKeyKind::Ed25519 => &["ssh-ed25519"],
        HostKeyKind::EcdsaP256 => &["ecdsa-sha2-nistp256"],
        HostKeyKind::EcdsaP384 => &["ecdsa-sha2-nistp384"],
        HostKeyKind::EcdsaP521 => &["ecdsa-sha2-nistp521"],
        HostKeyKind::Rsa => &["rsa-sha2-512", "rsa-sha2-256"],
    }
}

/// Returns whether a server with these algorithms can show a key of a pinned type.
pub(super) fn offers_any(offered: &[String], pinned: &[HostKey]) -> bool {
    pinned.iter().flat_map(|key| algorithms_of(key.kind)).any(|name| offered.iter().any(|offered| offered == name))
}

/// Returns the line of a key in OpenSSH form, without a comment: `ssh-ed25519 AAAA…`.
pub(super) fn line(blob: &[u8]) -> String {
    format!("{} {}", kind(blob), STANDARD.encode(blob))
}

/// Returns the fingerprint of a key as OpenSSH prints it.
pub(super) fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

/// Returns the type at the beginning of a key's encoding; empty if the encoding is damaged.
fn kind(blob: &[u8]) -> String {
    let name =
        blob.split_first_chunk::<4>().and_then(|(length, rest)| rest.get(..u32::from_be_bytes(*length) as usize));
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of ssh-keygen, which also printed the fingerprint below.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    fn blob() -> Vec<u8> {
        STANDARD.decode(KEY.split(' ').nth(1).unwrap()).unwrap()
    }

    #[test]
    fn a_key_is_printed_as_openssh_prints_it() {
        assert_eq!(line(&blob()), KEY);
        assert_eq!(fingerprint(&blob()), "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
    }

    #[test]
    fn a_damaged_key_is_printed_without_a_type() {
        assert_eq!(line(&[0, 0]), " AAA=");
        assert_eq!(line(&[0, 0, 0, 9, b'x']), " AAAACXg=");
    }

    #[test]
    fn each_pinned_type_is_requested_once_and_rsa_with_sha2() {
        let key = |kind| HostKey { kind, blob: Vec::new() };
        let pinned = [key(HostKeyKind::Rsa), key(HostKeyKind::Ed25519), key(HostKeyKind::Rsa)];
        assert_eq!(algorithms(&pinned), "rsa-sha2-512,rsa-sha2-256,ssh-ed25519");
    }
}
