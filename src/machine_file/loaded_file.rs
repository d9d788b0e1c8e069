//! A machine file on the interpreter's thread: its runtime, the calls of its constructors, and its functions.

use super::constructors::{self, ConstructorCalls};
use super::functions::Functions;
use super::known_hosts;
use super::request::LuaRequest;
use super::soonest;
use crate::lua::{CancelState, Runtime, RuntimeOptions};
use mlua::{Function, Table};
use std::cell::RefCell;
use std::sync::Arc;

/// The values that stay on the interpreter's thread.
pub(super) struct LoadedFile {
    pub runtime: Runtime,
    /// The calls of constructors while the file was evaluated.
    pub made: ConstructorCalls,
    /// The functions of the file, once it has been evaluated.
    pub functions: Option<Functions>,
    /// `offload.soonest`.
    pub soonest: Option<Function>,
    /// The request of the current decision, and its table.
    request: RefCell<Option<(Arc<LuaRequest>, Table)>>,
}

impl LoadedFile {
    /// Makes a new interpreter with the functions for machine files, before the file is evaluated.
    pub fn new(options: RuntimeOptions, cancel_state: Arc<CancelState>) -> mlua::Result<LoadedFile> {
        let made = ConstructorCalls::default();
        let mut soonest = None;
        let runtime = Runtime::new(options, cancel_state, |lua, module, context| {
            constructors::register(lua, module, context, &made)?;
            soonest = Some(soonest::register(lua, module)?);
            known_hosts::register(lua, module, context)
        })?;
        Ok(LoadedFile { runtime, made, functions: None, soonest, request: RefCell::default() })
    }

    /// Returns the table of a request: one for all calls of one decision.
    pub fn request(&self, request: &Arc<LuaRequest>) -> mlua::Result<Table> {
        let mut current = self.request.borrow_mut();
        if let Some((known, table)) = &*current
            && Arc::ptr_eq(known, request)
        {
            return Ok(table.clone());
        }
        let table = request.to_lua(&self.runtime.lua, &self.runtime.context)?;
        *current = Some((Arc::clone(request), table.clone()));
        Ok(table)
    }
}
