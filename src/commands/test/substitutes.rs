//! The check of a machine's substitute servers: whether they answer, and whether the machine accepts what they have.

use std::collections::BTreeSet;

use log::debug;

use super::finding::{Outcome, Remedy, RemedyPlace};
use crate::local::{Directories, LocalStore};
use crate::machine::{Machine, Substitutes};
use crate::remote::Connection;
use crate::state::{StateDirectory, SubstituteRecord, SubstituteServers};
use crate::transfer::substitute_test::{self, SubstituteServers as Servers};

/// How many items of this machine the servers are asked about.
const SAMPLES: usize = 20;

/// Asks the servers about the largest outputs in this machine's store. Clears the recorded failures if they answer. `None`: the
/// machine file says that the machine fetches nothing.
pub fn check(
    machine: &Machine,
    directories: &Directories,
    state: &StateDirectory,
    connection: &Connection,
) -> Option<(Outcome, String, Vec<Remedy>)> {
    if machine.substitutes == Substitutes::Never {
        return None;
    }
    // Without samples the answer still shows whether the servers can be reached.
    let samples =
        samples(directories).inspect_err(|error| debug!("no items to ask about: {error}")).unwrap_or_default();
    let servers = substitute_test::check(connection, machine, &directories.store, &samples);
    if matches!(servers, Servers::Answer { .. }) {
        let cleared =
            |record: SubstituteRecord| record.change(|servers| SubstituteServers { failures: None, ..servers });
        if let Err(error) = SubstituteRecord::of(state, machine).and_then(cleared) {
            debug!("cannot clear the failures of the servers: {error}");
        }
    }
    Some(finding(servers, samples.len(), machine.substitutes))
}

fn samples(directories: &Directories) -> Result<BTreeSet<crate::store::path::StorePath>, String> {
    let local_store = LocalStore::open(directories).map_err(|error| error.to_string())?;
    local_store.database.largest_outputs(SAMPLES).map_err(|error| error.to_string())
}

/// Returns the finding about `servers`, which were asked about so many `samples`.
fn finding(servers: Servers, samples: usize, setting: Substitutes) -> (Outcome, String, Vec<Remedy>) {
    let never = || Remedy::in_file("substitutes = \"never\"").provided("if it should fetch nothing");
    match servers {
        Servers::Off if setting == Substitutes::Always => {
            let text = "its daemon has substitutes off, so this machine sends all inputs";
            let advice = "start its guix-daemon without '--no-substitutes', with '--substitute-urls'";
            (Outcome::Warning, text.to_owned(), vec![Remedy::advice(RemedyPlace::Machine, advice), never()])
        }
        Servers::Off => {
            (Outcome::Ok, "its daemon has substitutes off, so this machine sends all inputs".to_owned(), Vec::new())
        }
        Servers::NoStream(error) => {
            let text = format!("there is no second stream to its daemon, so it fetches nothing: {error}");
            (Outcome::Warning, text, vec![never()])
        }
        Servers::Silent(cause) => {
            let text = format!("its servers do not answer, so this machine sends all inputs: {cause}");
            let advice =
                "check its network, and the URLs of 'substitute_urls' or of its guix-daemon's '--substitute-urls'";
            (Outcome::Warning, text, vec![Remedy::advice(RemedyPlace::Machine, advice), never()])
        }
        Servers::Answer { accepted, warning: Some(warning) } => {
            let text = format!("it would accept {accepted} of {samples} items of this machine, but: {warning}");
            (Outcome::Warning, text, Vec::new())
        }
        Servers::Answer { accepted: 0, warning: None } if samples > 0 => {
            let text =
                format!("its servers answer, but offer none of {samples} items of this machine that it would accept");
            let command = "guix archive --authorize <KEY.pub  # KEY.pub: the public key of a server";
            let remedy = Remedy::advice(RemedyPlace::Machine, command);
            (Outcome::Warning, text, vec![remedy.provided("if the servers have them"), never()])
        }
        Servers::Answer { accepted, warning: None } => {
            let text = match samples {
                0 => "its servers answer".to_owned(),
                _ => format!(
                    "its servers offer {accepted} of {samples} items of this machine, signed by keys that it trusts"
                ),
            };
            (Outcome::Ok, text, Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_fail_make_no_machine_unusable() {
        let answer =
            |accepted, warning: Option<&str>| Servers::Answer { accepted, warning: warning.map(str::to_owned) };
        for (servers, samples, setting, outcome, text) in [
            (Servers::Off, 3, Substitutes::Auto, Outcome::Ok, "substitutes off"),
            (Servers::Off, 3, Substitutes::Always, Outcome::Warning, "substitutes off"),
            (Servers::NoStream("MaxSessions".into()), 3, Substitutes::Auto, Outcome::Warning, "nothing: MaxSessions"),
            (Servers::Silent("no reply".into()), 3, Substitutes::Auto, Outcome::Warning, "all inputs: no reply"),
            (answer(2, None), 3, Substitutes::Auto, Outcome::Ok, "2 of 3 items"),
            (answer(0, None), 3, Substitutes::Auto, Outcome::Warning, "none of 3 items"),
            (answer(0, None), 0, Substitutes::Auto, Outcome::Ok, "its servers answer"),
            (answer(1, Some("h: host not found")), 3, Substitutes::Auto, Outcome::Warning, "but: h: host not found"),
        ] {
            let (found, said, remedies) = finding(servers, samples, setting);
            assert_eq!(found, outcome, "{said}");
            assert!(said.contains(text), "{said}");
            assert!(found == Outcome::Warning || remedies.is_empty(), "{said}");
        }
    }
}
