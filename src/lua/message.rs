//! Parts of messages about Lua code: texts of bounded length on one line, and suggestions for misspelt names.

use std::io;

/// The number of characters of a message that are shown.
const MAX_MESSAGE: usize = 1000;

/// Returns a message as one line without control characters, cut after `MAX_MESSAGE` characters.
pub(crate) fn plain(message: &str) -> String {
    let mut plain: String = message.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.len() < message.len() {
        plain.push('…');
    }
    plain
}

/// Returns the text of a system error as C programs print it, without its number.
pub(crate) fn plain_error(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// Returns the candidate that a misspelt name most probably stands for, if one is near enough.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(name.len()) / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_similar_name_is_suggested() {
        let names = ["systems", "speed", "port", "parallel_builds", "false"];
        for (found, meant) in [
            ("speeed", Some("speed")),
            ("sytem", Some("systems")),
            ("flase", Some("false")),
            ("parallel-builds", Some("parallel_builds")),
            ("ParallelBuilds", Some("parallel_builds")),
            ("colour", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(found, names), meant, "{found}");
        }
    }
}
