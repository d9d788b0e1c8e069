//! Matching a pattern of Lua 5.4 (section 6.4.1 of its manual), step by step.
//!
//! The algorithm is that of Lua's own `lstrlib.c`, with its limits and its messages. But steps are counted here: a
//! pattern may backtrack for longer than the universe will last, and the caller can stop it.
//!
//! As there, letters and digits are those of ASCII (the C locale).

use super::class::{Classes, Steps};

/// The limit of the captures of a pattern.
const MAX_CAPTURES: usize = 32;
/// The depth limit of the matcher's recursion.
const MAX_RECURSION: u32 = 200;
/// The bytes that are compared in one step.
const BYTES_PER_STEP: usize = 32;
const ESCAPE: u8 = b'%';

/// A match: its begin and end, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Match {
    pub start: usize,
    pub end: usize,
}

/// The contents of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Captured {
    Text(Match),
    /// A position, from 0.
    Position(usize),
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Open,
    Position,
    Bytes(usize),
}

#[derive(Clone, Copy, Debug)]
struct Capture {
    start: usize,
    length: Length,
}

/// A text and a pattern. Positions in both are counted from 0.
pub(in super::super) struct Matcher<'a, S> {
    text: &'a [u8],
    pattern: &'a [u8],
    classes: Classes<'a, S>,
    steps: &'a S,
    captures: Vec<Capture>,
    depth: u32,
}

/// The error has the message of Lua's own functions.
type Result<T> = std::result::Result<T, String>;

impl<'a, S: Steps> Matcher<'a, S> {
    pub fn new(text: &'a [u8], pattern: &'a [u8], steps: &'a S) -> Self {
        Matcher {
            text,
            pattern,
            classes: Classes::new(pattern, steps),
            steps,
            captures: Vec::new(),
            depth: MAX_RECURSION,
        }
    }

    /// Returns the first match that begins at `from` or later, or only there. A match that ends at `except` does not
    /// count: it is empty, right after the previous match.
    pub fn search(&mut self, from: usize, is_anchored: bool, except: Option<usize>) -> Result<Option<Match>> {
        for start in from..=self.text.len() {
            self.captures.clear();
            self.depth = MAX_RECURSION;
            match self.matches(start, 0)? {
                Some(end) if Some(end) != except => return Ok(Some(Match { start, end })),
                _ if is_anchored => break,
                _ => {}
            }
        }
        Ok(None)
    }

    /// Returns the number of captures of the last match.
    pub fn explicit(&self) -> usize {
        self.captures.len()
    }

    /// Returns the number of captures, or 1 if there are none, since the whole match counts then.
    pub fn count(&self) -> usize {
        self.captures.len().max(1)
    }

    /// Returns a capture of the last match, from 0. A pattern without captures has the whole match as its first one.
    pub fn capture(&self, number: usize, whole: Match) -> Result<Captured> {
        match self.captures.get(number) {
            None if number == 0 => Ok(Captured::Text(whole)),
            None => Err(format!("invalid capture index %{}", number + 1)),
            Some(Capture { length: Length::Open, .. }) => Err("unfinished capture".to_owned()),
            Some(Capture { start, length: Length::Position }) => Ok(Captured::Position(*start)),
            Some(Capture { start, length: Length::Bytes(length) }) => {
                Ok(Captured::Text(Match { start: *start, end: start + length }))
            }
        }
    }

    /// Returns the end of a match of the pattern from `p` on that begins at `s`.
    fn matches(&mut self, s: usize, p: usize) -> Result<Option<usize>> {
        if self.depth == 0 {
            return Err("pattern too complex".to_owned());
        }
        self.depth -= 1;
        let end = self.matches_here(s, p);
        self.depth += 1;
        end
    }

    fn matches_here(&mut self, mut s: usize, mut p: usize) -> Result<Option<usize>> {
        loop {
            self.steps.take(1);
            let Some(&byte) = self.pattern.get(p) else { return Ok(Some(s)) };
            match (byte, self.pattern.get(p + 1)) {
                (b'(', Some(b')')) => return self.open(s, p + 2, Length::Position),
                (b'(', _) => return self.open(s, p + 1, Length::Open),
                (b')', _) => return self.close(s, p + 1),
                (b'$', None) => return Ok((s == self.text.len()).then_some(s)),
                (ESCAPE, Some(b'b')) => match self.balance(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => return Ok(None),
                },
                (ESCAPE, Some(b'f')) => match self.frontier(s, p + 2)? {
                    Some(rest) => p = rest,
                    None => return Ok(None),
                },
                (ESCAPE, Some(&digit)) if digit.is_ascii_digit() => match self.again(s, digit)? {
                    Some(end) => (s, p) = (end, p + 2),
                    None => return Ok(None),
                },
                _ => {
                    let rest = self.classes.end_of(p)?;
                    let suffix = self.pattern.get(rest);
                    match (self.is_one(s, p, rest), suffix) {
                        (false, Some(b'*' | b'?' | b'-')) => p = rest + 1,
                        (false, _) => return Ok(None),
                        (true, Some(b'?')) => match self.matches(s + 1, rest + 1)? {
                            Some(end) => return Ok(Some(end)),
                            None => p = rest + 1,
                        },
                        (true, Some(b'+')) => return self.most(s + 1, p, rest),
                        (true, Some(b'*')) => return self.most(s, p, rest),
                        (true, Some(b'-')) => return self.fewest(s, p, rest),
                        (true, _) => (s, p) = (s + 1, rest),
                    }
                }
            }
        }
    }

    /// Returns whether the class from `p` to `rest` has the byte at `s`.
    fn is_one(&self, s: usize, p: usize, rest: usize) -> bool {
        self.steps.take(1);
        self.text.get(s).is_some_and(|&byte| self.classes.has(byte, p, rest))
    }

    /// Matches as many bytes of a class as possible, and then the rest of the pattern.
    fn most(&mut self, s: usize, p: usize, rest: usize) -> Result<Option<usize>> {
        let mut count = 0;
        while self.is_one(s + count, p, rest) {
            count += 1;
        }
        loop {
            if let Some(end) = self.matches(s + count, rest + 1)? {
                return Ok(Some(end));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn fewest(&mut self, mut s: usize, p: usize, rest: usize) -> Result<Option<usize>> {
        loop {
            if let Some(end) = self.matches(s, rest + 1)? {
                return Ok(Some(end));
            }
            if !self.is_one(s, p, rest) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize, length: Length) -> Result<Option<usize>> {
        if self.captures.len() >= MAX_CAPTURES {
            return Err("too many captures".to_owned());
        }
        let level = self.captures.len();
        self.captures.push(Capture { start: s, length });
        let end = self.matches(s, p)?;
        if end.is_none() {
            self.captures.truncate(level);
        }
        Ok(end)
    }

    fn close(&mut self, s: usize, p: usize) -> Result<Option<usize>> {
        let open = self.captures.iter().rposition(|capture| matches!(capture.length, Length::Open));
        let Some(number) = open else { return Err("invalid pattern capture".to_owned()) };
        self.captures[number].length = Length::Bytes(s - self.captures[number].start);
        let end = self.matches(s, p)?;
        if end.is_none() {
            self.captures[number].length = Length::Open;
        }
        Ok(end)
    }

    /// Matches `%bxy`; `p` is after the b.
    fn balance(&self, s: usize, p: usize) -> Result<Option<usize>> {
        let (Some(&begin), Some(&end)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err("malformed pattern (missing arguments to '%b')".to_owned());
        };
        if self.text.get(s) != Some(&begin) {
            return Ok(None);
        }
        let mut depth = 1;
        for (number, &byte) in self.text[s + 1..].iter().enumerate() {
            self.steps.take(1);
            if byte == end {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(s + number + 2));
                }
            } else if byte == begin {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// Matches `%f[set]`; `p` is after the f. Returns the position at which the pattern continues.
    fn frontier(&self, s: usize, p: usize) -> Result<Option<usize>> {
        if self.pattern.get(p) != Some(&b'[') {
            return Err("missing '[' after '%f' in pattern".to_owned());
        }
        let rest = self.classes.end_of(p)?;
        let before = if s == 0 { 0 } else { self.text[s - 1] };
        let here = self.text.get(s).copied().unwrap_or(0);
        let is_frontier = !self.classes.is_in_set(before, p, rest - 1) && self.classes.is_in_set(here, p, rest - 1);
        Ok(is_frontier.then_some(rest))
    }

    /// Matches `%1`: the text of a capture again.
    fn again(&self, s: usize, digit: u8) -> Result<Option<usize>> {
        let number = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let Some(Capture { start, length }) = self.captures.get(number).copied() else {
            return Err(format!("invalid capture index %{}", number.wrapping_add(1)));
        };
        let length = match length {
            Length::Open => return Err(format!("invalid capture index %{}", number + 1)),
            // A position is longer than any text.
            Length::Position => return Ok(None),
            Length::Bytes(length) => length,
        };
        self.steps.take(length / BYTES_PER_STEP);
        let is_there = self.text[s..].starts_with(&self.text[start..start + length]);
        Ok(is_there.then_some(s + length))
    }
}

/// Returns the position of `part` in `text`, from `from` on.
pub(in super::super) fn find_plain(text: &[u8], part: &[u8], from: usize, steps: &impl Steps) -> Option<usize> {
    let Some((&first, rest)) = part.split_first() else { return Some(from) };
    let last = text.len().checked_sub(rest.len())?;
    let mut start = from;
    while start < last {
        let skipped = text[start..last].iter().take(BYTES_PER_STEP * 1000).position(|&byte| byte == first);
        let Some(skipped) = skipped else {
            steps.take(1000);
            start += BYTES_PER_STEP * 1000;
            continue;
        };
        start += skipped;
        let common = rest.len() / BYTES_PER_STEP + skipped / BYTES_PER_STEP + 1;
        steps.take(common);
        if text[start + 1..].starts_with(rest) {
            return Some(start);
        }
        start += 1;
    }
    None
}
