//! Values that other systems allow and a machine file does not. Each becomes the value with the nearest meaning, and a warning.

use super::lua::{Entry, Value};
use crate::machine::is_feature_name;

/// The speed of a machine whose speed is 0 or less. The systems that allow such a speed choose the machine last.
const MIN_SPEED: f64 = 0.001;

impl Entry {
    /// Sets the features that the machine offers, and those that a build must require to be sent there.
    pub fn set_features(&mut self, features: Vec<String>, mandatory: Vec<String>) {
        let unknown: Vec<&String> = features.iter().filter(|feature| !is_feature_name(feature)).collect();
        for feature in unknown {
            self.warn(format!("no derivation can require the feature '{feature}', which is left out"));
        }
        let can_build = mandatory.iter().all(|feature| is_feature_name(feature));
        let known = |features: Vec<String>| -> Vec<String> {
            features.into_iter().filter(|feature| is_feature_name(feature)).collect()
        };
        let (features, mandatory) = (known(features), known(mandatory));
        if !features.is_empty() {
            self.set("features", Value::List(features));
        }
        if !can_build {
            self.warn("a feature that no derivation can require is mandatory: it is never chosen");
            self.fields.retain(|(field, _)| *field != "enabled");
            self.set("enabled", Value::Boolean(false));
        } else if !mandatory.is_empty() {
            self.set("accepts", Value::OnlyFor(mandatory));
        }
    }

    /// Sets the relative speed; 1 is the default.
    pub fn set_speed(&mut self, speed: f64) {
        if speed <= 0.0 {
            self.warn(format!("its speed is {speed}, and must be above 0: {MIN_SPEED}, so that it is chosen last"));
            self.set("speed", Value::Number(MIN_SPEED));
        } else if speed != 1.0 {
            self.set("speed", Value::Number(speed));
        }
    }

    /// Sets the host name or address, an IPv6 address without its brackets.
    pub fn set_name(&mut self, name: String) {
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let name = match bare.filter(|bare| bare.contains(':')) {
            Some(bare) => bare.to_owned(),
            None => name,
        };
        self.set("name", Value::Text(name));
    }

    /// Sets the socket of the machine's daemon from a file name or a URI, as `GUIX_DAEMON_SOCKET` has it.
    pub fn set_daemon_socket(&mut self, socket: String) {
        const USUAL: &str = "/var/guix/daemon-socket/socket";
        let file = match socket.split_once("://") {
            Some(("unix" | "file", file)) => file.to_owned(),
            Some(_) => {
                self.warn(format!(
                    "daemon-socket '{socket}' has no counterpart: the daemon there must listen on a Unix-domain socket, and \
                     {USUAL} is taken"
                ));
                return;
            }
            None => socket,
        };
        if file != USUAL {
            self.set("daemon_socket", Value::Text(file));
        }
    }
}
