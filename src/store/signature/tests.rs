use super::*;
use crate::store::{base16, golden};

const SHAPE: SignatureError = SignatureError::Shape { what: "signature" };

fn golden_acl() -> Acl {
    Acl::parse(&golden::file("keys/acl")).unwrap()
}

fn golden_key(name: &str) -> PublicKey {
    PublicKey::parse(&golden::file(&format!("keys/{name}.pub"))).unwrap()
}

#[test]
fn golden_signatures_are_written_back() {
    for (name, text) in golden::files("signature/*.sig") {
        let signature = Signature::parse(&text).unwrap();
        assert_eq!(signature.to_advanced(), text, "{name}");
        let (key, digest) = name.strip_suffix(".sig").unwrap().split_once('-').unwrap();
        assert_eq!(base16::encode(signature.digest()), digest);
        assert_eq!(*signature.public_key(), golden_key(key));
        assert_eq!(Some(signature.algorithm()), golden_key(key).algorithm());
    }
}

#[test]
fn golden_keys_have_their_algorithms() {
    assert_eq!(golden_key("ecc").algorithm(), Some(Algorithm::Ecdsa));
    assert_eq!(golden_key("rsa").algorithm(), Some(Algorithm::Rsa));
    assert!(golden_key("ecc").to_string().starts_with("(public-key (ecc (curve Ed25519) (q #"));
    assert!(PublicKey::parse(&golden::file("keys/ecc.sec")).is_err());
}

#[test]
fn keys_of_the_list_are_authorized() {
    let acl = golden_acl();
    assert!(acl.keys().len() >= 2);
    assert!(acl.authorizes(&golden_key("ecc")) && acl.authorizes(&golden_key("rsa")));
    let text = golden::file("keys/ecc.pub");
    let other = String::from_utf8(text).unwrap().replacen("(q #", "(q #00", 1);
    assert!(!acl.authorizes(&PublicKey::parse(other.as_bytes()).unwrap()));
    assert!(!Acl::default().authorizes(&golden_key("ecc")));
    // The form of writing does not matter.
    let text = String::from_utf8(golden::file("keys/ecc.pub")).unwrap().replace("Ed25519", "|RWQyNTUxOQ==|");
    assert!(acl.authorizes(&PublicKey::parse(text.as_bytes()).unwrap()));
}

#[test]
fn only_whole_lists_of_keys_are_read() {
    let list = |text: &str| Acl::parse(text.as_bytes());
    assert_eq!(list("(acl)").unwrap(), Acl::default());
    assert_eq!(list("(acl (entry (public-key (new (x #01#))) (tag (guix import))))").unwrap().keys().len(), 1);
    for bad in [
        "()",
        "(acl x)",
        "(acls)",
        "(acl (entry))",
        "(acl (entry (public-key (ecc))))",
        "(acl (entry (public-key (ecc)) (tag (guix export))))",
        "(acl (entry (public-key (ecc)) (tag (guix import)) (more)))",
        "(acl (entry (private-key (ecc)) (tag (guix import))))",
        "(acl (entry (public-key) (tag (guix import))))",
        "(acl (entry (public-key a) (tag (guix import))))",
        "(acl (entry (public-key (a) (b)) (tag (guix import))))",
        "(acl (entry (tag (guix import)) (public-key (ecc))))",
        "(acl (entry (public-key (ecc)) (tag (guix import))) (entry))",
    ] {
        assert!(matches!(list(bad), Err(SignatureError::Shape { .. })), "{bad}");
    }
    assert!(matches!(list(""), Err(SignatureError::Sexp(_))));
}

#[test]
fn each_key_has_its_kind() {
    let algorithm = |text: &str| PublicKey::parse(text.as_bytes()).unwrap().algorithm();
    assert_eq!(algorithm("(public-key (ecc (curve Ed25519) (q #01#)))"), Some(Algorithm::Ecdsa));
    assert_eq!(algorithm("(public-key (rsa (n #01#) (e #01#)))"), Some(Algorithm::Rsa));
    for other in [
        "(public-key ())",
        "(public-key (dsa))",
        "(public-key (ecc))",
        "(public-key (ecc (q #01#) (curve Ed25519)))",
        "(public-key (ecc (curve Ed25519) (flags eddsa) (q #01#)))",
        "(public-key (ecc (curve \"NIST P-256\") (q #01#)))",
        "(public-key (ecc (curve Ed25519) (q ##)))",
        "(public-key (ecc (curve Ed25519) (q (x))))",
        "(public-key (ecc (curve Ed25519) (q)))",
        "(public-key (rsa (n #01#)))",
        "(public-key (rsa (n #01#) (e ##)))",
        "(public-key (rsa (n ##) (e #01#)))",
        "(public-key (rsa (e #01#) (n #01#)))",
    ] {
        assert_eq!(algorithm(other), None, "{other}");
    }
}

#[test]
fn signatures_of_another_shape_are_refused() {
    const GOOD: &str = "(signature (data (flags rfc6979) (hash sha256 HASH)) (sig-val (ecdsa (r #01#) (s #02#))) \
        (public-key (ecc (curve Ed25519) (q #03#))))";
    let hash = format!("#{}#", "ab".repeat(32));
    let parse = |text: &str| Signature::parse(text.replace("HASH", &hash).as_bytes());
    assert_eq!(parse(GOOD).unwrap().digest(), &[0xab; 32]);
    for (from, to) in [
        ("(signature", "(signed"),
        ("rfc6979", "pkcs1"),
        ("rfc6979", "raw"),
        ("(flags rfc6979)", "(flags rfc6979 x)"),
        ("(flags rfc6979) ", ""),
        ("sha256", "sha512"),
        ("HASH", "#abcd#"),
        ("HASH", "HASH HASH"),
        ("(hash sha256 HASH)", "(hash sha256 HASH) (hash sha256 HASH)"),
        ("(hash sha256 HASH)", "(hash sha256 (HASH))"),
        ("(r #01#) (s #02#)", "(s #02#) (r #01#)"),
        ("(r #01#) ", ""),
        ("(s #02#)", "(s ##)"),
        ("(s #02#)", "(s #02#) (t #02#)"),
        ("(ecdsa (r #01#) (s #02#))", "(rsa (s #02#))"),
        ("(ecdsa", "(eddsa"),
        ("(sig-val (ecdsa (r #01#) (s #02#))) ", ""),
        ("(sig-val", "(sig-val x"),
    ] {
        let bad = GOOD.replacen(from, to, 1);
        assert_ne!(bad, GOOD);
        assert_eq!(parse(&bad), Err(SHAPE), "{bad}");
    }
    for bad in [
        "(signature)",
        "(x (signature))",
        "(signature (sig-val (rsa (s #01#))) (data (flags pkcs1) (hash sha256 HASH)) (public-key (rsa)))",
    ] {
        assert!(matches!(parse(bad), Err(SignatureError::Shape { .. })), "{bad}");
    }
    assert!(matches!(parse(&GOOD.replace("public-key", "private-key")), Err(SignatureError::Shape { .. })));
    assert!(matches!(parse(&GOOD[1..]), Err(SignatureError::Sexp(_))));
    assert!(matches!(parse(&format!("{GOOD}{GOOD}")), Err(SignatureError::Sexp(_))));
}
