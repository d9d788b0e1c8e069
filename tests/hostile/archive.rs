//! Items of export streams, piece by piece, so that each piece can be wrong. The format is that of `store::nar` and
//! `store::export`, written a second time here: the program's own writers would refuse most of it.

use offload::internals::gcrypt::SigningKey;
use sha2::{Digest, Sha256};

/// A string: its length, its bytes, padding.
pub fn word(bytes: &[u8]) -> Vec<u8> {
    let mut word = (bytes.len() as u64).to_le_bytes().to_vec();
    word.extend_from_slice(bytes);
    word.resize(word.len().next_multiple_of(8), 0);
    word
}

pub fn ints(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn words(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| word(text.as_bytes())).collect()
}

/// A nar whose root is `node`.
pub fn nar(node: &[u8]) -> Vec<u8> {
    [&word(b"nix-archive-1"), node].concat()
}

pub fn file(contents: &[u8]) -> Vec<u8> {
    [words(&["(", "type", "regular", "contents"]), word(contents), words(&[")"])].concat()
}

pub fn executable(contents: &[u8]) -> Vec<u8> {
    [words(&["(", "type", "regular", "executable", "", "contents"]), word(contents), words(&[")"])].concat()
}

/// Returns a file with a header for `size` bytes.
pub fn file_of(size: u64, contents: &[u8]) -> Vec<u8> {
    let mut file = file(contents);
    let at = words(&["(", "type", "regular", "contents"]).len();
    file[at..at + 8].copy_from_slice(&size.to_le_bytes());
    file
}

pub fn link(target: &[u8]) -> Vec<u8> {
    [words(&["(", "type", "symlink", "target"]), word(target), words(&[")"])].concat()
}

pub fn directory(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let entry = |(name, node): &(&[u8], Vec<u8>)| {
        [words(&["entry", "(", "name"]), word(name), words(&["node"]), node.clone(), words(&[")"])].concat()
    };
    [words(&["(", "type", "directory"]), entries.iter().flat_map(entry).collect(), words(&[")"])].concat()
}

/// A nar, and the signed part after it.
#[derive(Clone)]
pub struct Item {
    pub nar: Vec<u8>,
    pub path: String,
    pub references: Vec<String>,
    pub deriver: String,
}

impl Item {
    /// Up to and with the last byte that a signature covers.
    pub fn body(&self) -> Vec<u8> {
        let references: Vec<u8> = self.references.iter().flat_map(|path| word(path.as_bytes())).collect();
        let count = ints(&[self.references.len() as u64]);
        let magic = ints(&[0x4558_494e]);
        [&self.nar, &magic, &word(self.path.as_bytes()), &count, &references, &word(self.deriver.as_bytes())]
            .map(Vec::as_slice)
            .concat()
    }

    pub fn signature(&self, key: &SigningKey) -> Vec<u8> {
        key.sign(&Sha256::digest(self.body()).into()).unwrap()
    }

    pub fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        [self.body(), ints(&[1]), word(signature)].concat()
    }

    pub fn signed(&self, key: &SigningKey) -> Vec<u8> {
        self.with_signature(&self.signature(key))
    }

    pub fn unsigned(&self) -> Vec<u8> {
        [self.body(), ints(&[0])].concat()
    }
}
