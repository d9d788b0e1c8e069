//! Reads the data that a server sends before encryption begins, for better error messages. libssh2 receives the same
//! data.
//!
//! libssh2 skips every line before the server's version, and reports one code for all failures of a key exchange. The
//! data of the server shows more:
//!
//! - OpenSSH sends the line `Not allowed at this time` instead of its version, and closes the connection, to a banned
//!   address (`PerSourcePenalties`, since 9.8) and above the limit of connections (`MaxStartups`). For the latter,
//!   earlier versions sent `Exceeded MaxStartups`, and still earlier ones nothing.
//! - The first packet after the version is SSH_MSG_KEXINIT (RFC 4253, sections 6 and 7.1): packet length, padding
//!   length, the number 20, a cookie of 16 bytes, and then a list of names for each kind of algorithm that the server
//!   supports.
//!
//! Only messages depend on this data. Missing or invalid parts are unknown.

const SSH_MSG_KEXINIT: u8 = 20;

/// The received bytes, from the first one.
#[derive(Default)]
pub(super) struct HandshakeSniffer {
    pub(super) bytes: Vec<u8>,
}

/// The algorithms that a server supports, by kind. Ciphers and MACs have a list for each direction: to the server, and
/// from it.
#[derive(Debug, PartialEq)]
pub(super) struct Algorithms {
    pub(super) key_exchange: Vec<String>,
    pub(super) host_key: Vec<String>,
    pub(super) ciphers: [Vec<String>; 2],
    pub(super) macs: [Vec<String>; 2],
}

impl HandshakeSniffer {
    /// Returns whether the server has sent nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the first line if it is not an SSH version, at most 80 bytes, with blanks for control characters.
    pub(super) fn other_than_ssh(&self) -> Option<String> {
        if self.bytes.is_empty() || self.after_version().is_some() || self.bytes.starts_with(b"SSH-") {
            return None;
        }
        let line = self.bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        Some(printable(&line[..line.len().min(80)]).trim_end().to_owned())
    }

    /// Returns the algorithms of the server, if its SSH_MSG_KEXINIT was received completely.
    pub(super) fn algorithms(&self) -> Option<Algorithms> {
        let (length, packet) = self.after_version()?.split_first_chunk::<4>()?;
        let packet = packet.get(..u32::from_be_bytes(*length) as usize)?;
        if *packet.get(1)? != SSH_MSG_KEXINIT {
            return None;
        }
        let mut rest = packet.get(1 + 1 + 16..)?;
        let mut next = || {
            let (names, after) = name_list(rest)?;
            rest = after;
            Some(printable(names).split(',').map(str::to_owned).collect())
        };
        Some(Algorithms {
            key_exchange: next()?,
            host_key: next()?,
            ciphers: [next()?, next()?],
            macs: [next()?, next()?],
        })
    }

    /// Returns the bytes after the line with the version.
    fn after_version(&self) -> Option<&[u8]> {
        let mut rest = self.bytes.as_slice();
        loop {
            let end = rest.iter().position(|&byte| byte == b'\n')?;
            let (line, after) = rest.split_at(end + 1);
            if line.starts_with(b"SSH-") {
                return Some(after);
            }
            rest = after;
        }
    }
}

/// Returns the text with blanks for control characters.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Splits a name list (RFC 4251, section 5) off the bytes.
fn name_list(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sniffer(bytes: &[u8]) -> HandshakeSniffer {
        HandshakeSniffer { bytes: bytes.to_vec() }
    }

    fn key_exchange_init(lists: &[&str]) -> Vec<u8> {
        let mut payload = vec![SSH_MSG_KEXINIT];
        payload.extend([7; 16]);
        for list in lists {
            payload.extend((list.len() as u32).to_be_bytes());
            payload.extend(list.as_bytes());
        }
        let mut packet = (payload.len() as u32 + 1 + 4).to_be_bytes().to_vec();
        packet.push(4);
        packet.extend(payload);
        packet.extend([0; 4]);
        packet
    }

    #[test]
    fn the_algorithms_are_in_the_order_of_the_rfc() {
        let mut bytes = b"welcome\r\nSSH-2.0-OpenSSH_9.9\r\n".to_vec();
        bytes.extend(key_exchange_init(&[
            "curve25519-sha256",
            "rsa-sha2-512,ssh-ed25519",
            "a",
            "b",
            "c,d",
            "e",
            "none",
        ]));
        let sniffer = sniffer(&bytes);
        let list = |names: &str| names.split(',').map(str::to_owned).collect::<Vec<_>>();
        let expected = Algorithms {
            key_exchange: list("curve25519-sha256"),
            host_key: list("rsa-sha2-512,ssh-ed25519"),
            ciphers: [list("a"), list("b")],
            macs: [list("c,d"), list("e")],
        };
        assert_eq!(sniffer.algorithms(), Some(expected));
        assert_eq!(sniffer.other_than_ssh(), None);
    }

    #[test]
    fn algorithms_of_a_truncated_packet_are_unknown() {
        let mut bytes = b"SSH-2.0-x\n".to_vec();
        bytes.extend(key_exchange_init(&["a"; 6]));
        for length in 0..bytes.len() {
            assert_eq!(sniffer(&bytes[..length]).algorithms(), None, "{length} bytes");
        }
        assert!(sniffer(&bytes).algorithms().is_some());
    }

    #[test]
    fn lengths_beyond_the_packet_are_refused() {
        let mut bytes = b"SSH-2.0-x\n".to_vec();
        bytes.extend(key_exchange_init(&["a"; 6]));
        let at = bytes.len() - 4 - 5;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(sniffer(&bytes).algorithms(), None);
    }

    #[test]
    fn other_services_are_quoted_without_control_characters() {
        assert_eq!(sniffer(b"220 mail\x1b[2J ready\r\n").other_than_ssh().unwrap(), "220 mail [2J ready");
        assert_eq!(sniffer(b"Not allowed at this time\r\n").other_than_ssh().unwrap(), "Not allowed at this time");
        assert_eq!(sniffer(b"SSH-").other_than_ssh(), None);
        assert_eq!(sniffer(b"").other_than_ssh(), None);
    }
}
