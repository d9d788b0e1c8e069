//! Records for GNU recutils ([`records`](crate::commands::records)), of three types: `Machine`, `Queued` for a build that
//! waits, and `LocalBuild` for one that runs here after a decline. The type of the first is there without machines, too.
//!
//! In a machine, `Build` may occur more than once: slot, process, seconds since 1970, derivation. So may `Connection`:
//! process, seconds since 1970, streams in use, idle streams, bytes sent, bytes received. A build that waits has a `Host`
//! for each host that may take it.

use std::fmt::Display;
use std::io::{self, Write};

use super::queue::OtherBuilds;
use super::snapshot::{MachineSnapshot, OpenConnection};
use crate::commands::records;

/// Writes a record for each machine, and for each build that is on none.
pub fn write(machines: &[MachineSnapshot], others: &OtherBuilds, out: &mut impl Write) -> io::Result<()> {
    records::write_type("Machine", out)?;
    machines.iter().try_for_each(|snapshot| records::write_record(&fields(snapshot)?, out))?;
    records::write_type("Queued", out)?;
    for build in &others.queue {
        let mut fields = records::fields(build)?;
        fields.extend(build.hosts.iter().map(|host| ("Host".to_owned(), host.clone())));
        records::write_record(&fields, out)?;
    }
    records::write_type("LocalBuild", out)?;
    others.local_builds.iter().try_for_each(|build| records::write_record(&records::fields(build)?, out))
}

/// Returns the names of the fields and their values, those of the JSON object, in its order. A field of a nested object
/// has the names of both.
fn fields(snapshot: &MachineSnapshot) -> serde_json::Result<Vec<(String, String)>> {
    let mut fields = records::fields(snapshot)?;
    let builds = snapshot.builds.iter().map(|build| {
        let parts = [Some(build.slot.to_string()), text(&build.pid), text(&build.since), build.derivation.clone()];
        ("Build".to_owned(), parts.map(|part| part.unwrap_or_else(|| "-".to_owned())).join(" "))
    });
    let connections = snapshot.connections.iter().map(|connection| {
        let OpenConnection { pid, since, streams, idle, sent, received } = connection;
        let pid = text(pid).unwrap_or_else(|| "-".to_owned());
        ("Connection".to_owned(), format!("{pid} {since} {streams} {idle} {sent} {received}"))
    });
    fields.extend(builds.chain(connections));
    // The key of the record comes first.
    fields.sort_by_key(|(name, _)| name != "Name");
    Ok(fields)
}

fn text(value: &Option<impl Display>) -> Option<String> {
    value.as_ref().map(ToString::to_string)
}
