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

/// A larger file, in bytes, is an error.
const MAX_KNOWN_HOSTS_FILE: u64 = 16 << 20;
/// Most lines of a file that a message gives reasons for.
const MAX_NOTES: usize = 3;

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
        let (keys, notes) = look_up(&files, &host);
        if keys.is_empty() {
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
            let message = format!("known_hosts: no host key of '{host}' in {}{notes}", names.join(" or "));
            context.defer(lua, message, Some(format!("`ssh-keyscan {host}`, checked, gives lines for that file")))?;
            return Ok(None);
        }
        Ok(Some(keys.iter().map(HostKey::to_openssh).collect::<Vec<_>>()))
    };
    module.raw_set("known_hosts", lua.create_function(known_hosts)?)
}

/// The keys that the files give for `host`, and what went wrong. Like OpenSSH, a key that one file revokes is not taken from
/// another.
fn look_up(files: &[PathBuf], host: &str) -> (Vec<HostKey>, Vec<String>) {
    let (mut texts, mut notes) = (Vec::new(), Vec::new());
    for file in files {
        match read(file) {
            Ok(text) => {
                let passed_over = machine::known_hosts(&text, host).passed_over.into_iter().take(MAX_NOTES);
                notes.extend(passed_over.map(|why| format!("{}: {why}", file.display())));
                texts.push(text);
            }
            Err(error) => notes.push(format!("{}: {}", file.display(), plain_error(&error))),
        }
    }
    (machine::known_hosts(&texts.join("\n"), host).keys, notes)
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = Vec::new();
    std::fs::File::open(file)?.take(MAX_KNOWN_HOSTS_FILE).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn each_file_gives_and_revokes_keys() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["own", "common"].map(|name| directory.path().join(name));
        for (own, common, expected) in [
            (format!("b1 {KEY}"), String::new(), vec![KEY]),
            (String::new(), format!("b1 {KEY}"), vec![KEY]),
            (format!("b1 {KEY}"), format!("b1 {OTHER}"), vec![KEY, OTHER]),
            (format!("b1 {KEY}\nb1 {OTHER}"), format!("b1 {KEY}"), vec![KEY, OTHER]),
            (format!("b1 {KEY}\n@revoked b1 {KEY}\nb1 {OTHER}"), String::new(), vec![OTHER]),
            (format!("@revoked b1 {KEY}\nb1 {KEY}\nb1 {OTHER}"), String::new(), vec![OTHER]),
            (format!("@revoked b1 {KEY}"), format!("b1 {KEY}\nb1 {OTHER}"), vec![OTHER]),
            (format!("b1 {KEY}\nb1 {OTHER}"), format!("@revoked b1 {KEY}"), vec![OTHER]),
            (format!("b1 {KEY}"), format!("@revoked b2 {KEY}"), vec![KEY]),
        ] {
            std::fs::write(&files[0], &own).unwrap();
            std::fs::write(&files[1], &common).unwrap();
            let (keys, notes) = look_up(&files, "b1");
            let keys: Vec<String> = keys.iter().map(HostKey::to_openssh).collect();
            assert_eq!(keys, expected, "{own} / {common}");
            assert!(notes.iter().all(|note| note.ends_with("a key that is revoked")), "{notes:?}");
        }
        std::fs::remove_file(&files[0]).unwrap();
        let (keys, notes) = look_up(&files, "b2");
        assert!(keys.is_empty() && notes[0].contains("own: "), "{notes:?}");
    }
}
