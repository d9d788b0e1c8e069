//! The parser of derivations.

use std::collections::{BTreeMap, BTreeSet};

use super::{Derivation, DerivationError, FixedOutput, MAX_DERIVATION_SIZE, Output};
use crate::store::path::{self, StoreDir, StorePath};
use crate::store::{HashAlgorithm, base16};

impl Derivation {
    /// Parses `text`, the contents of a `.drv` file.
    pub fn parse(store: &StoreDir, text: &[u8]) -> Result<Derivation, DerivationError> {
        derivation(store, text)
    }
}

fn derivation(store: &StoreDir, text: &[u8]) -> Result<Derivation, DerivationError> {
    let mut parser = Parser { store, text, position: 0 };
    if text.len() > MAX_DERIVATION_SIZE {
        return Err(parser.problem(format!("it is longer than {MAX_DERIVATION_SIZE} bytes")));
    }
    parser.expect("Derive(")?;
    let outputs = parser.outputs()?;
    parser.expect(",")?;
    let input_derivations = parser.input_derivations()?;
    parser.expect(",")?;
    let mut input_sources = BTreeSet::new();
    parser.list(|parser| {
        let start = parser.position;
        let path = parser.store_path()?;
        parser.in_order(start, input_sources.last() < Some(&path))?;
        input_sources.insert(path);
        Ok(())
    })?;
    parser.expect(",")?;
    let system = parser.word("a system type", |name| {
        !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte))
    })?;
    parser.expect(",")?;
    let builder = parser.string()?;
    parser.expect(",")?;
    let mut args = Vec::new();
    parser.list(|parser| {
        args.push(parser.string()?);
        Ok(())
    })?;
    parser.expect(",")?;
    let env = parser.env()?;
    parser.expect(")")?;
    if parser.position != text.len() {
        return Err(parser.problem("there is something after its end".to_owned()));
    }
    Ok(Derivation { outputs, input_derivations, input_sources, system, builder, args, env })
}

struct Parser<'a> {
    store: &'a StoreDir,
    text: &'a [u8],
    position: usize,
}

impl Parser<'_> {
    fn outputs(&mut self) -> Result<BTreeMap<String, Output>, DerivationError> {
        let mut outputs = BTreeMap::new();
        let start = self.position;
        self.list(|parser| {
            let start = parser.position;
            parser.expect("(")?;
            let id = parser.output_id()?;
            parser.expect(",")?;
            let path = parser.store_path()?;
            parser.expect(",")?;
            let fixed = parser.fixed()?;
            parser.expect(")")?;
            parser.in_order(start, outputs.last_key_value().is_none_or(|(last, _)| *last < id))?;
            outputs.insert(id, Output { path, fixed });
            Ok(())
        })?;
        if outputs.is_empty() {
            return Err(syntax(start, "it has no output".to_owned()));
        }
        Ok(outputs)
    }

    /// Parses algorithm and hash, which are both empty or both there.
    fn fixed(&mut self) -> Result<Option<FixedOutput>, DerivationError> {
        let start = self.position;
        let method = self.string()?;
        self.expect(",")?;
        let hash_start = self.position;
        let hash = self.string()?;
        if method.is_empty() && hash.is_empty() {
            return Ok(None);
        }
        let (recursive, name) = match method.strip_prefix(b"r:") {
            Some(name) => (true, name),
            None => (false, &method[..]),
        };
        let Some(algorithm) = HashAlgorithm::from_name(name) else {
            return Err(syntax(start, format!("unknown hash algorithm '{}'", method.escape_ascii())));
        };
        let canonical = !hash.iter().any(u8::is_ascii_uppercase);
        match base16::decode(&hash) {
            Some(hash) if canonical && hash.len() == algorithm.size() => {
                Ok(Some(FixedOutput { recursive, algorithm, hash }))
            }
            _ => Err(syntax(hash_start, format!("'{}' is not a {algorithm} hash in base 16", hash.escape_ascii()))),
        }
    }

    fn input_derivations(&mut self) -> Result<BTreeMap<StorePath, BTreeSet<String>>, DerivationError> {
        let mut inputs = BTreeMap::new();
        self.list(|parser| {
            let start = parser.position;
            parser.expect("(")?;
            let path = parser.store_path()?;
            if !path.is_derivation() {
                return Err(syntax(start, format!("'{path}' is not a derivation")));
            }
            parser.expect(",")?;
            let mut ids = BTreeSet::new();
            parser.list(|parser| {
                let start = parser.position;
                let id = parser.output_id()?;
                parser.in_order(start, ids.last() < Some(&id))?;
                ids.insert(id);
                Ok(())
            })?;
            parser.expect(")")?;
            parser.in_order(start, inputs.last_key_value().is_none_or(|(last, _)| *last < path))?;
            inputs.insert(path, ids);
            Ok(())
        })?;
        Ok(inputs)
    }

    fn env(&mut self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, DerivationError> {
        let mut env = BTreeMap::new();
        self.list(|parser| {
            let start = parser.position;
            parser.expect("(")?;
            let name = parser.string()?;
            parser.expect(",")?;
            let value = parser.string()?;
            parser.expect(")")?;
            parser.in_order(start, env.last_key_value().is_none_or(|(last, _)| *last < name))?;
            env.insert(name, value);
            Ok(())
        })?;
        Ok(env)
    }

    /// Parses `[`, items with commas between them, `]`.
    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), DerivationError>) -> Result<(), DerivationError> {
        self.expect("[")?;
        if self.accept("]") {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.accept("]") {
                return Ok(());
            }
            self.expect(",")?;
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, DerivationError> {
        self.expect("\"")?;
        let mut string = Vec::new();
        while let Some(&byte) = self.text.get(self.position) {
            self.position += 1;
            match byte {
                b'"' => return Ok(string),
                b'\\' => {
                    let Some(&escaped) = self.text.get(self.position) else { break };
                    self.position += 1;
                    string.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        0 => return Err(syntax(self.position - 1, "a string has a NUL".to_owned())),
                        other => other,
                    });
                }
                0 => return Err(syntax(self.position - 1, "a string has a NUL".to_owned())),
                other => string.push(other),
            }
        }
        Err(self.problem("it ends inside a string".to_owned()))
    }

    /// Parses a string of a restricted kind.
    fn word(&mut self, what: &str, good: impl Fn(&[u8]) -> bool) -> Result<String, DerivationError> {
        let start = self.position;
        let bytes = self.string()?;
        match String::from_utf8(bytes) {
            Ok(word) if good(word.as_bytes()) => Ok(word),
            Ok(word) => Err(syntax(start, format!("'{}' is not {what}", word.escape_debug()))),
            Err(_) => Err(syntax(start, format!("{what} is not text"))),
        }
    }

    fn output_id(&mut self) -> Result<String, DerivationError> {
        self.word("the id of an output", |id| path::check_name(id).is_ok())
    }

    fn store_path(&mut self) -> Result<StorePath, DerivationError> {
        let start = self.position;
        let path = self.string()?;
        StorePath::parse(self.store, &path).map_err(|error| syntax(start, error.to_string()))
    }

    fn accept(&mut self, expected: &str) -> bool {
        let found = self.text[self.position..].starts_with(expected.as_bytes());
        if found {
            self.position += expected.len();
        }
        found
    }

    fn expect(&mut self, expected: &str) -> Result<(), DerivationError> {
        if self.accept(expected) {
            return Ok(());
        }
        let rest = &self.text[self.position..];
        Err(self.problem(match rest {
            [] => format!("expected '{expected}', found its end"),
            _ => format!("expected '{expected}', found '{}'", rest[..rest.len().min(16)].escape_ascii()),
        }))
    }

    fn in_order(&self, start: usize, holds: bool) -> Result<(), DerivationError> {
        if holds { Ok(()) } else { Err(syntax(start, "this comes out of order or for the second time".to_owned())) }
    }

    fn problem(&self, problem: String) -> DerivationError {
        syntax(self.position, problem)
    }
}

fn syntax(position: usize, problem: String) -> DerivationError {
    DerivationError::Syntax { position, problem }
}
