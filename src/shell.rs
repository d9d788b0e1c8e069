//! Quoting of words in suggested commands, for a POSIX shell.

/// Quotes `text` as one word of a shell. Control characters, which do not occur in file names or keys, are removed.
pub fn quote(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text.to_owned() } else { in_quotes(text) }
}

/// Quotes `text` even if it needs no quotes.
pub fn in_quotes(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{in_quotes, quote};

    #[test]
    fn a_shell_reads_the_original_text() {
        for (text, quoted) in [
            ("/etc/guix/key", "/etc/guix/key"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's; rm\n", r"'it'\''s; rm'"),
            ("~x", "'~x'"),
        ] {
            assert_eq!(quote(text), quoted);
        }
        assert_eq!((in_quotes("/a").as_str(), in_quotes("it's").as_str()), ("'/a'", r"'it'\''s'"));
    }
}
