//! Words of commands that people are asked to run: a POSIX shell takes them as they are.

/// `text` as one word of a shell. Control characters, which have no business in a file name or a key, are left out.
pub fn quote(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text.to_owned() } else { in_quotes(text) }
}

/// The same, in quotes also where it needs none.
pub fn in_quotes(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{in_quotes, quote};

    #[test]
    fn a_shell_takes_it_as_it_is() {
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
