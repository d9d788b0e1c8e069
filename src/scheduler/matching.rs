//! Which machines can take a build at all: the system type and the features decide.
//!
//! As in Guix: the derivation's system must be one of the machine's, and every feature that the derivation requires
//! must be among those that the machine offers.

use std::fmt;

use crate::hook::Request;
use crate::machine::Machine;

/// Why a machine cannot take a build, whatever its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// `enabled = false` in the machine file.
    Disabled,
    /// It does not build for this system.
    System { wanted: String, offered: Vec<String> },
    /// These required features are missing.
    Features(Vec<String>),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Disabled => f.write_str("disabled in the machine file"),
            Mismatch::System { wanted, offered } => {
                write!(f, "it does not build for {wanted}, only for {}", offered.join(", "))
            }
            Mismatch::Features(missing) if missing.len() == 1 => write!(f, "it lacks the feature {}", missing[0]),
            Mismatch::Features(missing) => write!(f, "it lacks the features {}", missing.join(", ")),
        }
    }
}

/// Returns why `machine` cannot take `request`; `None` if it can.
pub fn mismatch(machine: &Machine, request: &Request) -> Option<Mismatch> {
    if !machine.enabled {
        return Some(Mismatch::Disabled);
    }
    if !machine.systems.contains(&request.system) {
        return Some(Mismatch::System { wanted: request.system.clone(), offered: machine.systems.clone() });
    }
    let missing: Vec<String> =
        request.features.iter().filter(|feature| !machine.features.contains(feature)).cloned().collect();
    if missing.is_empty() { None } else { Some(Mismatch::Features(missing)) }
}

/// Returns whether a head of system type `head` can build for `system` itself. This is guix-daemon's own rule.
pub fn builds_locally(head: &str, system: &str) -> bool {
    head == system || matches!((head, system), ("x86_64-linux", "i686-linux") | ("aarch64-linux", "armhf-linux"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::{StoreDir, StorePath};

    fn request(system: &str, features: &[&str]) -> Request {
        let derivation =
            StorePath::parse(&StoreDir::default(), b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv").unwrap();
        let features = features.iter().map(|&feature| feature.to_owned()).collect();
        Request { wants_local: true, system: system.into(), derivation, features }
    }

    #[test]
    fn a_machine_must_have_the_system_and_all_features() {
        let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into(), "i686-linux".into()], Vec::new());
        machine.features = vec!["kvm".into(), "big".into()];
        assert_eq!(mismatch(&machine, &request("i686-linux", &[])), None);
        assert_eq!(mismatch(&machine, &request("x86_64-linux", &["big", "kvm"])), None);
        let why = |request| mismatch(&machine, &request).unwrap().to_string();
        assert_eq!(
            why(request("aarch64-linux", &[])),
            "it does not build for aarch64-linux, only for x86_64-linux, i686-linux"
        );
        assert_eq!(why(request("x86_64-linux", &["kvm", "cuda", "hdd"])), "it lacks the features cuda, hdd");
        assert_eq!(why(request("x86_64-linux", &["cuda"])), "it lacks the feature cuda");
        machine.enabled = false;
        assert_eq!(mismatch(&machine, &request("i686-linux", &[])), Some(Mismatch::Disabled));
    }

    #[test]
    fn a_head_builds_for_its_own_and_its_32_bit_system() {
        assert!(builds_locally("x86_64-linux", "i686-linux"));
        assert!(builds_locally("aarch64-linux", "armhf-linux"));
        assert!(!builds_locally("i686-linux", "x86_64-linux"));
        assert!(!builds_locally("x86_64-linux", "aarch64-linux"));
    }
}
