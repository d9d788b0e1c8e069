//! The key with which the daemon of a host signs: `signing-key.json` in the host's state directory.
//!
//! It is recorded when this machine has accepted one of its signatures, with the host keys and the daemon's socket of
//! the entry. As long as the access-control list has the key, builds there need no check before they begin. The list
//! alone decides whether an output is accepted.

use serde::{Deserialize, Serialize};

use super::accepted_keys::hash;
use super::json_record::JsonRecord;
use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::store::signature::{Acl, PublicKey};

/// The last signature.
#[derive(PartialEq, Serialize, Deserialize)]
struct Verified {
    /// The host keys and the socket.
    host: Vec<String>,
    /// The hash of the key; empty if the last signature was not accepted.
    key: String,
}

/// The record of one host.
pub struct VerifiedKey {
    record: JsonRecord<Verified>,
    host: Vec<String>,
}

impl VerifiedKey {
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<VerifiedKey, StateError> {
        let keys = machine.host_keys.iter().map(|key| key.fingerprint());
        let host = keys.chain([machine.daemon_socket.to_string_lossy().into_owned()]).collect();
        Ok(VerifiedKey { record: JsonRecord::of(state, machine, "signing-key")?, host })
    }

    /// Returns whether the host is known to sign with a key of this list.
    pub fn is_authorized(&self, acl: &Acl) -> bool {
        let known = self.record.read().filter(|verified| verified.host == self.host);
        known.is_some_and(|verified| acl.keys().iter().any(|key| hash(key) == verified.key))
    }

    /// Records the key that the host signs with, which is authorized.
    pub fn remember(&self, key: &PublicKey) -> Result<(), StateError> {
        self.write(hash(key))
    }

    /// Records that a signature of the host was not accepted: the next build there begins with a check.
    pub fn forget(&self) -> Result<(), StateError> {
        self.write(String::new())
    }

    fn write(&self, key: String) -> Result<(), StateError> {
        let wanted = Verified { host: self.host.clone(), key };
        match self.record.read() {
            Some(known) if known == wanted => Ok(()),
            _ => self.record.change(|_| wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{HostKey, HostKeyKind};

    fn key(number: u16) -> String {
        format!("(public-key (ecc (curve Ed25519) (q #{number:04x}#)))")
    }

    fn acl(keys: &[u16]) -> Acl {
        let entries: String =
            keys.iter().map(|&number| format!("(entry {} (tag (guix import)))", key(number))).collect();
        Acl::parse(format!("(acl {entries})").as_bytes()).unwrap()
    }

    #[test]
    fn a_key_counts_for_its_host_while_the_list_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let host_key = |number: u8| HostKey { kind: HostKeyKind::Ed25519, blob: vec![number] };
        let mut machine = Machine::new("b1", "root", Vec::new(), vec![host_key(1), host_key(2)]);
        let record = |machine: &Machine| VerifiedKey::of(&state, machine).unwrap();
        assert!(!record(&machine).is_authorized(&acl(&[1, 2])));
        record(&machine).remember(&PublicKey::parse(key(2).as_bytes()).unwrap()).unwrap();
        assert!(record(&machine).is_authorized(&acl(&[1, 2])) && !record(&machine).is_authorized(&acl(&[1])));
        let other = Machine::new("b2", "root", Vec::new(), Vec::new());
        assert!(!record(&other).is_authorized(&acl(&[1, 2])));
        record(&machine).forget().unwrap();
        assert!(!record(&machine).is_authorized(&acl(&[1, 2])));
        record(&machine).remember(&PublicKey::parse(key(1).as_bytes()).unwrap()).unwrap();
        assert!(record(&machine).is_authorized(&acl(&[1])));
        for changed in 0..2 {
            let mut machine = machine.clone();
            machine.host_keys[changed] = host_key(3);
            assert!(!record(&machine).is_authorized(&acl(&[1])), "{changed}");
        }
        machine.daemon_socket = "/run/other".into();
        assert!(!record(&machine).is_authorized(&acl(&[1])));
    }
}
