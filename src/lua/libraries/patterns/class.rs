//! Classes of bytes in a pattern: single bytes, `.`, `%a` and its like, and sets in brackets.

const ESCAPE: u8 = b'%';

/// Counts steps.
pub(in super::super) trait Steps {
    fn take(&self, steps: usize);
}

/// The classes of a pattern, by their positions.
pub(super) struct Classes<'a, S> {
    pattern: &'a [u8],
    steps: &'a S,
}

impl<'a, S: Steps> Classes<'a, S> {
    pub fn new(pattern: &'a [u8], steps: &'a S) -> Self {
        Classes { pattern, steps }
    }

    /// Returns the end of the class that begins at `p`.
    pub fn end_of(&self, p: usize) -> Result<usize, String> {
        match self.pattern[p] {
            ESCAPE if p + 1 == self.pattern.len() => Err("malformed pattern (ends with '%')".to_owned()),
            ESCAPE => Ok(p + 2),
            b'[' => self.set_end(p + 1),
            _ => Ok(p + 1),
        }
    }

    /// Returns the position after the bracket that closes a set; a bracket that comes first belongs to the set.
    fn set_end(&self, mut p: usize) -> Result<usize, String> {
        if self.pattern.get(p) == Some(&b'^') {
            p += 1;
        }
        loop {
            self.steps.take(1);
            let Some(&byte) = self.pattern.get(p) else {
                return Err("malformed pattern (missing ']')".to_owned());
            };
            p += if byte == ESCAPE { 2 } else { 1 };
            if self.pattern.get(p) == Some(&b']') {
                return Ok(p + 1);
            }
        }
    }

    /// Returns whether the class from `p` to `rest` has a byte.
    pub fn has(&self, byte: u8, p: usize, rest: usize) -> bool {
        match self.pattern[p] {
            b'.' => true,
            ESCAPE => is_in_class(byte, self.pattern[p + 1]),
            b'[' => self.is_in_set(byte, p, rest - 1),
            other => other == byte,
        }
    }

    /// Returns whether the set between the brackets at `p` and `end` has a byte.
    pub fn is_in_set(&self, byte: u8, mut p: usize, end: usize) -> bool {
        let mut has_it = true;
        if self.pattern[p + 1] == b'^' {
            has_it = false;
            p += 1;
        }
        p += 1;
        while p < end {
            self.steps.take(1);
            let first = self.pattern[p];
            if first == ESCAPE {
                p += 1;
                if is_in_class(byte, self.pattern[p]) {
                    return has_it;
                }
            } else if self.pattern[p + 1] == b'-' && p + 2 < end {
                p += 2;
                if (first..=self.pattern[p]).contains(&byte) {
                    return has_it;
                }
            } else if first == byte {
                return has_it;
            }
            p += 1;
        }
        !has_it
    }
}

/// Returns whether a class such as `%a` has a byte.
fn is_in_class(byte: u8, class: u8) -> bool {
    let has_it = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'g' => byte.is_ascii_graphic(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        // C's white space has the vertical tab, Rust's has not.
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    has_it != class.is_ascii_uppercase()
}
