//! The valid names of a machine: a host name, or an address of either family without brackets.
//!
//! Whether it resolves is not checked here.

/// The reason why a text is not a valid name.
#[derive(Debug, PartialEq, Eq)]
pub enum NameFault<'a> {
    /// A port follows the name.
    Port(&'a str),
    /// An account precedes it.
    Account(&'a str),
    /// An address of version 6 in brackets.
    Brackets,
    /// It is empty, too long, or has characters that no name has.
    Other,
}

/// Checks a name. It goes to the resolver, and to programs as an argument.
pub fn check_name(name: &str) -> Result<(), NameFault<'_>> {
    let strange = |character: char| !(character.is_ascii_alphanumeric() || ".-_:%".contains(character));
    if !name.is_empty() && name.len() <= 253 && !name.starts_with(['-', '.']) && !name.contains(strange) {
        return match name.split_once(':') {
            Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => Err(NameFault::Port(port)),
            _ => Ok(()),
        };
    }
    Err(match name.split_once('@') {
        Some((user, _)) => NameFault::Account(user),
        None if name.starts_with('[') => NameFault::Brackets,
        None => NameFault::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_and_invalid_names() {
        for name in ["b1", "build.example.org", "192.0.2.7", "2001:db8::7", "fe80::1%eth0"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        assert_eq!(check_name("b1:2222"), Err(NameFault::Port("2222")));
        assert_eq!(check_name("root@b1"), Err(NameFault::Account("root")));
        assert_eq!(check_name("[2001:db8::7]"), Err(NameFault::Brackets));
        for name in ["", "a b", "-x", ".b1", "b1\n", "$(id)", "b\u{f6}se", &"x".repeat(254)] {
            assert_eq!(check_name(name), Err(NameFault::Other), "{name:?}");
        }
    }
}
