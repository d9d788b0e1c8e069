//! The derivations that a command is about: file names, on the command line or on standard input.

use std::collections::BTreeSet;
use std::io::BufRead;

use crate::commands::failure::CommandError;
use crate::exit::ExitStatus;
use crate::store::path::{StoreDir, StorePath};

/// The word for standard input.
pub const STANDARD_INPUT: &str = "-";

/// Returns the derivations, each once. A word `-` stands for the lines of `input`, in the form of `guix build -d`.
pub fn read_derivations(
    words: &[String],
    store: &StoreDir,
    input: &mut dyn BufRead,
) -> Result<Vec<StorePath>, CommandError> {
    let (mut derivations, mut known) = (Vec::new(), BTreeSet::new());
    let mut add = |word: &str| -> Result<(), CommandError> {
        let derivation = parse(word, store)?;
        if known.insert(derivation.clone()) {
            derivations.push(derivation);
        }
        Ok(())
    };
    for word in words {
        if word != STANDARD_INPUT {
            add(word)?;
            continue;
        }
        for line in input.lines() {
            let line =
                line.map_err(|cause| CommandError::failure(format!("cannot read the standard input: {cause}")))?;
            if !line.trim().is_empty() {
                add(line.trim())?;
            }
        }
    }
    if derivations.is_empty() {
        return Err(CommandError::new(ExitStatus::Usage, "standard input has no derivation"));
    }
    Ok(derivations)
}

/// Parses a file name, with or without the store before it.
fn parse(word: &str, store: &StoreDir) -> Result<StorePath, CommandError> {
    let path = if word.contains('/') { word.to_owned() } else { format!("{}/{word}", store.as_str()) };
    let invalid = match StorePath::parse(store, path.as_bytes()) {
        Ok(path) if path.is_derivation() => return Ok(path),
        Ok(_) => "its name does not end in .drv".to_owned(),
        Err(error) => error.to_string(),
    };
    let hint = "`guix build -d PACKAGE` prints the derivation of a package".to_owned();
    let error = CommandError::new(ExitStatus::Usage, format!("'{word}' is not a derivation: {invalid}"));
    Err(error.with_hint(Some(hint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str], input: &str) -> Result<Vec<String>, CommandError> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let read = read_derivations(&words, &StoreDir::default(), &mut input.as_bytes());
        read.map(|paths| paths.iter().map(|path| path.base_name()[..1].to_owned()).collect())
    }

    #[test]
    fn words_and_lines_are_derivations() {
        let [a, b, c] = ["a", "b", "c"].map(|letter| format!("/gnu/store/{}-x.drv", letter.repeat(32)));
        let base = &a["/gnu/store/".len()..];
        assert_eq!(read(&[&a, &b], &c).unwrap(), ["a", "b"]);
        assert_eq!(read(&["-"], &format!("{a}\n\n{b}\n{a}\n")).unwrap(), ["a", "b"]);
        assert_eq!(read(&[&b, "-", base], &c).unwrap(), ["b", "c", "a"]);
        for (words, input) in
            [(&["-"][..], ""), (&[&a[..], "hello"], ""), (&[a.trim_end_matches(".drv")], ""), (&["-"], "x")]
        {
            assert!(read(words, input).is_err(), "{words:?} {input}");
        }
    }
}
