//! The tables and functions in the database, and their version.
//!
//! They are in the schema `offload`. `offload.version` has one row: the version. `offload shared init` creates the first
//! version and applies the later ones, in one transaction, so that two that run at the same time do it once. Programs
//! of another version refuse the database, because slots that two versions count differently would be no limit.

/// The version that this program uses.
pub const VERSION: i32 = MIGRATIONS.len() as i32;

/// The statements that lead to each version, the first one first.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql")];

/// Returns the statements that lead from `version` to the newest; none if it is the newest. An error if the database is
/// newer than this program.
pub(super) fn migration(version: i32) -> Result<String, i32> {
    let Some(missing) = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..)) else {
        return Err(version);
    };
    if missing.is_empty() {
        return Ok(String::new());
    }
    let create = if version == 0 { "create schema if not exists offload;\n" } else { "" };
    let record = format!("delete from offload.version;\ninsert into offload.version values ({VERSION});\n");
    Ok(format!("{create}{}\n{record}", missing.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_has_what_is_missing() {
        assert!(migration(0).unwrap().contains("create schema"));
        assert!(migration(0).unwrap().contains(&format!("values ({VERSION})")));
        assert_eq!(migration(VERSION), Ok(String::new()));
        assert_eq!([migration(VERSION + 1), migration(-1)], [Err(VERSION + 1), Err(-1)]);
    }
}
