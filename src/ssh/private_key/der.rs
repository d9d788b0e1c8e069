//! Parses private keys in PEM formats without a passphrase: PKCS #1 (RFC 8017), SEC 1 (RFC 5915) and PKCS #8 (RFC 5208,
//! RFC 8410), all in DER.
//!
//! Attributes are ignored.

use crate::gcrypt::{Curve, Secret};

const TAG_INTEGER: u8 = 0x02;
const TAG_BIT_STRING: u8 = 0x03;
const TAG_OCTET_STRING: u8 = 0x04;
const TAG_OBJECT_IDENTIFIER: u8 = 0x06;
const TAG_SEQUENCE: u8 = 0x30;
/// The tag of the parameters in SEC 1.
const TAG_PARAMETERS: u8 = 0xa0;
const TAG_PUBLIC_KEY: u8 = 0xa1;

const RSA_IDENTIFIER: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const ELLIPTIC_CURVE_IDENTIFIER: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const CURVE_IDENTIFIERS: [(&[u8], Curve); 3] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], Curve::P256),
    (&[0x2b, 0x81, 4, 0, 0x22], Curve::P384),
    (&[0x2b, 0x81, 4, 0, 0x23], Curve::P521),
];

/// A sequence of DER elements that are not parsed yet.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Returns the content of the next element, if it has this tag.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&[found, length], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match length {
            0x80.. => {
                // The length has this number of bytes. No private key needs more than three.
                let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                let is_usual = (1..=3).contains(&bytes.len());
                (is_usual.then(|| bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))?, rest)
            }
            _ => (usize::from(length), rest),
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (found == tag).then_some(content)
    }

    /// Returns the content of the next element if it has this tag. Otherwise the element stays the next one.
    fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.next(tag) } else { None }
    }
}

/// Parses `RSAPrivateKey`.
pub(super) fn pkcs1(bytes: &[u8]) -> Option<Secret<'_>> {
    let mut fields = Der(Der(bytes).next(TAG_SEQUENCE)?);
    let mut number = || fields.next(TAG_INTEGER);
    let [_version, n, e, d, p, q] = [number()?, number()?, number()?, number()?, number()?, number()?];
    let [_exponent1, _exponent2, inverse] = [number()?, number()?, number()?];
    Some(Secret::Rsa { n, e, d, p, q, inverse })
}

/// Parses `ECPrivateKey`. `curve` is the curve in the surrounding PKCS #8, if there is one.
pub(super) fn sec1(bytes: &[u8], curve: Option<Curve>) -> Option<Secret<'_>> {
    let mut fields = Der(Der(bytes).next(TAG_SEQUENCE)?);
    let _version = fields.next(TAG_INTEGER)?;
    let d = fields.next(TAG_OCTET_STRING)?;
    let parameters = fields.optional(TAG_PARAMETERS);
    let public = fields
        .optional(TAG_PUBLIC_KEY)
        .and_then(|bits| Der(bits).next(TAG_BIT_STRING))
        .and_then(|bits| bits.strip_prefix(&[0]));
    let curve = match curve {
        Some(curve) => curve,
        None => curve_of(Der(parameters?).next(TAG_OBJECT_IDENTIFIER)?)?,
    };
    // Servers do not support compressed points.
    let public = public.filter(|public| public.first() == Some(&4));
    Some(Secret::Ecdsa { curve, d, public })
}

/// Parses `PrivateKeyInfo`.
pub(super) fn pkcs8(bytes: &[u8]) -> Option<Secret<'_>> {
    let mut fields = Der(Der(bytes).next(TAG_SEQUENCE)?);
    let _version = fields.next(TAG_INTEGER)?;
    let mut algorithm = Der(fields.next(TAG_SEQUENCE)?);
    let key = fields.next(TAG_OCTET_STRING)?;
    match algorithm.next(TAG_OBJECT_IDENTIFIER)? {
        RSA_IDENTIFIER => pkcs1(key),
        ELLIPTIC_CURVE_IDENTIFIER => sec1(key, Some(curve_of(algorithm.next(TAG_OBJECT_IDENTIFIER)?)?)),
        ED25519 => Der(key)
            .next(TAG_OCTET_STRING)
            .filter(|seed| seed.len() == 32)
            .map(|seed| Secret::Ed25519 { seed, public: None }),
        _ => None,
    }
}

/// Returns the curve with this object identifier.
fn curve_of(object: &[u8]) -> Option<Curve> {
    CURVE_IDENTIFIERS.iter().find(|(known, _)| *known == object).map(|(_, curve)| *curve)
}
