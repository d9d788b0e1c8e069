//! The s-expressions of signed store items: public keys, signatures, the access-control list.
//!
//! ```text
//! PUBLIC-KEY := (public-key (ecc (curve Ed25519) (q BYTES))) | (public-key (rsa (n NUMBER) (e NUMBER)))
//! DATA       := (data (flags rfc6979) (hash sha256 BYTES))          for ecc keys; for rsa keys the flag is pkcs1
//! SIG-VAL    := (sig-val (ecdsa (r NUMBER) (s NUMBER))) | (sig-val (rsa (s NUMBER)))
//! SIGNATURE  := (signature DATA SIG-VAL PUBLIC-KEY)
//! ACL        := (acl (entry PUBLIC-KEY (tag (guix import))) ...)
//! ```
//!
//! Exactly these shapes are accepted, with a hash of 32 bytes; Guix itself searches for the parts of a signature
//! anywhere inside it. The keys of an access-control list may be of other kinds: they are only compared, as whole
//! trees, with the key of a signature. Sources: `guix/pki.scm`, `(gcrypt pk-crypto)` of Guile-Gcrypt.
//!
//! Not checked here: whether a signature is valid ([`gcrypt`](crate::gcrypt)).

use std::fmt;

use super::sexp::{Sexp, SexpError};

/// The algorithm of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA over the curve Ed25519, which is not EdDSA.
    Ecdsa,
    Rsa,
}

/// A public key. Two keys are equal if their trees are equal, byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Sexp);

impl PublicKey {
    /// Parses the key in the text of a file such as `/etc/guix/signing-key.pub`.
    pub fn parse(text: &[u8]) -> Result<PublicKey, SignatureError> {
        PublicKey::from_sexp(&Sexp::parse(text)?)
    }

    fn from_sexp(sexp: &Sexp) -> Result<PublicKey, SignatureError> {
        match sexp.tagged("public-key") {
            Some([Sexp::List(_)]) => Ok(PublicKey(sexp.clone())),
            _ => Err(SignatureError::Shape { what: "public key" }),
        }
    }

    /// Returns the algorithm of this key; `None` if it is not supported here.
    pub fn algorithm(&self) -> Option<Algorithm> {
        let [key] = self.0.tagged("public-key")? else { return None };
        if let Some([curve, q]) = key.tagged("ecc") {
            let [name] = curve.tagged("curve")? else { return None };
            (name.as_atom()? == b"Ed25519").then_some(())?;
            return is_number(q, "q").then_some(Algorithm::Ecdsa);
        }
        let [n, e] = key.tagged("rsa")? else { return None };
        (is_number(n, "n") && is_number(e, "e")).then_some(Algorithm::Rsa)
    }

    pub fn as_sexp(&self) -> &Sexp {
        &self.0
    }
}

/// Writes libgcrypt's advanced form on one line: for messages.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_advanced();
        let words: Vec<_> = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        f.write_str(&String::from_utf8_lossy(&words.join(&b' ')).replace(" )", ")"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A signature of a SHA-256 digest, valid or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    algorithm: Algorithm,
    digest: [u8; 32],
    value: Sexp,
    public_key: PublicKey,
}

impl Signature {
    /// Makes a signature; `value` is the tree that begins with `sig-val`, from libgcrypt.
    pub fn new(digest: [u8; 32], value: Sexp, public_key: PublicKey) -> Result<Signature, SignatureError> {
        let Some(algorithm) = value_algorithm(&value) else {
            return Err(SignatureError::Shape { what: "signature" });
        };
        Ok(Signature { algorithm, digest, value, public_key })
    }

    /// Parses the signature in the text that comes with a store item.
    pub fn parse(text: &[u8]) -> Result<Signature, SignatureError> {
        let shape = || SignatureError::Shape { what: "signature" };
        let sexp = Sexp::parse(text)?;
        let Some([data, value, public_key]) = sexp.tagged("signature") else { return Err(shape()) };
        let public_key = PublicKey::from_sexp(public_key)?;
        let digest = hash(data).ok_or_else(shape)?;
        let signature = Signature::new(digest, value.clone(), public_key)?;
        if signature.data() != *data {
            return Err(shape());
        }
        Ok(signature)
    }

    /// Returns the output of `guix authenticate`: the tree in libgcrypt's advanced form.
    pub fn to_advanced(&self) -> Vec<u8> {
        let parts = [Sexp::atom("signature"), self.data(), self.value.clone(), self.public_key.0.clone()];
        Sexp::list(parts).to_advanced()
    }

    /// Returns the algorithm of the key that made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the digest that it claims to sign.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Returns the tree that begins with `sig-val`.
    pub fn value(&self) -> &Sexp {
        &self.value
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Returns the tree that is signed.
    pub fn data(&self) -> Sexp {
        data(self.algorithm, &self.digest)
    }
}

/// Returns the tree that a key with this algorithm signs for a digest.
pub fn data(algorithm: Algorithm, digest: &[u8; 32]) -> Sexp {
    let flag = match algorithm {
        Algorithm::Ecdsa => "rfc6979",
        Algorithm::Rsa => "pkcs1",
    };
    let flags = Sexp::list([Sexp::atom("flags"), Sexp::atom(flag)]);
    let hash = Sexp::list([Sexp::atom("hash"), Sexp::atom("sha256"), Sexp::atom(*digest)]);
    Sexp::list([Sexp::atom("data"), flags, hash])
}

/// The keys that are authorized to sign imported items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    keys: Vec<PublicKey>,
}

impl Acl {
    /// Parses the list in the text of a file such as `/etc/guix/acl`.
    pub fn parse(text: &[u8]) -> Result<Acl, SignatureError> {
        let shape = SignatureError::Shape { what: "access-control list" };
        let sexp = Sexp::parse(text)?;
        let Some(entries) = sexp.tagged("acl") else { return Err(shape) };
        let tag = Sexp::list([Sexp::atom("tag"), Sexp::list([Sexp::atom("guix"), Sexp::atom("import")])]);
        let key = |entry: &Sexp| match entry.tagged("entry") {
            Some([key, given]) if *given == tag => PublicKey::from_sexp(key),
            _ => Err(SignatureError::Shape { what: "access-control list" }),
        };
        Ok(Acl { keys: entries.iter().map(key).collect::<Result<_, _>>()? })
    }

    /// Returns whether `key` is on the list.
    pub fn authorizes(&self, key: &PublicKey) -> bool {
        self.keys.contains(key)
    }

    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
}

/// Returns the algorithm of a `sig-val` tree that has the right shape.
fn value_algorithm(value: &Sexp) -> Option<Algorithm> {
    let [value] = value.tagged("sig-val")? else { return None };
    if let Some([r, s]) = value.tagged("ecdsa") {
        return (is_number(r, "r") && is_number(s, "s")).then_some(Algorithm::Ecdsa);
    }
    let [s] = value.tagged("rsa")? else { return None };
    is_number(s, "s").then_some(Algorithm::Rsa)
}

/// Returns the hash in a `data` tree, wherever it is: the caller compares the whole tree.
fn hash(data: &Sexp) -> Option<[u8; 32]> {
    let [_, hash] = data.tagged("data")? else { return None };
    let [_, bytes] = hash.tagged("hash")? else { return None };
    bytes.as_atom()?.try_into().ok()
}

/// Returns whether this is `(name BYTES)`.
fn is_number(sexp: &Sexp, name: &str) -> bool {
    matches!(sexp.tagged(name), Some([Sexp::Atom(bytes)]) if !bytes.is_empty())
}

/// The reason why a text is not a key, a signature or an access-control list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error(transparent)]
    Sexp(#[from] SexpError),
    #[error("invalid {what}")]
    Shape { what: &'static str },
}

#[cfg(test)]
mod tests;
