use super::*;

fn path(letter: char) -> StorePath {
    let text = format!("/gnu/store/{}-{letter}", "0".repeat(32));
    StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap()
}

fn order(edges: &[(char, &str)]) -> Result<String, DatabaseError> {
    let paths: BTreeSet<StorePath> = edges.iter().map(|(letter, _)| path(*letter)).collect();
    let references: HashMap<StorePath, Vec<StorePath>> =
        edges.iter().map(|(letter, to)| (path(*letter), to.chars().map(path).collect())).collect();
    let order = references_first(&paths, |path| &references[path])?;
    Ok(order.iter().map(|path| path.name()).collect())
}

#[test]
fn references_come_first() {
    assert_eq!(order(&[]).unwrap(), "");
    assert_eq!(order(&[('a', ""), ('b', ""), ('c', "")]).unwrap(), "abc");
    assert_eq!(order(&[('a', "abc"), ('b', "c"), ('c', "c")]).unwrap(), "cba");
    assert_eq!(order(&[('a', "bc"), ('b', "d"), ('c', "d"), ('d', "")]).unwrap(), "dbca");
    // References outside the items are ignored.
    assert_eq!(order(&[('a', "xyz"), ('b', "ax")]).unwrap(), "ab");
}

#[test]
fn derivations_come_before_what_they_build() {
    let path =
        |name| StorePath::parse(&StoreDir::default(), format!("/gnu/store/{}-{name}", "0".repeat(32)).as_bytes());
    let [a, b, drv] = ["a", "b", "c.drv"].map(|name| path(name).unwrap());
    let paths = BTreeSet::from([a.clone(), b.clone(), drv.clone()]);
    let source = [b.clone()];
    let order = references_first(&paths, |path| if *path == drv { &source } else { &[] }).unwrap();
    assert_eq!(order, [&b, &drv, &a]);
}

#[test]
fn a_long_chain_is_no_deep_recursion() {
    let store = StoreDir::default();
    let name = |index: u32| format!("/gnu/store/{}-{index:06}", "0".repeat(32));
    let path = |index| StorePath::parse(&store, name(index).as_bytes()).unwrap();
    let paths: BTreeSet<StorePath> = (0..100_000).map(path).collect();
    let next: HashMap<StorePath, Vec<StorePath>> =
        (0..100_000).map(|index| (path(index), vec![path(index + 1)])).collect();
    let order = references_first(&paths, |path| &next[path]).unwrap();
    assert!(order.iter().rev().copied().eq(&paths));
}

#[test]
fn a_cycle_is_an_error() {
    for edges in [&[('a', "b"), ('b', "a")][..], &[('a', ""), ('b', "c"), ('c', "db"), ('d', "")]] {
        assert!(matches!(order(edges), Err(DatabaseError::Cycle { .. })));
    }
}

/// A database with the daemon's tables. `tests/local.rs` reads the contents of a real one.
fn database(rows: &str) -> (tempfile::TempDir, Database) {
    let directory = tempfile::tempdir().unwrap();
    let connection = Connection::open(directory.path().join("db.sqlite")).unwrap();
    let schema = "CREATE TABLE ValidPaths (id integer primary key autoincrement not null, path text unique not null, \
                  hash text not null, registrationTime integer not null, deriver text, narSize integer);
                  CREATE TABLE Refs (referrer integer not null, reference integer not null);";
    connection.execute_batch(schema).unwrap();
    connection.execute_batch(rows).unwrap();
    let database = Database::open(directory.path(), &StoreDir::default()).unwrap();
    (directory, database)
}

#[test]
fn invalid_records_are_errors() {
    let hash = "ab".repeat(32);
    let row = |hash: &str, deriver: &str, size: &str| {
        format!("INSERT INTO ValidPaths VALUES (1, '{}', '{hash}', 1, {deriver}, {size})", path('a'))
    };
    let good = |deriver, size| database(&row(&format!("sha256:{hash}"), deriver, size)).1.item(&path('a'));
    let item = good("NULL", "NULL").unwrap().unwrap();
    assert_eq!((item.nar_size, item.deriver, item.nar_hash), (0, None, [0xab; 32]));
    assert_eq!(good("''", "7").unwrap().unwrap().deriver, None);
    assert!(good("'/gnu/store/x'", "7").unwrap_err().to_string().contains("not a store path"));
    assert!(good("NULL", "-7").unwrap_err().to_string().ends_with("its size is negative"));
    for bad in [hash.clone(), "sha256:".into(), format!("sha256:{hash}00")] {
        let (_directory, database) = database(&row(&bad, "NULL", "7"));
        let error = database.item(&path('a')).unwrap_err();
        assert!(error.to_string().ends_with(&format!("its hash is '{bad}'")), "{error}");
    }
}

#[test]
fn an_invalid_path_is_reported() {
    let (_directory, database) = database("");
    assert_eq!(database.item(&path('a')).unwrap(), None);
    assert!(!database.is_valid(&path('a')).unwrap());
    assert!(matches!(database.items(&[path('a')].into()), Err(DatabaseError::NotValid { .. })));
    let nowhere = Database::open(Path::new("/nonexistent"), &StoreDir::default()).err().unwrap();
    assert!(nowhere.to_string().contains("'/nonexistent/db.sqlite'"), "{nowhere}");
}

/// Two programs lock the whole database: one for a while, one indefinitely.
#[test]
fn a_locked_database_is_awaited_up_to_a_limit() {
    let (directory, database) = database("");
    drop(database);
    let file = directory.path().join("db.sqlite");
    let lock = || {
        let other = Connection::open(&file).unwrap();
        other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
        other
    };
    let is_valid = |timeout| {
        let store = StoreDir::default();
        let database = Database::open_with_timeout(directory.path(), &store, Duration::from_millis(timeout))?;
        database.is_valid(&path('a'))
    };
    for mode in ["DELETE", "WAL"] {
        Connection::open(&file).unwrap().execute_batch(&format!("PRAGMA journal_mode = {mode}")).unwrap();
        let other = lock();
        let error = is_valid(50).unwrap_err().to_string();
        assert!(error.contains("db.sqlite': database is locked") && error.contains("`fuser -v "), "{error}");
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| is_valid(60_000));
            std::thread::sleep(Duration::from_millis(100));
            assert!(!waiting.is_finished());
            drop(other);
            waiting.join().unwrap()
        });
        assert!(!waiting.unwrap());
    }
}

#[test]
fn errors_of_the_database_have_hints() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("db.sqlite");
    let message = || {
        let database = Database::open(directory.path(), &StoreDir::default()).unwrap();
        database.is_valid(&path('a')).unwrap_err().to_string()
    };
    std::fs::write(&file, "").unwrap();
    assert!(message().contains("no such table: ValidPaths\n  hint: check that it is guix-daemon's"), "{}", message());
    std::fs::write(&file, [b'x'; 8192]).unwrap();
    assert!(message().contains("file is not a database\n  hint: it is damaged"), "{}", message());
}

#[test]
fn the_largest_outputs_are_those_with_a_deriver() {
    let row = |letter: char, deriver: &str, size: u64| {
        let path = path(letter);
        format!("INSERT INTO ValidPaths VALUES (NULL, '{path}', '', 1, {deriver}, {size});")
    };
    let drv = format!("'/gnu/store/{}-x.drv'", "0".repeat(32));
    let rows = [row('a', &drv, 5), row('b', "NULL", 9), row('c', &drv, 7), row('d', &drv, 6), row('e', "''", 8)];
    let (_directory, database) = database(&rows.concat());
    assert_eq!(database.largest_outputs(2).unwrap(), BTreeSet::from([path('c'), path('d')]));
    assert_eq!(database.largest_outputs(9).unwrap().len(), 3);
}
