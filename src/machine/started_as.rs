//! The name, the port and the host key of a machine that was started on demand.
//!
//! A cloud gives a machine another address each time. The machine file's name stays the name of its records and slots;
//! only connections use these fields.

use serde::{Deserialize, Serialize};

use super::{HostKey, Machine, check_name};

/// What a function `start` has returned: fields that replace those of the machine until it is off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartedAs {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_keys: Option<Vec<HostKey>>,
}

impl StartedAs {
    /// Returns whether the fields have valid values, as those that `start` returns do. A record on disk can have any.
    pub fn is_valid(&self) -> bool {
        let StartedAs { name, port, host_keys } = self;
        name.as_ref().is_none_or(|name| check_name(name).is_ok())
            && *port != Some(0)
            && host_keys.as_ref().is_none_or(|keys| !keys.is_empty())
    }

    /// Returns the machine that is contacted so. Its address, by which records name it, stays the same.
    pub fn apply(&self, machine: &Machine) -> Machine {
        let StartedAs { name, port, host_keys } = self.clone();
        let (name, port) = (name.unwrap_or_else(|| machine.name.clone()), port.unwrap_or(machine.port));
        Machine {
            contact: Some((name, port)),
            host_keys: host_keys.unwrap_or_else(|| machine.host_keys.clone()),
            ..machine.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_the_name_and_connections_use_the_other_one() {
        let machine = Machine { port: 2022, ..Machine::new("cloud", "u", Vec::new(), Vec::new()) };
        let key =
            HostKey::parse("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u").unwrap();
        let all = StartedAs { name: Some("192.0.2.7".into()), port: Some(22), host_keys: Some(vec![key.clone()]) };
        let started = all.apply(&machine);
        assert_eq!((started.address(), started.contact()), (machine.address(), ("192.0.2.7", 22)));
        assert_eq!(started.host_keys, [key]);
        assert!(all.is_valid() && StartedAs::default().is_valid());
        for wrong in [
            StartedAs { name: Some("-oProxyCommand=x".into()), ..all.clone() },
            StartedAs { name: Some("';x;'".into()), ..all.clone() },
            StartedAs { port: Some(0), ..all.clone() },
            StartedAs { host_keys: Some(Vec::new()), ..all.clone() },
        ] {
            assert!(!wrong.is_valid(), "{wrong:?}");
        }
        // Each field alone leaves the others.
        let port = StartedAs { port: Some(23), ..StartedAs::default() }.apply(&started);
        assert_eq!((port.contact(), port.host_keys.len()), (("cloud", 23), 1));
    }
}
