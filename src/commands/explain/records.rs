//! The explanation as records for GNU recutils ([`records`](crate::commands::records)), of two types: `Build`, and
//! `Candidate` for a machine in the explanation of a build.
//!
//! A candidate has the number of its build as `Build`, in the order of the builds, from 1; a build has it as `Number`, so
//! that `recsel -t Candidate -e 'Build = 1'` selects. A field `Holder` for each build in its slots has the process, the
//! seconds since 1970 and the derivation.

use std::io::{self, Write};

use super::report::BuildReport;
use crate::commands::records::{fields, write_record, write_type};

/// Writes a record for each build, and for each machine of each build.
pub fn write(builds: &[BuildReport<'_>], out: &mut impl Write) -> io::Result<()> {
    write_type("Build", out)?;
    for (number, build) in (1..).zip(builds) {
        let mut record = vec![numbered("Number", number)];
        record.extend(fields(build)?);
        record.extend(build.request.features.iter().map(|feature| ("RequestFeature".to_owned(), feature.clone())));
        write_record(&record, out)?;
    }
    write_type("Candidate", out)?;
    for (number, build) in (1..).zip(builds) {
        for machine in &build.machines {
            let mut record = vec![numbered("Build", number)];
            record.extend(fields(machine)?);
            record.extend(
                machine.holders.iter().flatten().map(|holder| {
                    ("Holder".to_owned(), format!("{} {} {}", holder.pid, holder.since, holder.derivation))
                }),
            );
            write_record(&record, out)?;
        }
    }
    Ok(())
}

fn numbered(name: &str, number: usize) -> (String, String) {
    (name.to_owned(), number.to_string())
}
