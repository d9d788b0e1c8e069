//! "Did you mean": suggestions for a misspelt field, or for a word of another system.

use crate::lua::nearest;

/// Names that other systems use for fields of a build machine.
const FOREIGN_FIELD_NAMES: [(&str, &str); 16] = [
    ("host", "name"),
    ("hostname", "name"),
    ("host_name", "name"),
    ("address", "name"),
    ("username", "user"),
    ("max_jobs", "parallel_builds"),
    ("jobs", "parallel_builds"),
    ("slots", "parallel_builds"),
    ("speed_factor", "speed"),
    ("supported_features", "features"),
    ("system_types", "systems"),
    ("ssh_key", "private_key"),
    ("identity_file", "private_key"),
    ("key", "private_key"),
    ("proxy_jump", "proxy_command"),
    ("timeout", "connect_timeout"),
];

/// Works like `nearest`, and also knows the words of other systems for one of `fields`.
pub(super) fn field<'a>(name: &str, fields: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let plain = name.to_lowercase().replace('-', "_");
    let meant = FOREIGN_FIELD_NAMES.iter().find(|(elsewhere, _)| *elsewhere == plain).map(|(_, field)| *field);
    let known = fields.clone().into_iter().find(|field| Some(*field) == meant);
    known.or_else(|| nearest(name, fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_systems_suggest_our_fields() {
        assert_eq!(field("maxJobs", ["name", "parallel_builds"]), None);
        assert_eq!(field("max-jobs", ["name", "parallel_builds"]), Some("parallel_builds"));
        assert_eq!(field("hostname", ["name"]), Some("name"));
        assert_eq!(field("hostname", ["speed"]), None);
    }
}
