//! Private keys of accounts on other machines. They sign in libgcrypt's secure memory, as signing keys do.
//!
//! The parts of a key are numbers, unsigned and with the most significant byte first, and so are those of signatures.
//! SSH's own encoding is not handled here.

use std::ffi::CStr;

use zeroize::Zeroizing;

use super::ffi::Handle;
use crate::store::sexp::Sexp;

/// Elliptic curves of ECDSA keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    P256,
    P384,
    P521,
}

/// The parts of a private key.
pub enum Secret<'a> {
    Ed25519 {
        /// 32 bytes.
        seed: &'a [u8],
        /// The public half, 32 bytes, if it is known.
        public: Option<&'a [u8]>,
    },
    Ecdsa {
        curve: Curve,
        d: &'a [u8],
        /// The public half, in the form of SEC 1, if it is known.
        public: Option<&'a [u8]>,
    },
    Rsa {
        n: &'a [u8],
        e: &'a [u8],
        d: &'a [u8],
        p: &'a [u8],
        q: &'a [u8],
        /// The inverse of `q` modulo `p`.
        inverse: &'a [u8],
    },
}

/// The data to sign.
pub enum Message<'a> {
    /// The whole message, for an Ed25519 key.
    Whole(&'a [u8]),
    /// Its hash, with libgcrypt's name for the kind of hash.
    Hash(&'static str, &'a [u8]),
}

/// A private key that can sign.
pub struct UserKey {
    secret: Handle,
    kind: KeyKind,
}

#[derive(Clone, Copy)]
enum KeyKind {
    EdDsa,
    Ecdsa,
    Rsa,
}

impl UserKey {
    /// Copies the key into secure memory.
    pub fn new(secret: &Secret<'_>) -> Result<UserKey, String> {
        let (kind, text) = match *secret {
            Secret::Ed25519 { seed, public } => {
                let mut words: Vec<(&[u8], &[u8])> = vec![(b"curve", b"Ed25519"), (b"flags", b"eddsa"), (b"d", seed)];
                // Otherwise it is computed for each signature.
                words.extend(public.map(|public| (&b"q"[..], public)));
                (KeyKind::EdDsa, text(b"ecc", &words, &[]))
            }
            Secret::Ecdsa { curve, d, .. } => (KeyKind::Ecdsa, text(b"ecc", &[(b"curve", name(curve))], &[(b"d", d)])),
            // libgcrypt needs the inverse of the first factor modulo the second.
            Secret::Rsa { n, e, d, p, q, inverse } => {
                let numbers: [(&[u8], &[u8]); 6] =
                    [(b"n", n), (b"e", e), (b"d", d), (b"p", q), (b"q", p), (b"u", inverse)];
                (KeyKind::Rsa, text(b"rsa", &[], &numbers))
            }
        };
        Ok(UserKey { secret: Handle::secret(&text)?, kind })
    }

    /// Computes the public half of a key over an elliptic curve, in the usual encoding of a point: 32 bytes for
    /// Ed25519, SEC 1 without compression for the others.
    pub fn public_point(&self) -> Result<Vec<u8>, String> {
        let name: &CStr = match self.kind {
            KeyKind::EdDsa => c"q@eddsa",
            KeyKind::Ecdsa => c"q",
            KeyKind::Rsa => return Err("it has no point".to_owned()),
        };
        let point = Sexp::parse(&self.secret.public_point(name)?.canonical()).map_err(|error| error.to_string())?;
        number(&point, "q").map(<[u8]>::to_vec).ok_or_else(|| "libgcrypt returned no point".to_owned())
    }

    /// Signs, and returns `r` and `s`, or `s` alone for RSA.
    pub fn sign(&self, message: &Message<'_>) -> Result<Vec<Vec<u8>>, String> {
        let flag = match self.kind {
            KeyKind::EdDsa => "eddsa",
            KeyKind::Ecdsa => "rfc6979",
            KeyKind::Rsa => "pkcs1",
        };
        let pair = |name: &str, value: Sexp| Sexp::list([Sexp::atom(name), value]);
        let mut data = vec![Sexp::atom("data"), pair("flags", Sexp::atom(flag))];
        match message {
            Message::Whole(bytes) => {
                data.extend([pair("hash-algo", Sexp::atom("sha512")), pair("value", Sexp::atom(*bytes))])
            }
            Message::Hash(name, hash) => {
                data.push(Sexp::list([Sexp::atom("hash"), Sexp::atom(*name), Sexp::atom(*hash)]))
            }
        }
        let data = Handle::new(&Sexp::list(data).to_advanced())?;
        let value = Sexp::parse(&data.sign(&self.secret)?.canonical()).map_err(|error| error.to_string())?;
        numbers(&value).ok_or_else(|| "libgcrypt returned no signature".to_owned())
    }
}

/// Returns libgcrypt's name.
fn name(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => b"nistp256",
        Curve::P384 => b"nistp384",
        Curve::P521 => b"nistp521",
    }
}

/// Writes `(private-key (ALGORITHM (NAME WORD)… (NAME NUMBER)…))`, in canonical form. The text is never moved before it
/// is wiped. Numbers that would be negative get a leading zero.
fn text(algorithm: &[u8], words: &[(&[u8], &[u8])], numbers: &[(&[u8], &[u8])]) -> Zeroizing<Vec<u8>> {
    let size: usize = words.iter().chain(numbers).map(|(name, value)| name.len() + value.len() + 32).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(size + 64));
    let atom = |text: &mut Vec<u8>, sign: &[u8], bytes: &[u8]| {
        text.extend(format!("{}:", sign.len() + bytes.len()).bytes());
        text.extend(sign);
        text.extend(bytes);
    };
    let pair = |text: &mut Vec<u8>, name: &[u8], sign: &[u8], value: &[u8]| {
        text.push(b'(');
        atom(text, b"", name);
        atom(text, sign, value);
        text.push(b')');
    };
    text.extend(b"(11:private-key(3:");
    text.extend(algorithm);
    for (name, word) in words {
        pair(&mut text, name, b"", word);
    }
    for (name, number) in numbers {
        let is_negative = number.first().is_some_and(|byte| *byte >= 0x80);
        pair(&mut text, name, if is_negative { &[0] } else { b"" }, number);
    }
    text.extend(b"))");
    text
}

/// Returns the numbers in `(sig-val (ALGORITHM (NAME NUMBER)…))`.
fn numbers(value: &Sexp) -> Option<Vec<Vec<u8>>> {
    let [Sexp::List(items)] = value.tagged("sig-val")? else { return None };
    let numbers = items.iter().skip(1).map(|item| match item {
        Sexp::List(pair) => pair.get(1)?.as_atom().map(<[u8]>::to_vec),
        Sexp::Atom(_) => None,
    });
    numbers.collect()
}

fn number<'a>(sexp: &'a Sexp, name: &str) -> Option<&'a [u8]> {
    let [number] = sexp.tagged(name)? else { return None };
    number.as_atom()
}
