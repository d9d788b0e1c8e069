//! Why a server refused a login, as far as it shows (RFC 4252, sections 5.1 and 7).
//!
//! A server is asked first whether it would take the key. If it would, the login is signed, and what it says then is not
//! about the key. Each refusal comes with a list of methods with which the login can go on, which libssh2 does not pass
//! on; a request for the method `none` gives the list once more. The reason itself a server keeps to its log.

use std::ffi::CStr;

use super::deadline::Deadline;
use super::driver::{Driver, Kind};
use super::error::Cause;
use super::ffi;
use super::private_key::PrivateKey;
use crate::machine::Machine;
use crate::text::printable;

/// The most login methods of a server that are shown.
const MAX_METHODS: usize = 8;
/// The longest name of a login method that is shown, in bytes.
const MAX_METHOD_NAME: usize = 64;
const PUBLIC_KEY_METHOD: &str = "publickey";

/// A login that was refused.
pub(super) struct Refusal<'a> {
    pub(super) driver: &'a Driver,
    pub(super) machine: &'a Machine,
    pub(super) key: &'a PrivateKey,
    pub(super) limit: Deadline,
}

impl Refusal<'_> {
    /// The server does not take the key, for a reason that it keeps to itself.
    pub(super) fn of_key(&self) -> Cause {
        Cause::UserKeyRefused {
            user: self.machine.user.clone(),
            key: self.key.path.clone(),
            public_key: self.key.line(),
        }
    }

    /// The server was asked whether it takes the key, and does not.
    pub(super) fn before_signature(&self, user: &CStr) -> Cause {
        match self.methods(user) {
            Some(methods) if !methods.iter().any(|method| method == PUBLIC_KEY_METHOD) => {
                Cause::NoLoginByKey { user: self.machine.user.clone(), methods }
            }
            _ => self.of_key(),
        }
    }

    /// The server takes the key, and not the login. Partial success shows in the methods that are left: those that have
    /// succeeded are not among them.
    pub(super) fn after_signature(&self, user: &CStr) -> Cause {
        let (user_name, key) = (self.machine.user.clone(), self.key.path.clone());
        match self.methods(user) {
            Some(methods) if !methods.is_empty() && !methods.iter().any(|method| method == PUBLIC_KEY_METHOD) => {
                Cause::MoreWanted { user: user_name, key, methods }
            }
            _ => Cause::LoginRefused { user: user_name, key },
        }
    }

    /// The methods with which the login can go on; `None` if the server does not say.
    fn methods(&self, user: &CStr) -> Option<Vec<String>> {
        let call = || ffi::login_methods(self.driver.ssh(), user);
        let list = self.driver.run(Kind::Negotiation, Some(self.limit), call).ok()?;
        Some(split(&list))
    }
}

/// Returns the methods of a list, separated by commas, that are to be shown. `publickey` is among them if the list has
/// it, wherever that is.
fn split(list: &str) -> Vec<String> {
    let mut methods: Vec<&str> = list.split(',').filter(|method| !method.is_empty()).collect();
    // A stable sort: the others stay in their order.
    methods.sort_by_key(|&method| method != PUBLIC_KEY_METHOD);
    methods.into_iter().take(MAX_METHODS).map(|method| printable(method, MAX_METHOD_NAME)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_methods_keeps_the_one_for_keys() {
        let many: Vec<String> = (0..100).map(|number| format!("method-{number}")).collect();
        let list = format!("{},,publickey,\u{1b}[2J{}", many.join(","), "x".repeat(1000));
        let methods = split(&list);
        assert_eq!(methods.len(), MAX_METHODS);
        assert_eq!(methods[..2], ["publickey", "method-0"]);
        assert_eq!(split("password,keyboard-interactive"), ["password", "keyboard-interactive"]);
        let odd = split(&format!("\u{1b}[2J{}", "x".repeat(1000)));
        assert!(odd[0].len() < 100 && !odd[0].contains('\u{1b}'), "{odd:?}");
        assert_eq!(split(""), [""; 0]);
    }
}
