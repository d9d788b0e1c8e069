//! The valid names of a machine: a host name, or an address of either family without brackets.
//!
//! Whether it resolves is not checked here. Two spellings of one name are known for one.

use std::net::{Ipv4Addr, Ipv6Addr};

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

/// Returns the canonical spelling of a name: lower case, without the final dot of a DNS name, and with addresses in their
/// usual form. It does not resolve the name.
pub fn canonical_name(name: &str) -> String {
    let (address, zone) = match name.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (name, None),
    };
    if let Ok(address) = address.parse::<Ipv6Addr>() {
        return match (address.to_ipv4_mapped(), zone) {
            (Some(address), None) => address.to_string(),
            (_, Some(zone)) => format!("{address}%{zone}"),
            (None, None) => address.to_string(),
        };
    }
    if let Some(address) = ipv4_address(name) {
        return address.to_string();
    }
    let name = name.to_ascii_lowercase();
    name.strip_suffix('.').filter(|name| !name.is_empty()).map_or_else(|| name.clone(), str::to_owned)
}

/// An address as inet_aton(3) reads it, and so getaddrinfo(3): up to four numbers, also hexadecimal and octal, the last of
/// which fills what is left.
fn ipv4_address(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        _ if part.starts_with('+') => None,
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        None => part.parse().ok(),
    };
    let parts = text.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, bytes) = parts.split_last().filter(|(_, bytes)| bytes.len() <= 3)?;
    let room = 32 - 8 * bytes.len() as u32;
    let fits = bytes.iter().all(|&byte| byte <= 255) && u64::from(*last) < 1 << room;
    let above = bytes.iter().zip([24, 16, 8]).fold(0, |address, (byte, shift)| address | (byte << shift));
    fits.then(|| Ipv4Addr::from(above | last))
}

/// Whether a derivation can require such a feature: guix-daemon hands the names over separated by commas, after it has
/// checked them as it checks names of store items.
pub fn is_feature_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    !name.is_empty() && name.bytes().all(plain)
}

/// Returns the name of a machine for people and for records: without a port that is SSH's own.
pub fn label(name: &str, port: u16) -> String {
    let name = canonical_name(name);
    if port == 22 { name } else { format!("{name}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_have_one_canonical_form() {
        for (spellings, canonical) in [
            (&["good.lan", "Good.lan", "GOOD.LAN.", "good.lan."][..], "good.lan"),
            (
                &[
                    "192.0.2.7",
                    "::ffff:192.0.2.7",
                    "::FFFF:c000:207",
                    "192.0.519",
                    "3221225991",
                    "0xc0.0.2.7",
                    "0300.0.02.07",
                ],
                "192.0.2.7",
            ),
            (&["127.1", "127.0.0.1"], "127.0.0.1"),
            (&["2001:db8::7", "2001:DB8:0:0::7", "2001:0db8:0000:0000:0000:0000:0000:0007"], "2001:db8::7"),
            (&["fe80::1%Eth0", "FE80:0::1%Eth0"], "fe80::1%Eth0"),
            // Names, though they have digits.
            (&["1.2.3.4.5"], "1.2.3.4.5"),
            (&["256.1.1.1"], "256.1.1.1"),
            (&["1.2.3.256"], "1.2.3.256"),
            (&["08.1.1.1"], "08.1.1.1"),
            (&["b1..", "B1.."], "b1."),
        ] {
            for spelling in spellings {
                assert_eq!(canonical_name(spelling), canonical, "{spelling}");
            }
        }
    }

    #[test]
    fn names_without_host_syntax_are_refused() {
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
