//! The text of a derivation.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::{Derivation, FixedOutput};
use crate::store::base16;
use crate::store::path::{PathError, StoreDir, StorePath, text_path};

impl Derivation {
    /// Returns the contents of its `.drv` file.
    pub fn write(&self) -> Vec<u8> {
        let inputs = self.input_derivations.iter().map(|(path, ids)| (path.as_str(), ids));
        derivation(self, inputs, false)
    }

    /// Returns the store path of its `.drv` file, given its name (without `.drv`).
    pub fn path(&self, store: &StoreDir, name: &str) -> Result<StorePath, PathError> {
        text_path(store, &format!("{name}.drv"), &Sha256::digest(self.write()).into(), &self.references())
    }
}

/// Writes the text, with `inputs` instead of the input derivations. `masked` omits the paths of the outputs, for the
/// hash that they come from.
pub(super) fn derivation<'a>(
    derivation: &Derivation,
    inputs: impl IntoIterator<Item = (&'a str, &'a BTreeSet<String>)>,
    masked: bool,
) -> Vec<u8> {
    let mut text = Text(b"Derive(".to_vec());
    text.list(&derivation.outputs, |text, (id, output)| {
        let path = if masked { "" } else { output.path.as_str() };
        let method = output.fixed.as_ref().map(FixedOutput::method).unwrap_or_default();
        let hash = output.fixed.as_ref().map(|fixed| base16::encode(&fixed.hash)).unwrap_or_default();
        text.tuple(&[id.as_bytes(), path.as_bytes(), method.as_bytes(), hash.as_bytes()]);
    });
    text.0.push(b',');
    text.list(inputs, |text, (path, ids)| {
        text.0.push(b'(');
        text.string(path.as_bytes());
        text.0.push(b',');
        text.list(ids, |text, id| text.string(id.as_bytes()));
        text.0.push(b')');
    });
    text.0.push(b',');
    text.list(&derivation.input_sources, |text, path| text.string(path.as_ref()));
    text.0.push(b',');
    text.string(derivation.system.as_bytes());
    text.0.push(b',');
    text.string(&derivation.builder);
    text.0.push(b',');
    text.list(&derivation.args, |text, argument| text.string(argument));
    text.0.push(b',');
    text.list(&derivation.env, |text, (name, value)| text.tuple(&[name, value]));
    text.0.push(b')');
    text.0
}

struct Text(Vec<u8>);

impl Text {
    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Text, T)) {
        self.0.push(b'[');
        for (index, value) in items.into_iter().enumerate() {
            if index > 0 {
                self.0.push(b',');
            }
            item(self, value);
        }
        self.0.push(b']');
    }

    fn tuple(&mut self, strings: &[&[u8]]) {
        self.0.push(b'(');
        for (index, string) in strings.iter().enumerate() {
            if index > 0 {
                self.0.push(b',');
            }
            self.string(string);
        }
        self.0.push(b')');
    }

    fn string(&mut self, bytes: &[u8]) {
        self.0.push(b'"');
        for &byte in bytes {
            match byte {
                b'"' | b'\\' => self.0.extend([b'\\', byte]),
                b'\n' => self.0.extend(b"\\n"),
                b'\r' => self.0.extend(b"\\r"),
                b'\t' => self.0.extend(b"\\t"),
                other => self.0.push(other),
            }
        }
        self.0.push(b'"');
    }
}
