//! Requests: one line each, `W SYSTEM DRV FEATURES`, four fields separated by single blanks and ended by a newline.
//!
//! `W` is `1` while the daemon could start a local build at once, else `0`. `FEATURES` is the derivation's
//! `requiredSystemFeatures` joined with commas, and may be empty: the line then ends in a blank.

use std::io::{self, BufRead, Read};

use crate::store::path::{StoreDir, StorePath};

/// The longest request line that is accepted, in bytes. Feature names come from a derivation's environment, so there is
/// no natural limit; this one is far longer than any real line.
const MAX_REQUEST_LINE: u64 = 64 * 1024;

/// A derivation that the daemon offers to the hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether the daemon could start the build itself, at once.
    pub wants_local: bool,
    /// The system type that the derivation is for.
    pub system: String,
    /// The derivation's file.
    pub derivation: StorePath,
    /// Features that the machine must offer.
    pub features: Vec<String>,
}

/// A request that cannot be read or is invalid.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot read a request from the daemon: {0}")]
    Read(#[from] io::Error),
    #[error("invalid request line: {cause}: '{line}'")]
    Invalid { cause: String, line: String },
}

/// Reads the next request; `None` at end of file.
pub fn read_request(input: &mut impl BufRead, store: &StoreDir) -> Result<Option<Request>, RequestError> {
    let mut line = Vec::new();
    input.take(MAX_REQUEST_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|byte| *byte == b'\n').is_none() {
        let cause =
            if line.len() as u64 >= MAX_REQUEST_LINE { "longer than 64 KiB" } else { "cut off before the newline" };
        return Err(invalid(cause, &line));
    }
    parse(&line, store).map(Some)
}

fn parse(line: &[u8], store: &StoreDir) -> Result<Request, RequestError> {
    let text = str::from_utf8(line).map_err(|_| invalid("not UTF-8", line))?;
    let fields: Vec<&str> = text.split(' ').collect();
    let [wants_local, system, derivation, features] = fields[..] else {
        return Err(invalid("expected four fields separated by single blanks", line));
    };
    let wants_local = match wants_local {
        "0" => false,
        "1" => true,
        _ => return Err(invalid("the first field must be 0 or 1", line)),
    };
    if !is_system(system) {
        return Err(invalid("the second field must be a system type", line));
    }
    let derivation = StorePath::parse(store, derivation.as_bytes()).map_err(|e| invalid(&e.to_string(), line))?;
    if !derivation.is_derivation() {
        return Err(invalid("the third field must be a derivation", line));
    }
    if !features.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("the fourth field must be features separated by commas", line));
    }
    let features = features.split(',').filter(|feature| !feature.is_empty()).map(str::to_owned).collect();
    Ok(Request { wants_local, system: system.to_owned(), derivation, features })
}

/// Returns whether `text` can be a system type: what the daemon's own pattern for requests accepts.
pub fn is_system(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

fn invalid(cause: &str, line: &[u8]) -> RequestError {
    let line = String::from_utf8_lossy(line).escape_debug().take(200).collect();
    RequestError::Invalid { cause: cause.to_owned(), line }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRV: &str = "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv";

    fn read(mut input: &[u8]) -> Result<Option<Request>, RequestError> {
        read_request(&mut input, &StoreDir::default())
    }

    #[test]
    fn a_request_may_have_features() {
        let line = format!("1 x86_64-linux {DRV} kvm,big-parallel\n0 i686-linux {DRV} \n");
        let mut input = line.as_bytes();
        let store = StoreDir::default();
        let first = read_request(&mut input, &store).unwrap().unwrap();
        assert!(first.wants_local);
        assert_eq!(first.features, ["kvm", "big-parallel"]);
        let second = read_request(&mut input, &store).unwrap().unwrap();
        assert!(!second.wants_local && second.features.is_empty());
        assert_eq!((second.system.as_str(), second.derivation.as_str()), ("i686-linux", DRV));
        assert!(read_request(&mut input, &store).unwrap().is_none());
    }

    #[test]
    fn invalid_lines_are_errors_that_quote_the_line() {
        for (line, cause) in [
            (format!("2 x86_64-linux {DRV} \n"), "the first field must be 0 or 1"),
            (format!("1 X86 {DRV} \n"), "the second field must be a system type"),
            (format!("1 x86_64-linux {DRV}\n"), "expected four fields"),
            (format!("1  x86_64-linux {DRV} \n"), "expected four fields"),
            ("1 x86_64-linux /gnu/store/.. \n".to_owned(), "/gnu/store/.."),
            (format!("1 x86_64-linux {} \n", DRV.trim_end_matches(".drv")), "must be a derivation"),
            (format!("1 x86_64-linux {DRV} kvm"), "cut off"),
            (format!("1 x86_64-linux {DRV} {}\n", "f".repeat(70_000)), "longer than 64 KiB"),
            ("\n".to_owned(), "expected four fields"),
        ] {
            let message = read(line.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(cause), "{message}");
            assert!(message.len() < 500, "{message}");
        }
    }
}
