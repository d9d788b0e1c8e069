//! The hook cannot read the store's database. The test replaces the directory of the database. The daemon has the old
//! file open, so it does not notice.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::lab::Drv;
use crate::pool::{Ended, Pool, assert_builds, ended, mount};

type Damage = fn(&Path);

/// Damages to a copy of the database, and the words of the message that the hook then prints.
const CASES: &[(&str, Damage, &[&str])] = &[
    ("missing", |file| fs::remove_file(file).unwrap(), &["unable to open database file", "hint: the hook runs as"]),
    ("text", |file| fs::write(file, [b'x'; 8192]).unwrap(), &["file is not a database", "hint: it is damaged"]),
    ("empty", |file| fs::write(file, "").unwrap(), &["no such table", "GUIX_DATABASE_DIRECTORY"]),
    ("pages", overwrite_pages, &["malformed", "hint: it is damaged"]),
    ("io-error", unreadable, &["disk I/O error", "hint: `dmesg`"]),
];

/// Overwrites all pages except the first, which has the schema. The others have the rows.
fn overwrite_pages(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[4096..].fill(0xff);
    fs::write(file, bytes).unwrap();
}

/// Replaces the file by one that can be opened and not read.
fn unreadable(file: &Path) {
    fs::remove_file(file).unwrap();
    symlink("/proc/self/mem", file).unwrap();
}

/// Asserts that the build failed on the head, with a message that names the file and a fix.
#[track_caller]
fn assert_failed(name: &str, ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status, Some(1), "{name}: {}", ended.log);
    for words in ["cannot use the store's database '/var/guix/db/db.sqlite': "].iter().chain(words) {
        assert!(ended.log.contains(words), "{name}: {words:?} is not in {}", ended.log);
    }
    assert!(!ended.log.contains("could not be built on"), "{name}: {}", ended.log);
}

#[test]
fn an_unreadable_database_fails_the_build_with_a_hint() {
    let pool = Pool::new(|head| head);
    let head = &pool.head;
    let (directory, aside) = (head.path("/var/guix/db"), head.path("/var/guix/db.aside"));
    assert_builds("before", head, &pool.derivation("before", 1, 1), 1);
    for (name, damage, words) in CASES {
        let drv = Drv::new(name).script("mkdir $out; echo >$out/data");
        let mut client = head.direct();
        let made = client.make(&drv);
        // The copy has all rows in one file, without a journal.
        let copy = head.path(format!("/var/guix/db.{name}"));
        fs::create_dir(&copy).unwrap();
        let source = rusqlite::Connection::open(directory.join("db.sqlite")).unwrap();
        source.execute("VACUUM INTO ?", [copy.join("db.sqlite").to_str().unwrap()]).unwrap();
        drop(source);
        damage(&copy.join("db.sqlite"));
        fs::rename(&directory, &aside).unwrap();
        fs::rename(&copy, &directory).unwrap();
        let ended = ended(&mut client, &made);
        fs::remove_dir_all(&directory).unwrap();
        fs::rename(&aside, &directory).unwrap();

        assert_failed(name, &ended, words);
        pool.assert_quiet(name);
        client.build(&[&drv]).unwrap_or_else(|error| panic!("{name}, afterwards: {error}"));
    }

    // In WAL mode SQLite writes shared memory beside the file, and this directory has no space for it.
    let drv = Drv::new("full").script("mkdir $out; echo >$out/data");
    let mut client = head.direct();
    let made = client.make(&drv);
    let copy = head.path("/var/guix/copy.sqlite");
    let source = rusqlite::Connection::open(directory.join("db.sqlite")).unwrap();
    source.execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
    rusqlite::Connection::open(&copy).unwrap().execute_batch("PRAGMA journal_mode = WAL").unwrap();
    drop(source);
    mount(head, "/var/guix/db", "size=1m");
    fs::copy(&copy, directory.join("db.sqlite")).unwrap();
    fs::remove_file(&copy).unwrap();
    let mut filler = fs::File::create(directory.join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    let ended = ended(&mut client, &made);
    drop(filler);
    assert!(Command::new("umount").arg(&directory).status().unwrap().success());
    assert_failed("full", &ended, &["disk I/O error", "`df` whether its file system is full"]);
    client.build(&[&drv]).unwrap();
    pool.verify();
    pool.assert_all_is_collected();
}
