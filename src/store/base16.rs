//! Hexadecimal, as hashes are written in derivations, in the daemon's replies and in the store's database.
//!
//! Encoding gives lower case, two digits per byte. Decoding accepts digits of either case only: no blanks, no prefix.

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Returns `bytes` as lower-case hexadecimal digits.
pub fn encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(HEX_DIGITS[usize::from(digit)]))
        .collect()
}

/// Decodes `text`; `None` if its length is odd or a character is not a hexadecimal digit.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// Decodes a SHA-256 digest from its 64 digits.
pub fn decode_sha256(text: &[u8]) -> Option<[u8; 32]> {
    decode(text)?.try_into().ok()
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_in_lower_case() {
        assert_eq!(encode(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
        assert_eq!(encode(&[]), "");
    }

    #[test]
    fn decodes_either_case() {
        assert_eq!(decode(b"000FA0ff"), Some(vec![0x00, 0x0f, 0xa0, 0xff]));
        assert_eq!(decode(b""), Some(vec![]));
    }

    #[test]
    fn other_characters_than_hexadecimal_digits_are_refused() {
        for text in [&b"0"[..], b"000", b"0g", b" 0", b"0x00", b"+1", b"\xc3\xa9"] {
            assert_eq!(decode(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_digest_has_64_digits() {
        assert_eq!(decode_sha256("ab".repeat(32).as_bytes()), Some([0xab; 32]));
        assert_eq!(decode_sha256("ab".repeat(31).as_bytes()), None);
        assert_eq!(decode_sha256("ab".repeat(33).as_bytes()), None);
    }
}
