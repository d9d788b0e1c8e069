//! Finds out why a server has refused a login, as far as possible (RFC 4252, sections 5.1 and 7).
//!
//! The client first asks the server whether it accepts the key. If it does, the client signs the login, so a later
//! refusal has another reason than the key. Each refusal includes a list of the methods with which the login can
//! continue, but libssh2 does not pass it on. A request for the method `none` returns the list again. Only the log of
//! the server has the reason itself.

use std::ffi::CStr;

use super::deadline::Deadline;
use super::driver::{CallKind, Driver};
use super::error::Cause;
use super::ffi;
use super::private_key::PrivateKey;
use crate::machine::Machine;
use crate::text::printable;

/// The most login methods of a server that are reported.
const MAX_METHODS: usize = 8;
/// The longest name of a login method that is reported, in bytes; the rest is cut off.
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
    /// Returns the cause for a server that refuses the key without a reason.
    pub(super) fn of_key(&self) -> Cause {
        Cause::UserKeyRefused {
            user: self.machine.user.clone(),
            key: self.key.path.clone(),
            public_key: self.key.line(),
        }
    }

    /// Returns the cause for a server that has refused the key before the signature.
    pub(super) fn before_signature(&self, user: &CStr) -> Cause {
        match self.methods(user) {
            Some(methods) if !methods.iter().any(|method| method == PUBLIC_KEY_METHOD) => {
                Cause::KeyLoginDisabled { user: self.machine.user.clone(), methods }
            }
            _ => self.of_key(),
        }
    }

    /// Returns the cause for a server that accepts the key but not the login. After a partial success, the list of
    /// methods does not have the ones that have succeeded.
    pub(super) fn after_signature(&self, user: &CStr) -> Cause {
        let (user_name, key) = (self.machine.user.clone(), self.key.path.clone());
        match self.methods(user) {
            Some(methods) if !methods.is_empty() && !methods.iter().any(|method| method == PUBLIC_KEY_METHOD) => {
                Cause::MoreMethodsRequired { user: user_name, key, methods }
            }
            _ => Cause::LoginRefused { user: user_name, key },
        }
    }

    /// Returns the methods with which the login can continue; `None` if the server does not send them.
    fn methods(&self, user: &CStr) -> Option<Vec<String>> {
        let call = || ffi::login_methods(self.driver.ssh(), user);
        let list = self.driver.run(CallKind::Negotiation, Some(self.limit), call).ok()?;
        Some(split(&list))
    }
}

/// Returns the methods of a comma-separated list that are reported, at most [`MAX_METHODS`]. `publickey` is among them
/// if it is anywhere in the list.
fn split(list: &str) -> Vec<String> {
    let mut methods: Vec<&str> = list.split(',').filter(|method| !method.is_empty()).collect();
    // The sort is stable, so the others keep their order.
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
