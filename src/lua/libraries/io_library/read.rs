//! The formats of `file:read`: `"n"`, `"a"`, `"l"`, `"L"` and a number of bytes; a `*` before a letter is skipped.

use mlua::{Lua, MultiValue, Value};
use std::io::{self, BufRead, Read};

/// The limit of the characters of a numeral.
const MAX_NUMERAL: usize = 200;

/// A file that can be read.
pub(super) trait Input: BufRead {}
impl<T: BufRead> Input for T {}

enum Format {
    Number,
    All,
    Line { keep_end: bool },
    Bytes(u64),
}

impl Format {
    fn new(value: &Value) -> Option<Format> {
        if let Some(count) = super::super::super::values::whole(value) {
            return Some(Format::Bytes(count));
        }
        let text = value.as_string()?.to_string_lossy();
        match text.trim_start_matches('*').chars().next()? {
            'n' => Some(Format::Number),
            'a' => Some(Format::All),
            'l' => Some(Format::Line { keep_end: false }),
            'L' => Some(Format::Line { keep_end: true }),
            _ => None,
        }
    }
}

/// Reads a value for each format, up to the first that fails, which gives nil. Without formats it reads a line. More
/// than `limit` bytes in one read exceed the memory limit.
pub(super) fn values(
    lua: &Lua,
    input: &mut dyn Input,
    formats: &[Value],
    limit: u64,
) -> mlua::Result<io::Result<MultiValue>> {
    let mut values = MultiValue::new();
    let line = [Format::Line { keep_end: false }];
    let invalid = || mlua::Error::RuntimeError("read: invalid format".to_owned());
    let given = formats.iter().map(|format| Format::new(format).ok_or_else(invalid));
    let given = given.collect::<mlua::Result<Vec<_>>>()?;
    for format in if given.is_empty() { &line[..] } else { &given } {
        let value = match format {
            Format::Number => match numeral(input) {
                Ok(text) => lua.coerce_number(Value::String(lua.create_string(text)?))?.map(|number| {
                    let whole = number as i64;
                    if whole as f64 == number { Value::Integer(whole) } else { Value::Number(number) }
                }),
                Err(error) => return Ok(Err(error)),
            },
            format => match bytes(input, format, limit) {
                Ok(Some(bytes)) if bytes.len() as u64 > limit => {
                    return Err(mlua::Error::MemoryError("not enough memory".to_owned()));
                }
                Ok(bytes) => bytes.map(|bytes| lua.create_string(bytes)).transpose()?.map(Value::String),
                Err(error) => return Ok(Err(error)),
            },
        };
        let failed = value.is_none();
        values.push_back(value.unwrap_or(Value::Nil));
        if failed {
            break;
        }
    }
    Ok(Ok(values))
}

fn bytes(input: &mut dyn Input, format: &Format, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut limited = input.take(limit + 1);
    match format {
        Format::All | Format::Number => drop(limited.read_to_end(&mut bytes)?),
        Format::Bytes(0) => return Ok((!input.fill_buf()?.is_empty()).then(Vec::new)),
        Format::Bytes(count) => drop(limited.take(*count).read_to_end(&mut bytes)?),
        Format::Line { keep_end } => {
            let length = limited.read_until(b'\n', &mut bytes)?;
            if length > 0 && !keep_end && bytes.last() == Some(&b'\n') {
                bytes.pop();
                return Ok(Some(bytes));
            }
        }
    }
    Ok((!bytes.is_empty() || matches!(format, Format::All)).then_some(bytes))
}

/// Reads the characters of a numeral, after white space.
fn numeral(input: &mut dyn Input) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let Some(&byte) = input.fill_buf()?.first() else { return Ok(text) };
        let space = text.is_empty() && byte.is_ascii_whitespace();
        if !space {
            if !(byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) || text.len() == MAX_NUMERAL {
                return Ok(text);
            }
            text.push(byte);
        }
        input.consume(1);
    }
}
