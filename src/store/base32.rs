//! The base 32 of store paths ("nix-base32").
//!
//! The bytes are read as one little-endian number. It is written with the most significant digit first, five bits per
//! character, in an alphabet of the digits and the lower-case letters without `e`, `o`, `t` and `u`. If the number of
//! bits is not a multiple of five, the first character has the remaining bits, and its unused bits must be zero.

/// The 32 digits, by value.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Returns the number of characters for `bytes` bytes.
pub const fn encoded_length(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Encodes `bytes` in base 32.
pub fn encode(bytes: &[u8]) -> String {
    let at = |index: usize| u16::from(bytes.get(index).copied().unwrap_or(0));
    (0..encoded_length(bytes.len()))
        .rev()
        .map(|position| {
            let bit = position * 5;
            let window = at(bit / 8) | at(bit / 8 + 1) << 8;
            char::from(ALPHABET[usize::from(window >> (bit % 8) & 31)])
        })
        .collect()
}

/// Decodes `text`; `None` if a character is not in the alphabet, if no number of bytes has this length, or if an unused
/// bit is set.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let length = text.len() * 5 / 8;
    if encoded_length(length) != text.len() {
        return None;
    }
    let mut bytes = vec![0; length];
    for (position, &character) in text.iter().rev().enumerate() {
        let bit = position * 5;
        let window = u16::from(digit(character)?) << (bit % 8);
        let [low, high] = window.to_le_bytes();
        bytes[bit / 8] |= low;
        match bytes.get_mut(bit / 8 + 1) {
            Some(byte) => *byte |= high,
            None if high != 0 => return None,
            None => {}
        }
    }
    Some(bytes)
}

/// Returns whether `character` is a digit of this base.
pub fn is_digit(character: u8) -> bool {
    digit(character).is_some()
}

fn digit(character: u8) -> Option<u8> {
    ALPHABET.iter().position(|&known| known == character).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn known_values_are_encoded() {
        let counting: Vec<u8> = (0..=0x13).collect();
        assert_eq!(encode(&counting), "2c91240g1q6hq2qa1440f1h50h1h4080");
        assert_eq!(encode(&Sha256::digest(b"")), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        assert_eq!(encode(&[]), "");
    }

    #[test]
    fn text_that_is_not_canonical_is_refused() {
        for text in [&b"0"[..], b"e0", b"o0", b"t0", b"u0", b"0A", b"000", b"zz", b"80", b"0-"] {
            assert_eq!(decode(text), None, "{}", text.escape_ascii());
        }
        assert_eq!(decode(b"7z"), Some(vec![0xff]));
    }

    proptest! {
        #[test]
        fn encoded_bytes_are_decoded_again(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), encoded_length(bytes.len()));
            prop_assert_eq!(decode(text.as_bytes()), Some(bytes));
        }

        #[test]
        fn a_value_has_one_text(text in "[0-9a-z]{0,40}") {
            if let Some(bytes) = decode(text.as_bytes()) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
