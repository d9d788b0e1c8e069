//! Nars that the reader refuses, and its bounds.

use super::*;

#[test]
fn the_grammar_is_followed() {
    const FILE: &str = "( type regular contents {0} )";
    for text in [
        "",
        ")",
        "type regular",
        "( regular",
        "( type fifo )",
        "( type ''",
        "( type regular executable yes contents {0} )",
        "( type regular executable '' )",
        "( type regular executable '' executable '' contents {0} )",
        "( type regular contents {0} executable '' )",
        "( type regular contents {0} contents {0} )",
        "( type regular )",
        "( type regular contents {0} type regular )",
        "( type symlink )",
        "( type symlink target a target b )",
        "( type directory entry ( name a ) )",
        "( type directory entry ( node ( type directory ) name a ) )",
        "( type directory entry ( name a name b node ( type directory ) ) )",
        "( type directory entry ( name a node ( type directory ) node ( type directory ) ) )",
        "( type directory entry name a",
        "( type directory executable '' )",
        "( type directory contents {0} )",
        "( type directory entries )",
    ] {
        let bytes = nar(text);
        // A nar that ends early is reported as such, so more bytes follow here.
        let (position, _) = problem(&[bytes.clone(), words(&["xyz"])].concat());
        assert!(position >= 24 && position <= bytes.len() as u64, "{text}: {position}");
    }
    assert!(matches!(tree(&nar(FILE)), Tree::File(false, contents) if contents.is_empty()));
    assert_eq!(problem(&words(&["nix-archive-2"])).0, 0);
    assert_eq!(problem(&nar("( type regular contents {0} ]")).0, 24 + 16 * 4 + 8);
    assert!(problem(&[0xff; 64]).1.contains("no word has"));
}

#[test]
fn names_of_other_directories_are_refused() {
    for name in ["''", ".", "..", "../x", "a/b", "/", "/etc/passwd", "a\0", "\0"] {
        let bytes = nar(&format!("( type directory entry ( name {name} node ( type directory ) ) )"));
        let (position, problem) = problem(&bytes);
        assert_eq!(position, 24 + 16 * 6 + 8, "{name}");
        assert!(problem.starts_with("bad name"), "{problem}");
    }
    let name = "x".repeat(MAX_ENTRY_NAME);
    let bytes = |name: &str| nar(&format!("( type directory entry ( name {name} node ( type directory ) ) )"));
    assert!(read(&mut &bytes(&name)[..], &mut Nothing).is_ok());
    assert!(problem(&bytes(&(name + "x"))).1.contains("255"));
    // The writer refuses such a name, too.
    let mut path = NarPath::root();
    assert!(path.push(&[b'x'; MAX_ENTRY_NAME + 1]).is_err());
    path.push(&[b'x'; MAX_ENTRY_NAME]).unwrap();
}

#[test]
fn entries_are_sorted_and_unique() {
    let bytes = |names: &[&str]| {
        let entry = |name: &&str| format!("entry ( name {name} node ( type directory ) ) ");
        nar(&format!("( type directory {})", names.iter().map(entry).collect::<String>()))
    };
    for names in [&["a", "a"][..], &["b", "a"], &["ab", "a"], &["a", "B"], &["é", "z"], &["a", "c", "b"]] {
        assert!(problem(&bytes(names)).1.contains("out of order"), "{names:?}");
    }
    for names in [&["B", "a"][..], &["a", "ab"], &["a-d", "a.d"], &["z", "é"]] {
        assert!(matches!(tree(&bytes(names)), Tree::Directory(entries) if entries.len() == names.len()));
    }
    // The order restarts in each directory, and continues after one.
    let inner = "( type directory entry ( name a node ( type directory ) ) )";
    let bytes = |next: &str| {
        nar(&format!("( type directory entry ( name m node {inner} ) entry ( name {next} node ( type directory ) ) )"))
    };
    assert!(read(&mut &bytes("n")[..], &mut Nothing).is_ok());
    assert!(problem(&bytes("b")).1.contains("out of order"));
}

#[test]
fn targets_of_links_are_checked() {
    let bytes = |target: &str| nar(&format!("( type symlink target {target} )"));
    assert!(problem(&bytes("''")).1.contains("empty"));
    assert!(problem(&bytes("a\0b")).1.contains("NUL"));
    assert!(problem(&bytes(&"x".repeat(MAX_LINK_TARGET + 1))).1.contains("4095"));
    assert_eq!(tree(&bytes(&"x".repeat(MAX_LINK_TARGET))), Tree::Symlink(vec![b'x'; MAX_LINK_TARGET]));
    // The writer refuses such a target, too.
    let write = |target: &[u8]| Writer::new(Vec::new()).symlink(&NarPath::root(), target);
    assert!(write(&[b'x'; MAX_LINK_TARGET + 1]).is_err() && write(b"").is_err() && write(b"a\0b").is_err());
    write(&[b'x'; MAX_LINK_TARGET]).unwrap();
}

#[test]
fn padding_is_zero_everywhere() {
    let bytes = nar("( type regular contents {3} ");
    let end = bytes.len();
    let good = [bytes, b"abc\0\0\0\0\0".to_vec(), words(&[")"])].concat();
    assert_eq!(tree(&good), Tree::File(false, b"abc".to_vec()));
    for position in end + 3..end + 8 {
        let mut bad = good.clone();
        bad[position] = b'x';
        assert_eq!(problem(&bad), (end as u64 + 3, "the padding after a string is not zero".into()));
    }
    let mut bad = good;
    bad[31] = 1;
    assert!(problem(&bad).1.contains("no word has"));
    bad[31] = 0;
    bad[8 + 13] = 1;
    assert!(problem(&bad).1.contains("padding"));
}

#[test]
fn announced_sizes_are_not_trusted() {
    for size in [MAX_NAR_FILE_SIZE, MAX_NAR_FILE_SIZE - 7, 1 << 40] {
        let bytes = nar(&format!("( type regular contents {{{size}}} "));
        let error = read(&mut &bytes[..], &mut Nothing).unwrap_err();
        assert!(matches!(error, NarError::Truncated { position } if position == bytes.len() as u64));
    }
    for size in [MAX_NAR_FILE_SIZE + 1, u64::MAX] {
        assert!(problem(&nar(&format!("( type regular contents {{{size}}} "))).1.contains("too large"));
    }
    for text in ["( type symlink target {9999999999}", "( type directory entry ( name {4294967295}"] {
        assert!(problem(&nar(text)).1.contains("longer"));
    }
}

/// Returns the nar of nested directories, of which the innermost has a file.
fn nested(names: &[&[u8]]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let mut path = NarPath::root();
    for name in names {
        writer.directory(&path).unwrap();
        path.push(name).unwrap();
    }
    writer.file(&path, true, 0, &mut io::empty()).unwrap();
    for _ in names {
        path.pop();
        writer.leave_directory(&path).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn paths_are_bounded_and_nothing_else_bounds_depth() {
    // Paths of 2047 directories, and of 15 with long names, have 4095 bytes each.
    let long = [b'x'; MAX_ENTRY_NAME];
    for names in [vec![&b"d"[..]; 2048], vec![&long[..]; 16]] {
        let nar = nested(&names);
        assert_eq!(read(&mut &nar[..], &mut Nothing).unwrap(), nar.len() as u64);
        let mut path = NarPath::root();
        names.iter().for_each(|name| path.push(name).unwrap());
        assert_eq!(path.as_bytes().len(), MAX_NAR_PATH);
        let error = path.push(b"d").unwrap_err().to_string();
        assert_eq!(error, "bad name 'd': the path that it ends is longer than 4095 bytes");
    }
    let entry = "( type directory entry ( name d node ";
    let (position, problem) = problem(&nar(&entry.repeat(100_000)));
    assert!(problem.contains("longer than 4095 bytes"), "{problem}");
    assert!(position < 2049 * 160, "{position}");
}
