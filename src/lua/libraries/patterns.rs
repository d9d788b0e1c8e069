//! `string.find` and its relatives, for `lua/bounded.lua`, which gives them the interface of Lua's manual.
//!
//! Each function returns a message first; if that is nil, results follow. So the error is raised in Lua, as a string
//! with a location, and not as an object of ours.

use super::super::context::Context;
use class::Steps;
use matcher::{Captured, Match, Matcher, find_plain};
use mlua::{IntoLuaMulti as _, Lua, LuaString, MultiValue, Table, Value};
use std::cell::Cell;
use std::rc::Rc;

mod class;
mod matcher;

#[cfg(test)]
mod tests;

/// The number of steps between two checks for cancellation: well under a millisecond.
const STEPS_BETWEEN_CHECKS: usize = 10_000;
/// A pattern without any of these characters is plain text.
const SPECIAL_CHARACTERS: &[u8] = b"^$*+?.([%-";

pub(super) fn register(lua: &Lua, host: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    let here = Rc::clone(context);
    let find = move |lua: &Lua, (text, pattern, from, plain): (LuaString, LuaString, usize, bool)| {
        find(lua, &here, &text.as_bytes(), &pattern.as_bytes(), from, plain)
    };
    host.raw_set("find", lua.create_function(find)?)?;
    let here = Rc::clone(context);
    let scan =
        move |lua: &Lua, (text, pattern, from, except, anchored, first): (LuaString, LuaString, _, _, _, bool)| {
            let most = if first { 1 } else { usize::MAX };
            scan(lua, &here, &text.as_bytes(), &pattern.as_bytes(), (from, except, anchored), most)
        };
    host.raw_set("scan", lua.create_function(scan)?)?;
    let here = Rc::clone(context);
    let replace = move |lua: &Lua, (text, pattern, with, most): (LuaString, LuaString, LuaString, usize)| {
        let replaced = replace(lua, &here, &text.as_bytes(), &pattern.as_bytes(), &with.as_bytes(), most)?;
        answer(lua, replaced, |replaced| replaced.into_lua_multi(lua))
    };
    host.raw_set("replace", lua.create_function(replace)?)
}

/// Checks for cancellation at intervals.
struct LookUp<'a> {
    lua: &'a Lua,
    context: &'a Context,
    left: Cell<usize>,
}

impl<'a> LookUp<'a> {
    fn new(lua: &'a Lua, context: &'a Context) -> LookUp<'a> {
        LookUp { lua, context, left: Cell::new(STEPS_BETWEEN_CHECKS) }
    }
}

impl Steps for LookUp<'_> {
    fn take(&self, steps: usize) {
        match self.left.get().checked_sub(steps) {
            Some(left) => self.left.set(left),
            None => {
                self.left.set(STEPS_BETWEEN_CHECKS);
                self.context.park_if_cancelled(self.lua);
            }
        }
    }
}

/// Returns the message of an error, or nil and results.
fn answer<T>(
    lua: &Lua,
    result: Result<T, String>,
    values: impl FnOnce(T) -> mlua::Result<MultiValue>,
) -> mlua::Result<MultiValue> {
    match result {
        Ok(result) => {
            let mut values = values(result)?;
            values.push_front(Value::Nil);
            Ok(values)
        }
        Err(message) => message.into_lua_multi(lua),
    }
}

/// Finds the first match at or after `from` (from 0). Returns its begin and end as Lua counts, then
/// captures.
fn find(
    lua: &Lua,
    context: &Context,
    text: &[u8],
    pattern: &[u8],
    from: usize,
    plain: bool,
) -> mlua::Result<MultiValue> {
    let steps = LookUp::new(lua, context);
    let found = if plain || !pattern.iter().any(|byte| SPECIAL_CHARACTERS.contains(byte)) {
        let start = find_plain(text, pattern, from, &steps);
        Ok(start.map(|start| (Match { start, end: start + pattern.len() }, Vec::new())))
    } else {
        let (pattern, is_anchored) = anchor(pattern);
        let mut matcher = Matcher::new(text, pattern, &steps);
        matcher.search(from, is_anchored, None).and_then(|whole| match whole {
            Some(whole) => Ok(Some((whole, captures(&matcher, whole, matcher.explicit())?))),
            None => Ok(None),
        })
    };
    answer(lua, found, |found| match found {
        Some((whole, captures)) => {
            let ends = [Value::Integer(whole.start as i64 + 1), Value::Integer(whole.end as i64)];
            let captures = captures.into_iter().map(|capture| value(lua, text, capture));
            ends.into_iter().map(Ok).chain(captures).collect()
        }
        None => Ok(MultiValue::from_iter([Value::Nil])),
    })
}

/// Works like `find`, but a pattern without captures has the whole match as one. Returns begin and end from 0, then at
/// most `most` captures.
fn scan(
    lua: &Lua,
    context: &Context,
    text: &[u8],
    pattern: &[u8],
    (from, except, is_anchored): (usize, Option<usize>, bool),
    most: usize,
) -> mlua::Result<MultiValue> {
    let steps = LookUp::new(lua, context);
    let mut matcher = Matcher::new(text, pattern, &steps);
    let found = matcher.search(from, is_anchored, except).and_then(|whole| match whole {
        Some(whole) => Ok(Some((whole, captures(&matcher, whole, matcher.count().min(most))?))),
        None => Ok(None),
    });
    answer(lua, found, |found| match found {
        Some((whole, captures)) => {
            let ends = [Value::Integer(whole.start as i64), Value::Integer(whole.end as i64)];
            let captures = captures.into_iter().map(|capture| value(lua, text, capture));
            ends.into_iter().map(Ok).chain(captures).collect()
        }
        None => Ok(MultiValue::new()),
    })
}

/// Replaces up to `most` matches. Returns the text, or nil if it is unchanged, and the number of matches.
fn replace(
    lua: &Lua,
    context: &Context,
    text: &[u8],
    pattern: &[u8],
    with: &[u8],
    most: usize,
) -> mlua::Result<Result<(Option<LuaString>, usize), String>> {
    let steps = LookUp::new(lua, context);
    let (pattern, is_anchored) = anchor(pattern);
    let mut matcher = Matcher::new(text, pattern, &steps);
    let (mut replaced, mut count, mut from) = (Vec::new(), 0, 0);
    let mut except = None;
    while count < most {
        let whole = match matcher.search(from, is_anchored, except) {
            Ok(Some(whole)) => whole,
            Ok(None) => break,
            Err(message) => return Ok(Err(message)),
        };
        count += 1;
        replaced.extend_from_slice(&text[from..whole.start]);
        if let Err(message) = add_replacement(&mut replaced, &matcher, whole, text, with) {
            return Ok(Err(message));
        }
        // This memory is not counted by Lua.
        if replaced.len() > context.memory() {
            return Err(mlua::Error::MemoryError("not enough memory".to_owned()));
        }
        steps.take(1 + with.len() / 32);
        (from, except) = (whole.end, Some(whole.end));
        if is_anchored {
            break;
        }
    }
    if count == 0 {
        return Ok(Ok((None, 0)));
    }
    replaced.extend_from_slice(&text[from..]);
    Ok(Ok((Some(lua.create_string(replaced)?), count)))
}

/// Adds a replacement, in which `%1` is a capture, `%0` the match and `%%` a percent sign.
fn add_replacement<S: Steps>(
    replaced: &mut Vec<u8>,
    matcher: &Matcher<S>,
    whole: Match,
    text: &[u8],
    with: &[u8],
) -> Result<(), String> {
    let mut rest = with.iter().copied();
    while let Some(byte) = rest.next() {
        match (byte, if byte == b'%' { rest.next() } else { None }) {
            (b'%', Some(b'%')) => replaced.push(b'%'),
            (b'%', Some(b'0')) => replaced.extend_from_slice(&text[whole.start..whole.end]),
            (b'%', Some(digit @ b'1'..=b'9')) => match matcher.capture(usize::from(digit - b'1'), whole)? {
                Captured::Text(part) => replaced.extend_from_slice(&text[part.start..part.end]),
                Captured::Position(at) => replaced.extend_from_slice((at + 1).to_string().as_bytes()),
            },
            (b'%', _) => return Err("invalid use of '%' in replacement string".to_owned()),
            _ => replaced.push(byte),
        }
    }
    Ok(())
}

/// Returns the pattern without a leading `^`, and whether there was one.
fn anchor(pattern: &[u8]) -> (&[u8], bool) {
    pattern.strip_prefix(b"^").map_or((pattern, false), |rest| (rest, true))
}

fn captures<S: Steps>(matcher: &Matcher<S>, whole: Match, count: usize) -> Result<Vec<Captured>, String> {
    (0..count).map(|number| matcher.capture(number, whole)).collect()
}

fn value(lua: &Lua, text: &[u8], capture: Captured) -> mlua::Result<Value> {
    Ok(match capture {
        Captured::Text(part) => Value::String(lua.create_string(&text[part.start..part.end])?),
        Captured::Position(at) => Value::Integer(at as i64 + 1),
    })
}
