//! The name of a derivation without its version: what two versions of a package have in common.
//!
//! A part of the name that begins with a digit, after a hyphen, is a version, as in Guix. What the version ends with stays
//! if it says what is built: `hello-2.12.tar.gz` and `hello-2.12-checkout` are other builds than `hello-2.12`.

/// The shortest abbreviation of a commit in a version, in digits.
const COMMIT_DIGITS: usize = 7;

/// Returns the name without the version, such as `hello.tar.gz` for `hello-2.12.1.tar.gz`.
pub fn without_version(name: &str) -> String {
    let mut parts = name.split('-');
    let mut base = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if part.starts_with(|first: char| first.is_ascii_digit()) {
            base.push_str(extension(part));
        } else {
            base.push('-');
            base.push_str(part);
        }
    }
    base
}

/// Returns what follows the numbers of a version, with its dot: from the first component that begins with a letter and
/// is no commit.
fn extension(version: &str) -> &str {
    let dots = version.match_indices('.').map(|(dot, _)| dot);
    let is_word = |dot: &usize| {
        let word = version[dot + 1..].split('.').next().unwrap_or_default();
        let is_commit = word.len() >= COMMIT_DIGITS && word.chars().all(|digit| digit.is_ascii_hexdigit());
        word.starts_with(char::is_alphabetic) && !is_commit
    };
    dots.into_iter().find(is_word).map_or("", |dot| &version[dot..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_removed_and_what_is_built_stays() {
        for (name, expected) in [
            ("hello-2.12.1", "hello"),
            ("hello-2.12.1.tar.gz", "hello.tar.gz"),
            ("hello-2.12.1.tar.bz2", "hello.tar.bz2"),
            ("hello-2.12.1-checkout", "hello-checkout"),
            ("linux-libre-6.12.9", "linux-libre"),
            ("gcc-cross-boot0-14.2.0-lib", "gcc-cross-boot0-lib"),
            ("0ad-0.26", "0ad"),
            ("guile-git-0.8.1-2.a1b2c3d", "guile-git"),
            ("guile-git-0.8.1-2.abcdef1.tar.gz", "guile-git.tar.gz"),
            ("module-import-compiled", "module-import-compiled"),
            ("", ""),
            ("-1", ""),
            ("é-1.é", "é.é"),
        ] {
            assert_eq!(without_version(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn versions_of_numbers_make_no_difference(
            name in "[a-z][a-z+]{0,8}(-[a-z][a-z0-9]{0,5}){0,2}",
            one in "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}",
            other in "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}",
            kind in "(|\\.tar\\.gz|-checkout)",
        ) {
            let named = |version: &str| without_version(&format!("{name}-{version}{kind}"));
            prop_assert_eq!(named(&one), named(&other));
            prop_assert_eq!(without_version(&named(&one)), named(&one));
        }

        #[test]
        fn any_text_has_a_base(name in ".{0,40}") {
            prop_assert!(without_version(&name).len() <= name.len());
        }
    }
}
