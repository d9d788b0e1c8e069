//! The encoding of strings and numbers in SSH keys and signatures (RFC 4251, section 5).

/// Returns the string at the beginning of `bytes`, and the bytes after it.
pub(super) fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// Appends a string.
pub(super) fn write_string(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend(bytes);
}

/// Appends a number that is not negative, without leading zeros except the one that makes the sign positive.
pub(super) fn write_number(to: &mut Vec<u8>, number: &[u8]) {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    match number.first() {
        Some(0x80..) => write_string(to, &[&[0], number].concat()),
        _ => write_string(to, number),
    }
}

/// Returns a number in `size` bytes, if it fits.
pub(super) fn fixed(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    let mut bytes = vec![0; size.checked_sub(number.len())?];
    bytes.extend(number);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positive_and_have_no_other_leading_zeros() {
        let written = |number: &[u8]| {
            let mut bytes = Vec::new();
            write_number(&mut bytes, number);
            bytes
        };
        assert_eq!(written(&[0, 0, 1, 2]), [0, 0, 0, 2, 1, 2]);
        assert_eq!(written(&[0x80]), [0, 0, 0, 2, 0, 0x80]);
        assert_eq!(written(&[0, 0]), [0; 4]);
    }

    #[test]
    fn numbers_of_a_fixed_size() {
        assert_eq!(fixed(&[0, 0, 1, 2], 3), Some(vec![0, 1, 2]));
        assert_eq!(fixed(&[1, 2, 3], 3), Some(vec![1, 2, 3]));
        assert_eq!(fixed(&[1, 2, 3], 2), None);
    }

    #[test]
    fn truncated_strings_are_none() {
        let mut bytes = Vec::new();
        write_string(&mut bytes, b"abc");
        assert_eq!(string(&[&bytes[..], b"rest"].concat()), Some((&b"abc"[..], &b"rest"[..])));
        assert!((0..bytes.len()).all(|length| string(&bytes[..length]).is_none()));
    }
}
