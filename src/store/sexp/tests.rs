use proptest::prelude::*;

use super::*;
use crate::store::golden;

fn parse(text: impl AsRef<[u8]>) -> Result<Sexp, SexpError> {
    Sexp::parse(text.as_ref())
}

/// Returns a list of atoms.
fn atoms(atoms: &[&[u8]]) -> Sexp {
    Sexp::list(atoms.iter().map(|&bytes| Sexp::atom(bytes)).collect::<Vec<_>>())
}

#[test]
fn golden_files_are_written_back() {
    for pattern in ["signature/*.sig", "keys/*.pub", "keys/*.sec", "keys/acl*"] {
        for (name, text) in golden::files(pattern) {
            assert_eq!(parse(&text).unwrap().to_advanced(), text, "{name}");
        }
    }
}

#[test]
fn expressions_cut_anywhere_are_refused() {
    for (_, text) in golden::files("signature/*.sig") {
        for end in 0..text.len() - 1 {
            assert!(parse(&text[..end]).unwrap_err().position <= end);
        }
    }
}

#[test]
fn each_way_to_write_an_atom_is_read() {
    let expected = atoms(&[b"a", b"bc d"]);
    for text in [
        r#"(a "bc d")"#,
        "(1:a4:bc d)",
        "(#61##62632064#)",
        "(# 6 1 #\n#62 63\t20 64#)",
        "(|YQ==||YmMgZA==|)",
        r#" ( "a"4"bc d" ) "#,
        "(1#61#4#62632064#)",
        "(1|YQ==|\t4:bc d)",
        "(\"\\x61\" \"b\\143\\x20d\")",
        "(a \"bc\\\n d\")",
        "(a \"bc\\\r\n d\")",
        "(a\"bc\\\n\r d\")",
    ] {
        assert_eq!(parse(text), Ok(expected.clone()), "{text}");
    }
    assert_eq!(parse(r#"("\b\t\v\n\f\r\"\'\\")"#), Ok(atoms(&[b"\x08\t\x0b\n\x0c\r\"'\\"])));
    assert_eq!(parse(r#"("\000\377\xfF")"#), Ok(atoms(&[b"\x00\xff\xff"])));
    assert_eq!(parse("(\"\"##)"), Ok(atoms(&[b"", b""])));
    assert_eq!(parse("(:)"), Ok(atoms(&[b":"])));
    assert_eq!(parse("(-./_:*+=aZ9)"), Ok(atoms(&[b"-./_:*+=aZ9"])));
    assert_eq!(parse("(3:()\0)"), Ok(atoms(&[b"()\0"])));
    assert_eq!(parse("()"), Ok(atoms(&[])));
    assert_eq!(parse(b"(\"\xe9\n\")"), Ok(atoms(&[b"\xe9\n"])));
}

#[test]
fn lists_are_laid_out_as_libgcrypt_does() {
    for (text, expected) in [
        ("()", "()\n"),
        ("(a b)", "(a b)\n"),
        ("(a(b)c)", "(a \n (b)\n c)\n"),
        ("(a(b)(c))", "(a \n (b)\n (c)\n )\n"),
        ("((a)b)", "(\n (a)\n b)\n"),
        ("((()))", "(\n (\n  ()\n  )\n )\n"),
        ("(a(b c)d e(f)g)", "(a \n (b c)\n d e \n (f)\n g)\n"),
    ] {
        assert_eq!(String::from_utf8(parse(text).unwrap().to_advanced()).unwrap(), expected);
    }
}

#[test]
fn atoms_are_written_as_tokens_texts_or_hexadecimal_digits() {
    let written = |bytes: &[u8]| {
        let text = atoms(&[bytes]).to_advanced();
        text[1..text.len() - 2].to_vec()
    };
    assert_eq!(written(b""), b"\"\"");
    assert_eq!(written(b"token"), b"token");
    assert_eq!(written(b"1token"), b"\"1token\"");
    assert_eq!(written(b"two words"), b"\"two words\"");
    assert_eq!(written(b"\"\\\n'"), b"\"\\\"\\\\\\n\\'\"");
    assert_eq!(written(b"caf\xe9"), b"\"caf\xe9\"");
    assert_eq!(written(b"\xe9t\xe9"), b"#E974E9#");
    assert_eq!(written(b"a\xa0"), b"#61A0#");
    assert_eq!(written(b"a\x7f"), b"#617F#");
    assert_eq!(written(b"\0a"), b"#0061#");
    assert_eq!(written(b"a \0"), b"\"a \\x00\"");
    assert_eq!(written(b"a\0"), b"\"a\\x00\"");
    assert_eq!(written(b"a\x1b"), b"#611B#");
}

#[test]
fn malformed_text_is_refused_at_its_position() {
    for (text, position) in [
        ("", 0),
        ("  ", 2),
        ("a", 0),
        ("\"a\"", 0),
        (")", 0),
        ("(", 1),
        ("(a", 2),
        ("(a))", 3),
        ("(a)(b)", 3),
        ("(a) x", 4),
        ("(a)\0", 3),
        ("(a [hint] b)", 3),
        ("(a {b})", 3),
        ("(a &b)", 3),
        ("(a b~)", 4),
        ("(\u{e9})", 1),
        ("(1a)", 2),
        ("(1)", 2),
        ("(0:)", 1),
        ("(01:a)", 1),
        ("(9:ab)", 1),
        ("(9999999999999999999999:a)", 7),
        ("(2#61#)", 1),
        ("(2\"a\")", 1),
        ("(2|YQ==|)", 1),
        ("(#6#)", 1),
        ("(#6g#)", 1),
        ("(#61)", 1),
        ("(\"abc)", 1),
        ("(\"abc\\", 1 + 4),
        ("(\"\\q\")", 2),
        ("(\"\\x6\")", 2),
        ("(\"\\x6g\")", 2),
        ("(\"\\18\")", 2),
        ("(\"\\400\")", 2),
        ("(|YQ=|)", 1),
        ("(|Y Q==|)", 1),
        ("(|YQ==)", 1),
        ("(||)", 1),
    ] {
        assert_eq!(parse(text).unwrap_err().position, position, "{text}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let nested = |depth: usize| "(".repeat(depth) + &")".repeat(depth);
    assert!(parse(nested(MAX_SEXP_DEPTH)).is_ok());
    assert_eq!(parse(nested(MAX_SEXP_DEPTH + 1)).unwrap_err().position, MAX_SEXP_DEPTH);
    assert_eq!(parse("(".repeat(MAX_SEXP_SIZE)).unwrap_err().position, MAX_SEXP_DEPTH);
    let long = |length: usize| format!("({})", "a".repeat(length - 2));
    assert!(parse(long(MAX_SEXP_SIZE)).is_ok());
    assert_eq!(parse(long(MAX_SEXP_SIZE + 1)).unwrap_err().position, MAX_SEXP_SIZE);
}

#[test]
fn a_list_is_tagged_by_its_first_atom() {
    let list = parse("(a b (c))").unwrap();
    assert_eq!(list.tagged("a").unwrap().len(), 2);
    assert_eq!(list.tagged("b"), None);
    assert_eq!(parse("((a) b)").unwrap().tagged("a"), None);
    assert_eq!(parse("()").unwrap().tagged(""), None);
    assert_eq!(Sexp::atom("a").tagged("a"), None);
}

/// Any s-expression that libgcrypt prints and can read again: a list that is not empty, without tokens that have a NUL.
pub fn lists() -> impl Strategy<Value = Sexp> {
    let text =
        proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'"'), Just(b'\\'), 0x20..0x7fu8, 0xa1..=0xffu8], 0..9);
    let bytes = proptest::collection::vec(any::<u8>(), 0..9);
    let item = prop_oneof!["[a-z]{1,5}".prop_map(String::into_bytes), text, bytes]
        .prop_filter("bare NUL", |bytes| {
            !bytes.contains(&0) || !bytes.iter().all(|byte| *byte == 0 || is_token_character(byte))
        })
        .prop_map(Sexp::Atom);
    let item = item.prop_recursive(5, 40, 6, |item| proptest::collection::vec(item, 0..6).prop_map(Sexp::List));
    proptest::collection::vec(item, 1..6).prop_map(Sexp::List)
}

proptest! {
    #[test]
    fn a_written_expression_is_read_back(sexp in lists()) {
        prop_assert_eq!(parse(sexp.to_advanced()), Ok(sexp));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(text in proptest::collection::vec(
        prop_oneof![proptest::sample::select(&b"()\"#|:\\x01 a"[..]), any::<u8>()], 0..60)) {
        let _ = parse([b"(", &text[..], b")"].concat());
    }
}
