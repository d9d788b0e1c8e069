//! The two lines that follow `# accept`: the inputs, then the outputs that the store lacks.
//!
//! One blank follows every path, including the last one, and a newline ends the line. The inputs are the closure of
//! everything the build needs, including the derivation and its own closure. A line may be of any length, so paths are
//! read one at a time and only their number takes memory.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};

use crate::store::path::{StoreDir, StorePath};

/// The size limit of a path; valid store paths are shorter.
const MAX_STORE_PATH: u64 = 4096;

/// The limit of the number of paths; no build has so many inputs.
const MAX_PATHS: usize = 1 << 18;

/// A list of paths that cannot be read or is invalid.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    #[error("cannot read the {what} from the daemon: {cause}")]
    Read { what: &'static str, cause: io::Error },
    #[error("the daemon's line of {what} is cut off after {count} paths")]
    CutOff { what: &'static str, count: usize },
    #[error("the daemon's line of {what} has more than {MAX_PATHS} paths")]
    TooMany { what: &'static str },
    #[error("invalid path {number} in the daemon's line of {what}: {cause}")]
    Invalid { what: &'static str, number: usize, cause: String },
}

/// Reads one line of paths; `what` names it in errors: "inputs" or "outputs".
pub fn read_paths(
    input: &mut impl BufRead,
    store: &StoreDir,
    what: &'static str,
) -> Result<BTreeSet<StorePath>, PathsError> {
    let failed = |cause| PathsError::Read { what, cause };
    let mut paths = BTreeSet::new();
    let mut number = 0;
    loop {
        if next_byte(input).map_err(failed)? == Some(b'\n') {
            input.consume(1);
            return Ok(paths);
        }
        let mut path = Vec::new();
        input.by_ref().take(MAX_STORE_PATH).read_until(b' ', &mut path).map_err(failed)?;
        number += 1;
        if number > MAX_PATHS {
            return Err(PathsError::TooMany { what });
        }
        if path.pop_if(|byte| *byte == b' ').is_none() {
            if (path.len() as u64) < MAX_STORE_PATH {
                return Err(PathsError::CutOff { what, count: number - 1 });
            }
            return Err(PathsError::Invalid { what, number, cause: "longer than 4 KiB".to_owned() });
        }
        let path = StorePath::parse(store, &path).map_err(|error| PathsError::Invalid {
            what,
            number,
            cause: error.to_string(),
        })?;
        paths.insert(path);
    }
}

fn next_byte(input: &mut impl BufRead) -> io::Result<Option<u8>> {
    Ok(input.fill_buf()?.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOO: &str = "/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo";

    fn read(line: &str) -> Result<BTreeSet<StorePath>, PathsError> {
        read_paths(&mut line.as_bytes(), &StoreDir::default(), "inputs")
    }

    #[test]
    fn both_lines_are_read_and_nothing_more() {
        let text = format!("{FOO} {FOO}.drv \n{FOO} \n");
        let mut input = text.as_bytes();
        let store = StoreDir::default();
        assert_eq!(read_paths(&mut input, &store, "inputs").unwrap().len(), 2);
        assert_eq!(read_paths(&mut input, &store, "outputs").unwrap().len(), 1);
        assert!(input.is_empty());
    }

    #[test]
    fn a_line_may_have_any_length() {
        let text: String = (0..200_000).map(|number| format!("{FOO}-{number} ")).collect::<String>() + "\n";
        let mut input = std::io::BufReader::with_capacity(1000, text.as_bytes());
        assert_eq!(read_paths(&mut input, &StoreDir::default(), "inputs").unwrap().len(), 200_000);
    }

    #[test]
    fn an_empty_line_is_an_empty_list() {
        assert!(read("\n").unwrap().is_empty());
    }

    #[test]
    fn an_endless_line_is_an_error() {
        struct Endless(u8);
        impl io::Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let text = format!("{FOO} ");
                for byte in &mut *buffer {
                    *byte = text.as_bytes()[usize::from(self.0)];
                    self.0 = (self.0 + 1) % text.len() as u8;
                }
                Ok(buffer.len())
            }
        }
        let mut input = io::BufReader::new(Endless(0));
        let error = read_paths(&mut input, &StoreDir::default(), "inputs").unwrap_err();
        assert_eq!(error.to_string(), "the daemon's line of inputs has more than 262144 paths");
    }

    #[test]
    fn errors_name_the_list() {
        let message = |line: &str| read(line).unwrap_err().to_string();
        assert!(message(&format!("{FOO} {FOO}")).contains("cut off after 1 paths"));
        assert!(message("").contains("cut off after 0 paths"));
        assert!(message("/gnu/store/.. \n").contains("invalid path 1"));
        assert!(message(&"x".repeat(5000)).contains("longer than 4 KiB"));
    }

    #[test]
    fn a_line_of_the_greatest_length_is_read() {
        let of = |count: usize| read(&(format!("{FOO} ").repeat(count) + "\n"));
        assert_eq!(of(MAX_PATHS).unwrap().len(), 1);
        assert!(matches!(of(MAX_PATHS + 1), Err(PathsError::TooMany { .. })));
    }
}
