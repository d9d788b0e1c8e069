//! `offload.known_hosts(host[, file])`: the host keys that OpenSSH has recorded for a host.
//!
//! Without a file, `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts` are read. The format is that of
//! [`machine::known_hosts`](crate::machine::known_hosts).

use crate::lua::{Context, plain_error};
use crate::machine::{self, HostKey};
use mlua::{Lua, LuaString, Table};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const MAX_FILE: u64 = 16 << 20;

pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    let context = Rc::clone(context);
    let known_hosts = move |lua: &Lua, (host, file): (String, Option<LuaString>)| {
        let files = match file {
            Some(file) => vec![context.resolve(&file.as_bytes())],
            None => {
                let own = context.home.iter().map(|home| home.join(".ssh/known_hosts"));
                own.chain([PathBuf::from("/etc/ssh/ssh_known_hosts")]).collect()
            }
        };
        let mut keys = Vec::new();
        let mut notes = Vec::new();
        for file in &files {
            match read(file) {
                Ok(text) => keys.extend(machine::known_hosts(&text, &host)),
                Err(error) => notes.push(format!("{}: {}", file.display(), plain_error(&error))),
            }
        }
        if keys.is_empty() {
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
            let message = format!("known_hosts: no host key of '{host}' in {}{notes}", names.join(" or "));
            context.defer(lua, message, Some(format!("ssh-keyscan {host}, checked, gives one")))?;
            return Ok(None);
        }
        Ok(Some(keys.iter().map(HostKey::to_openssh).collect::<Vec<_>>()))
    };
    module.raw_set("known_hosts", lua.create_function(known_hosts)?)
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = Vec::new();
    std::fs::File::open(file)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
