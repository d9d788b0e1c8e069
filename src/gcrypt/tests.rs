use std::os::unix::fs::PermissionsExt;
use std::{fs, thread};

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::store::export::{HashingReader, Trailer, read_marker};
use crate::store::{StoreDir, base16, golden, nar, sexp};

/// Returns a copy of a golden key pair with the modes that Guix gives it.
fn key_files(name: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for (extension, mode) in [("pub", 0o444), ("sec", 0o400)] {
        let copy = directory.path().join("signing-key").with_extension(extension);
        fs::write(&copy, golden::file(&format!("keys/{name}.{extension}"))).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = directory.path().join("signing-key.sec");
    (directory, path)
}

fn key(name: &str) -> SigningKey {
    let (_directory, path) = key_files(name);
    SigningKey::load(&path).unwrap()
}

fn acl() -> Acl {
    Acl::parse(&golden::file("keys/acl")).unwrap()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Returns the key, the digest and the text of each golden signature.
fn golden_signatures() -> Vec<(String, [u8; 32], Vec<u8>)> {
    let read = |(name, text): (String, Vec<u8>)| {
        let (key, digest) = name.strip_suffix(".sig").unwrap().split_once('-').unwrap();
        (key.to_owned(), base16::decode_sha256(digest.as_bytes()).unwrap(), text)
    };
    golden::files("signature/*.sig").into_iter().map(read).collect()
}

#[test]
fn signatures_are_those_of_guix_authenticate() {
    let keys = ["ecc", "rsa"].map(|name| (name, key(name)));
    for (name, digest, text) in golden_signatures() {
        let (_, key) = keys.iter().find(|(known, _)| *known == name).unwrap();
        assert_eq!(key.sign(&digest).unwrap(), text, "{}", base16::encode(&digest));
    }
}

#[test]
fn golden_signatures_are_accepted() {
    let acl = acl();
    for (_, digest, text) in golden_signatures() {
        assert_eq!(verify(&text, &digest, &acl).map(drop), Ok(()));
    }
}

#[test]
fn golden_items_are_signed() {
    let acl = acl();
    for (name, bytes) in golden::files("export/*.export") {
        let mut reader = HashingReader::new(&bytes[..]);
        while read_marker(&mut reader).unwrap() {
            reader.reset();
            nar::read(&mut reader, &mut nar::Writer::new(io::sink())).unwrap();
            let (trailer, digest) = Trailer::read(&StoreDir::default(), &mut reader).unwrap();
            let signature = trailer.signature.unwrap();
            assert_eq!(verify(&signature, &digest, &acl).map(drop), Ok(()), "{name} {}", trailer.path);
            assert_eq!(key("ecc").sign(&digest).unwrap(), signature);
        }
    }
}

#[test]
fn a_known_digest_has_its_known_signature() {
    // Private and public half of a throw-away key, and its signature of SHA-256("hello").
    const Q: &str = "B3C18A316B40A0AC9270F36D2ECC1B34300F13390016F8CE5ADF6D852D8CCB42";
    const D: &str = "68554AE0CDA352582173C06A36181122AC859E2B40EAF84DC96102ED5033FB70";
    let (_directory, path) = key_files("ecc");
    replace(&path, &format!("(private-key (ecc (curve Ed25519) (q #{Q}#) (d #{D}#)))"), 0o400);
    replace(&path.with_extension("pub"), &format!("(public-key (ecc (curve Ed25519) (q #{Q}#)))"), 0o444);
    let text = String::from_utf8(SigningKey::load(&path).unwrap().sign(&sha256(b"hello")).unwrap()).unwrap();
    assert!(text.contains("(r #037A1E4FC1B8345DC320638AF84FB44C8FCE47506FA99B24A56EA5E4CA120FAA#)"), "{text}");
    assert!(text.contains("(s #0C5E580941DDA93B8DDB1FEE662AD876B3B5D1D2786F7FC49F0877F709CCC98A#)"), "{text}");
    assert!(text.contains("#2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824#"), "{text}");
}

fn replace(path: &Path, text: &str, mode: u32) {
    fs::remove_file(path).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn errors_come_in_their_order() {
    let digest = sha256(b"x");
    let good = String::from_utf8(key("ecc").sign(&digest).unwrap()).unwrap();
    let check = |text: &str, digest: &[u8; 32], acl: &Acl| verify(text.as_bytes(), digest, acl).unwrap_err();
    let (acl, nobody, other) = (acl(), Acl::default(), sha256(b"y"));
    assert_eq!(verify(good.as_bytes(), &digest, &acl).map(drop), Ok(()));

    // In each case all later checks fail as well.
    let damaged = good.replacen("(r #0", "(r #1", 1);
    assert!(matches!(check(&damaged[1..], &other, &nobody), VerifyError::NotSexp(_)));
    assert!(matches!(check("", &other, &nobody), VerifyError::NotSexp(_)));
    assert_eq!(check(&damaged.replace("sig-val", "value"), &other, &nobody), VerifyError::Corrupt);
    assert!(matches!(check(&damaged, &other, &nobody), VerifyError::Unauthorized { .. }));
    assert_eq!(check(&damaged, &other, &acl), VerifyError::Hash);
    assert!(matches!(check(&damaged, &digest, &acl), VerifyError::Invalid { .. }));

    let messages = [
        (check("x", &digest, &acl), "signature is not a valid s-expression"),
        (check("(x)", &digest, &acl), "corrupt signature data"),
        (check(&good, &other, &acl), "invalid hash"),
        (check(&damaged, &digest, &acl), "invalid signature: Bad signature"),
    ];
    for (error, message) in messages {
        assert_eq!(error.to_string(), message);
    }
    let message = check(&good, &digest, &nobody).to_string();
    assert!(message.starts_with("unauthorized public key: (public-key (ecc (curve Ed25519) (q #"), "{message}");
}

#[test]
fn a_digest_with_another_bit_is_refused() {
    let digest = sha256(b"x");
    let (acl, good) = (acl(), key("ecc").sign(&digest).unwrap());
    let hex = base16::encode(&digest).to_uppercase();
    let mut mathematics_only = 0;
    for bit in 0..256 {
        let mut other = digest;
        other[bit / 8] ^= 0x80 >> (bit % 8);
        assert_eq!(verify(&good, &other, &acl), Err(VerifyError::Hash));
        // The result is the same with the digest in the signature changed too.
        let text = String::from_utf8(good.clone()).unwrap().replace(&hex, &base16::encode(&other).to_uppercase());
        match verify(text.as_bytes(), &other, &acl) {
            Err(VerifyError::Invalid { .. }) => {}
            Ok(_) => mathematics_only += 1,
            other => panic!("{other:?}"),
        }
    }
    // The order of the curve has 253 bits.
    assert_eq!(mathematics_only, 3);
}

#[test]
fn a_signature_under_the_name_of_another_key_is_refused() {
    let digest = sha256(b"x");
    let [ecc, rsa] = ["ecc", "rsa"].map(|name| Signature::parse(&key(name).sign(&digest).unwrap()).unwrap());
    let acl = acl();
    // A signature by one key, under the name of the other.
    for (one, other) in [(&ecc, &rsa), (&rsa, &ecc)] {
        let mixed = Signature::new(digest, one.value().clone(), other.public_key().clone()).unwrap();
        assert!(matches!(verify(&mixed.to_advanced(), &digest, &acl), Err(VerifyError::Invalid { .. })));
    }
    // An authorized key of an unknown kind.
    let list = "(acl (entry (public-key (new (x #01#))) (tag (guix import))))";
    let text = String::from_utf8(ecc.to_advanced()).unwrap();
    let text = format!("{}(public-key (new (x #01#))))", text.split_once("(public-key").unwrap().0);
    assert!(matches!(
        verify(text.as_bytes(), &digest, &Acl::parse(list.as_bytes()).unwrap()),
        Err(VerifyError::Invalid { .. })
    ));
}

#[test]
fn damaged_signatures_are_refused() {
    let acl = acl();
    for name in ["ecc", "rsa"] {
        let digest = sha256(name.as_bytes());
        let good = key(name).sign(&digest).unwrap();
        let parsed = Signature::parse(&good);
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            // Some changes leave the tree as it is, such as one of a blank to another.
            if Signature::parse(&bad) != parsed {
                assert!(verify(&bad, &digest, &acl).is_err(), "{}", bad.escape_ascii());
            }
        }
        for end in 0..good.len() - 1 {
            assert!(matches!(verify(&good[..end], &digest, &acl), Err(VerifyError::NotSexp(_))));
        }
    }
}

#[test]
fn signatures_with_numbers_out_of_range_are_refused() {
    let digest = sha256(b"x");
    let good = Signature::parse(&key("ecc").sign(&digest).unwrap()).unwrap();
    // 0, the order of the curve, and a far larger number.
    let order = "1000000000000000000000000000000014DEF9DEA2F79CD65812631A5CF5D3ED";
    for number in ["00", order, &"FF".repeat(32), &"FF".repeat(500)] {
        for value in [format!("(r #{number}#) (s #01#)"), format!("(r #01#) (s #{number}#)")] {
            let value = Sexp::parse(format!("(sig-val (ecdsa {value}))").as_bytes()).unwrap();
            let bad = Signature::new(digest, value, good.public_key().clone()).unwrap();
            let error = verify(&bad.to_advanced(), &digest, &acl()).unwrap_err();
            assert!(matches!(error, VerifyError::Invalid { .. }), "{error}");
        }
    }
}

#[test]
fn a_secret_key_that_others_can_use_is_refused() {
    let (_directory, path) = key_files("ecc");
    for mode in [0o440, 0o404, 0o410, 0o420, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = SigningKey::load(&path).unwrap_err();
        assert!(matches!(error, Error::NotSecret { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(SigningKey::load(&path).is_ok());
}

/// A daemon without privileges owns its key, or gives its group the right to read it. root reads such a key too.
#[test]
fn the_secret_key_of_another_owner_may_be_readable_for_its_group_only() {
    let (_directory, path) = key_files("ecc");
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    for mode in [0o400, 0o440, 0o640] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(SigningKey::load(&path).is_ok(), "{mode:04o}");
    }
    for mode in [0o460, 0o420, 0o404, 0o402, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(SigningKey::load(&path), Err(Error::NotSecret { .. })), "{mode:04o}");
    }
}

#[test]
fn keys_that_do_not_belong_together_are_refused() {
    let (directory, path) = key_files("ecc");
    let public = path.with_extension("pub");
    let load = || SigningKey::load(&path).unwrap_err();

    replace(&public, &String::from_utf8(golden::file("keys/rsa.pub")).unwrap(), 0o444);
    assert!(matches!(load(), Error::SecretKey { .. }), "{}", load());
    // The base point: a key of the right kind, but of another pair.
    let q = format!("58{}", "66".repeat(31));
    replace(&public, &format!("(public-key (ecc (curve Ed25519) (q #{q}#)))"), 0o444);
    assert!(matches!(load(), Error::Mismatch { .. }), "{}", load());
    replace(&public, "(public-key (dsa (p #01#)))", 0o444);
    assert!(matches!(load(), Error::Algorithm { .. }), "{}", load());
    replace(&public, "public", 0o444);
    assert!(matches!(load(), Error::PublicKey { .. }), "{}", load());
    fs::remove_file(&public).unwrap();
    assert!(matches!(load(), Error::Read { .. }), "{}", load());

    fs::write(&public, golden::file("keys/ecc.pub")).unwrap();
    assert!(SigningKey::load(&path).is_ok());
    for bad in ["", "(", "(private-key)", "(public-key (ecc))", &" ".repeat(MAX_KEY_FILE + 1)] {
        replace(&path, bad, 0o400);
        assert!(matches!(load(), Error::SecretKey { .. } | Error::Read { .. }), "{}", load());
    }
    let text = String::from_utf8(golden::file("keys/ecc.sec")).unwrap();
    let blanks = " ".repeat(MAX_KEY_FILE - text.len());
    replace(&path, &format!("{text}{blanks}"), 0o400);
    assert!(SigningKey::load(&path).is_ok());
    replace(&path, &format!("{text}{blanks} "), 0o400);
    assert!(load().to_string().contains("larger"), "{}", load());
    fs::remove_file(&path).unwrap();
    assert!(matches!(load(), Error::Read { path: missing, .. } if missing == path));
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(load(), Error::Read { .. }), "{}", load());
    drop(directory);
}

#[test]
fn secrets_are_not_printed() {
    let (_directory, path) = key_files("ecc");
    let key = SigningKey::load(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let (_, d) = text.split_once("(d #").unwrap();
    let shown = format!("{key:?} {key:#?}");
    assert!(shown.contains("public-key"), "{shown}");
    for part in d.as_bytes()[..64].chunks(8) {
        assert!(!shown.contains(str::from_utf8(part).unwrap()), "{shown}");
    }
    // A file that cannot be parsed is not shown, either.
    replace(&path, &text.replacen("(d #", "(d ~secret #", 1), 0o400);
    let error = SigningKey::load(&path).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret #"), "{error:?}");
}

#[test]
fn a_key_can_be_used_by_many_threads() {
    let digests: Vec<_> = (0..20u8).map(|index| sha256(&[index])).collect();
    for name in ["ecc", "rsa"] {
        let key = key(name);
        let expected: Vec<_> = digests.iter().map(|digest| key.sign(digest).unwrap()).collect();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for (digest, expected) in digests.iter().zip(&expected) {
                        assert_eq!(key.sign(digest).unwrap(), *expected);
                        verify(expected, digest, &acl()).unwrap();
                    }
                });
            }
        });
    }
}

proptest! {
    #[test]
    fn s_expressions_are_printed_as_libgcrypt_does(sexp in sexp::tests::lists()) {
        let text = sexp.to_advanced();
        let handle = Handle::new(&text).unwrap();
        prop_assert_eq!(handle.advanced(), text);
    }

    #[test]
    fn s_expressions_are_read_as_libgcrypt_does(text in proptest::collection::vec(
        prop_oneof![8 => proptest::sample::select(&b"()\"#|:\\x0123 abn/"[..]), 1 => any::<u8>()], 0..40)) {
        let text = [b"(a ", &text[..], b")"].concat();
        if let Ok(sexp) = Sexp::parse(&text) {
            prop_assert_eq!(Handle::new(&text).unwrap().advanced(), sexp.to_advanced());
        }
    }
}
