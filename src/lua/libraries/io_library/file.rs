//! Files of user code.

use super::super::super::context::{Context, Messages};
use super::super::super::message::{plain, plain_error};
use super::super::super::values::describe;
use super::super::cancellable_io::{CancellableIo, Canceller};
use super::super::process::{Ended, Program, lua_status};
use super::read::{self, Input};
use mlua::{
    AnyUserData, Function, IntoLuaMulti as _, Lua, MetaMethod, MultiValue, UserData, UserDataMethods, Value, Variadic,
};
use std::io::{self, BufReader, Seek as _, SeekFrom, Write as _};
use std::rc::Rc;

/// The number of bytes that are written between two checks for cancellation.
const WRITE_CHUNK: usize = 64 << 10;

/// The stream of a file.
pub(super) enum Stream {
    /// An empty file.
    Empty,
    /// The place of messages, with the wait of its writes.
    Messages(Canceller, Rc<Context>),
    File(BufReader<CancellableIo>),
    Program(BufReader<CancellableIo>, Program),
}

pub(super) struct File {
    /// `None` once it is closed.
    stream: Option<Stream>,
    /// Whether it cannot be closed.
    standard: bool,
    /// The limit of the bytes that one read returns.
    limit: u64,
}

impl File {
    pub fn new(file: CancellableIo, limit: usize) -> File {
        File { stream: Some(Stream::File(BufReader::new(file))), standard: false, limit: limit as u64 }
    }

    pub fn standard(stream: Stream) -> File {
        File { stream: Some(stream), standard: true, limit: 0 }
    }

    pub fn program(program: Program, pipe: CancellableIo, limit: usize) -> File {
        File { stream: Some(Stream::Program(BufReader::new(pipe), program)), standard: false, limit: limit as u64 }
    }

    pub fn closed(&self) -> bool {
        self.stream.is_none()
    }

    fn stream(&mut self) -> mlua::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| mlua::Error::RuntimeError("attempt to use a closed file".to_owned()))
    }

    /// Implements `file:read(…)`.
    pub fn read(&mut self, lua: &Lua, formats: &[Value]) -> mlua::Result<MultiValue> {
        let limit = self.limit;
        let input: &mut dyn Input = match self.stream()? {
            Stream::Empty => &mut io::empty(),
            Stream::Messages(..) => return failure(None, &rustix::io::Errno::BADF.into()).into_lua_multi(lua),
            Stream::File(file) | Stream::Program(file, _) => file,
        };
        match read::values(lua, input, formats, limit)? {
            Ok(values) => Ok(values),
            Err(error) => failure(None, &error).into_lua_multi(lua),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> mlua::Result<io::Result<()>> {
        Ok(match self.stream()? {
            Stream::Empty => Err(rustix::io::Errno::BADF.into()),
            Stream::Messages(_, context) if context.messages == Messages::Log => {
                let text = plain(&String::from_utf8_lossy(bytes));
                log::info!(target: context.log_target, "{}", text.trim_end());
                Ok(())
            }
            Stream::Messages(canceller, _) => bytes.chunks(WRITE_CHUNK).try_for_each(|piece| {
                canceller.park_if_cancelled();
                io::stderr().write_all(piece)
            }),
            Stream::File(file) => {
                // Reading ahead has moved the position in the file.
                let aligned = if file.buffer().is_empty() {
                    Ok(())
                } else {
                    file.stream_position().and_then(|at| file.seek(SeekFrom::Start(at))).map(drop)
                };
                aligned.and_then(|()| file.get_mut().write_all(bytes))
            }
            Stream::Program(pipe, _) => pipe.get_mut().write_all(bytes),
        })
    }

    fn seek(&mut self, whence: &str, offset: i64) -> mlua::Result<io::Result<u64>> {
        let position = match (whence, u64::try_from(offset)) {
            ("set", Ok(offset)) => SeekFrom::Start(offset),
            ("set", Err(_)) => return Ok(Err(rustix::io::Errno::INVAL.into())),
            ("cur", _) => SeekFrom::Current(offset),
            ("end", _) => SeekFrom::End(offset),
            _ => return Err(mlua::Error::RuntimeError("seek: expected \"set\", \"cur\" or \"end\"".to_owned())),
        };
        Ok(match self.stream()? {
            Stream::File(file) => file.seek(position),
            _ => Err(rustix::io::Errno::SPIPE.into()),
        })
    }

    /// Implements `file:close()`.
    pub fn close(&mut self, lua: &Lua) -> mlua::Result<MultiValue> {
        self.stream()?;
        if self.standard {
            return (Value::Nil, "cannot close standard file").into_lua_multi(lua);
        }
        match self.stream.take() {
            Some(Stream::Program(pipe, mut program)) => {
                drop(pipe);
                match program.wait(None) {
                    Ok(Ended::With(status)) => lua_status(status).into_lua_multi(lua),
                    Ok(Ended::Late) => (Value::Nil, "signal", 9).into_lua_multi(lua),
                    Err(error) => failure(None, &error).into_lua_multi(lua),
                }
            }
            _ => true.into_lua_multi(lua),
        }
    }
}

/// Returns the results of the standard library for an error.
pub(super) fn failure(name: Option<&str>, error: &io::Error) -> (Value, String, i32) {
    let text = plain_error(error);
    let text = name.map_or(text.clone(), |name| format!("{name}: {text}"));
    (Value::Nil, text, error.raw_os_error().unwrap_or(0))
}

/// Implements `file:write(…)`, which returns the file.
pub(super) fn write(lua: &Lua, file: AnyUserData, values: &[Value]) -> mlua::Result<MultiValue> {
    for value in values {
        let text = match value {
            Value::String(_) | Value::Integer(_) | Value::Number(_) => lua.coerce_string(value.clone())?,
            _ => None,
        };
        let Some(text) = text else {
            let found = describe(value);
            return Err(mlua::Error::RuntimeError(format!("write: expected a string or a number, found {found}")));
        };
        if let Err(error) = file.borrow_mut::<File>()?.write(&text.as_bytes())? {
            return failure(None, &error).into_lua_multi(lua);
        }
    }
    file.into_lua_multi(lua)
}

/// Returns the iterator of `lines`.
pub(super) fn lines(lua: &Lua, file: AnyUserData, formats: Variadic<Value>, close: bool) -> mlua::Result<Function> {
    lua.create_function(move |lua, ()| {
        let mut file = file.borrow_mut::<File>()?;
        let values = file.read(lua, &formats)?;
        if values.front().is_none_or(Value::is_nil) {
            if let Some(Value::String(message)) = values.get(1) {
                return Err(mlua::Error::RuntimeError(message.to_string_lossy()));
            }
            if close {
                file.close(lua)?;
            }
        }
        Ok(values)
    })
}

impl UserData for File {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method_mut("read", |lua, file, formats: Variadic<Value>| file.read(lua, &formats));
        methods.add_function("write", |lua, (file, values): (AnyUserData, Variadic<Value>)| write(lua, file, &values));
        methods.add_function("lines", |lua, (file, formats): (AnyUserData, Variadic<Value>)| {
            file.borrow_mut::<File>()?.stream()?;
            lines(lua, file, formats, false)
        });
        methods.add_method_mut("close", |lua, file, ()| file.close(lua));
        methods.add_function("flush", |_, file: AnyUserData| {
            file.borrow_mut::<File>()?.stream()?;
            Ok(file)
        });
        methods.add_method_mut("setvbuf", |_, file, _: Variadic<Value>| file.stream().map(|_| true));
        methods.add_method_mut("seek", |lua, file, (whence, offset): (Option<String>, Option<i64>)| {
            match file.seek(whence.as_deref().unwrap_or("cur"), offset.unwrap_or(0))? {
                Ok(position) => position.into_lua_multi(lua),
                Err(error) => failure(None, &error).into_lua_multi(lua),
            }
        });
        methods.add_meta_method(MetaMethod::ToString, |_, file, ()| {
            Ok(if file.closed() { "file (closed)" } else { "file (open)" })
        });
        methods.add_meta_method_mut(MetaMethod::Close, |lua, file, _: Variadic<Value>| {
            if !file.closed() {
                file.close(lua)?;
            }
            Ok(())
        });
    }
}
