use super::*;

const FOO: &str = "/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo";

fn parse(path: impl AsRef<[u8]>) -> Result<StorePath, PathError> {
    StorePath::parse(&StoreDir::default(), path.as_ref())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Returns the number 1 as a hash of this many bytes.
fn one(length: usize) -> Vec<u8> {
    let mut hash = vec![0; length];
    hash[length - 1] = 1;
    hash
}

#[test]
fn a_path_has_a_hash_and_a_name() {
    let path = parse(FOO).unwrap();
    assert_eq!(path.as_str(), FOO);
    assert_eq!(path.to_string(), FOO);
    assert_eq!((AsRef::<str>::as_ref(&path), format!("{path:?}").contains("-foo")), (FOO, true));
    assert_eq!(path.hash_part(), "xnryj9c4k27hjviqs29c3dydawc71ga6");
    assert_eq!(path.name(), "foo");
    assert_eq!(path.base_name(), "xnryj9c4k27hjviqs29c3dydawc71ga6-foo");
    assert!(!path.is_derivation());
    assert!(parse("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv").unwrap().is_derivation());
}

#[test]
fn texts_have_their_known_paths() {
    let store = StoreDir::default();
    let foo = text_path(&store, "foo", &sha256(b"hello\n"), &[]).unwrap();
    assert_eq!(foo.as_str(), FOO);
    let text = format!("see {foo}\n");
    let bar = text_path(&store, "bar", &sha256(text.as_bytes()), std::slice::from_ref(&foo)).unwrap();
    assert_eq!(bar.as_str(), "/gnu/store/hxbwv0n6dyadh2d3q6h1286kinrfp6gk-bar");
    let twice = text_path(&store, "bar", &sha256(text.as_bytes()), &[foo.clone(), foo]).unwrap();
    assert_eq!(twice, bar);
}

#[test]
fn the_order_of_references_does_not_matter() {
    let store = StoreDir::default();
    let [a, b] = ["a", "b"].map(|name| text_path(&store, name, &sha256(b""), &[]).unwrap());
    let hash = sha256(b"x");
    let ordered = text_path(&store, "x", &hash, &[a.clone(), b.clone()]).unwrap();
    assert_eq!(text_path(&store, "x", &hash, &[b, a]).unwrap(), ordered);
}

#[test]
fn fixed_outputs_have_their_known_paths() {
    let store = StoreDir::default();
    let path = |recursive, algorithm, length| {
        fixed_output_path(&store, "fx", recursive, algorithm, &one(length)).unwrap().to_string()
    };
    assert_eq!(path(false, HashAlgorithm::Sha256, 32), "/gnu/store/4fspafxnqr76lhdb1d16lrd9i88s6j8z-fx");
    assert_eq!(path(true, HashAlgorithm::Sha256, 32), "/gnu/store/qd7qkb9mvx9awj4pa6m6bfa4885id0pr-fx");
    assert_eq!(path(true, HashAlgorithm::Sha512, 64), "/gnu/store/jcwz5cc3sv0s5zdvnh984vzxxyz8d524-fx");
}

#[test]
fn a_path_must_be_directly_inside_the_store() {
    for path in [
        "",
        "/",
        "/gnu",
        "/gnu/store",
        "/gnu/store/",
        "gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo",
        "/gnu/storexnryj9c4k27hjviqs29c3dydawc71ga6-foo",
        "/nix/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo",
        "/gnu/store//xnryj9c4k27hjviqs29c3dydawc71ga6-foo",
        "/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo/",
        "/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo/bin",
        "/gnu/store/../store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo",
    ] {
        assert!(matches!(parse(path), Err(PathError::Outside { .. })), "{path}");
    }
}

#[test]
fn a_path_inside_the_store_must_be_an_item() {
    let hash = "xnryj9c4k27hjviqs29c3dydawc71ga6";
    for base in [
        "..".to_owned(),
        ".".to_owned(),
        ".links".to_owned(),
        "evil name!".to_owned(),
        hash.to_owned(),
        format!("{hash}-"),
        format!("{hash}foo"),
        format!("{hash}-.foo"),
        format!("{hash}-foo bar"),
        format!("{hash}-foo\n"),
        format!("{hash}-foo\0"),
        format!("{hash}-f\u{e9}"),
        format!("{hash}-foo:bar"),
        format!("{hash}-{}", "x".repeat(MAX_NAME + 1)),
        format!("{}-foo", hash.replace('x', "e")),
        format!("{}-foo", hash.replace('x', "X")),
        format!("{}-foo", &hash[1..]),
    ] {
        assert!(matches!(parse(format!("/gnu/store/{base}")), Err(PathError::Invalid { .. })), "{base}");
    }
    assert!(matches!(parse(b"/gnu/store/\xff\xfe"), Err(PathError::Invalid { .. })));
}

#[test]
fn only_some_characters_are_allowed_in_a_name() {
    for byte in 0..=255u8 {
        let path = [FOO.as_bytes(), &[byte]].concat();
        let allowed = byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
        assert_eq!(parse(&path).is_ok(), allowed, "{byte:#x}");
    }
}

#[test]
fn the_longest_path_is_accepted_and_no_longer_one() {
    let store = StoreDir::default();
    let longest = text_path(&store, &"x".repeat(MAX_NAME), &sha256(b""), &[]).unwrap();
    assert_eq!(longest.as_str().len(), store.max_path());
    assert_eq!(parse(longest.as_str()), Ok(longest));
    assert!(matches!(text_path(&store, &"x".repeat(MAX_NAME + 1), &sha256(b""), &[]), Err(PathError::Name { .. })));
}

#[test]
fn messages_stay_short_and_printable() {
    let message = parse([b"/gnu/store/\x1b[31m".as_slice(), &[b'x'; 10_000]].concat()).unwrap_err().to_string();
    assert!(message.len() < 600 && message.is_ascii() && !message.contains('\x1b'), "{message}");
}

#[test]
fn the_store_directory_is_part_of_the_hash() {
    let store = StoreDir::new("/tmp/s").unwrap();
    let path = text_path(&store, "foo", &sha256(b"hello\n"), &[]).unwrap();
    assert!(path.as_str().starts_with("/tmp/s/"));
    assert_ne!(path.hash_part(), "xnryj9c4k27hjviqs29c3dydawc71ga6");
    assert_eq!(StorePath::parse(&store, path.as_str().as_bytes()), Ok(path.clone()));
    assert!(parse(path.as_str()).is_err());
    for bad in ["", "/", "gnu/store", "/gnu/store/", "/gnu//store", "/gnu/../store", "/gnu/./s", "/gnu/st ore"] {
        assert!(StoreDir::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn messages_show_the_fault_without_control_characters() {
    let message = |text: &str| parse(text).unwrap_err().to_string();
    assert!(message("/elsewhere/\x1b[31m").contains("/elsewhere/\\x1b[31m"), "{}", message("/elsewhere/\x1b[31m"));
    let long = message(&format!("/elsewhere/{}", "y".repeat(1000)));
    assert!(long.contains("yyy...") && long.len() < 600, "{long}");
}
