//! Ending connections that nobody will borrow any more.

use std::os::unix::net::UnixStream;
use std::path::Path;

use log::debug;

use super::cache_key::{Files, address, settings, sockets};
use super::message::Request;
use super::peer;
use crate::machine::Machine;
use crate::store::path::StoreDir;

/// Ends the connections that are kept below `directory` to machines which are not among `machines`, or whose entries or
/// files have changed since. `files`: those that a connection to a machine depends on.
pub fn end_outdated(directory: &Path, machines: &[&Machine], store: &StoreDir, files: impl Fn(&Machine) -> Files) {
    let sockets = sockets(directory, "");
    if sockets.is_empty() {
        return;
    }
    let addresses: Vec<(String, &Machine)> = machines.iter().map(|machine| (address(machine), *machine)).collect();
    for socket in sockets {
        let name = socket.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What has another name is another program's.
        let [of, found, _, _] = name.split('.').collect::<Vec<_>>()[..] else { continue };
        let same = addresses.iter().filter(|(address, _)| address == of);
        let mut wanted = same.filter_map(|(_, machine)| settings(machine, store, &files(machine)));
        if !wanted.any(|wanted| wanted == found) {
            end(&socket);
        }
    }
}

fn end(socket: &Path) {
    match peer::connect(socket).and_then(|control| Request::<UnixStream>::End.send(&control)) {
        Ok(()) => debug!("{}: ended, since it is outdated", socket.display()),
        Err(error) => debug!("{}: outdated: {error}", socket.display()),
    }
}
