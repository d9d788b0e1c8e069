//! This machine's store beside real daemons of both releases: what is read from it, and what is put into it.

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use lab::{Drv, Hook, Host, Lab, Made, RELEASES, Release, peak_memory};
use offload::internals::daemon::{Client, Error, Garbage, Options};
use offload::internals::gcrypt::{self, SigningKey};
use offload::internals::local::{Bundle, Database, Dump, Item, Staging, Store, check_fixed_output, load_acl};
use offload::internals::store::base16;
use offload::internals::store::export::{HashingReader, Trailer};
use offload::internals::store::nar;
use offload::internals::store::path::{StoreDir, StorePath};
use sha2::{Digest, Sha256};

fn connect(daemon: &Host) -> Client<UnixStream> {
    let mut client = Client::connect(daemon.connect_to_daemon(), StoreDir::default()).unwrap();
    client.set_options(&Options::default()).unwrap();
    client
}

/// The store, database and key of a daemon, as they are seen from inside its root directory.
struct Head {
    store: Store,
    database: Database,
    key: SigningKey,
}

impl Head {
    fn new(daemon: &Host) -> Head {
        let directory = StoreDir::default();
        Head {
            store: Store::open_at(&directory, &daemon.path("/gnu/store")).unwrap(),
            database: Database::open(&daemon.path("/var/guix/db"), &directory).unwrap(),
            key: SigningKey::load(&daemon.path("/etc/guix/signing-key.sec")).unwrap(),
        }
    }

    fn bundle(&self, paths: &BTreeSet<StorePath>) -> Bundle<'_, impl FnMut(&[u8; 32]) -> io::Result<Vec<u8>>> {
        let items = self.database.items(paths).unwrap();
        Bundle::new(&self.store, items, |digest| self.key.sign(digest).map_err(io::Error::other))
    }
}

/// A script one of whose outputs refers to the other, with a bit of everything.
const TWO_OUTPUTS: &str = "mkdir -p $out/bin $out/empty && echo $lib > $out/lib && echo $out > $out/self && \
                           echo lib > $lib && printf '#!/bin/sh\\n' > $out/bin/run && chmod +x $out/bin/run && \
                           : > \"$out/a b\" && ln -s ../nowhere $out/link && head -c 300000 /dev/zero > $out/zeroes";

fn pair() -> Drv {
    Drv::new("pair").outputs(&["lib", "out"]).script(TWO_OUTPUTS)
}

#[test]
fn the_database_agrees_with_the_daemon() {
    for release in RELEASES {
        let lab = Lab::new();
        let daemon = lab.daemon("b1", release).start();
        let mut direct = daemon.direct();
        let Made { path: drv, derivation } = direct.make(&pair());
        let busybox = derivation.input_sources.first().unwrap().clone();
        let client = direct.daemon();
        client.build_paths(&[drv.clone()].into()).unwrap();
        let head = Head::new(&daemon);
        let single = BTreeSet::from([busybox.clone(), drv.clone(), derivation.outputs["lib"].path.clone()]);
        let order: Vec<StorePath> = head.database.items(&single).unwrap().into_iter().map(|item| item.path).collect();
        assert!(order.iter().position(|path| *path == busybox) < order.iter().position(|path| *path == drv));
        for path in single.iter().chain(derivation.output_paths()) {
            let (item, info) = (head.database.item(path).unwrap().unwrap(), client.query_path_info(path).unwrap());
            let Item { path: _, references, deriver, nar_hash, nar_size } = item;
            assert_eq!((deriver, nar_hash, nar_size), (info.deriver, info.nar_hash, info.nar_size));
            assert_eq!(BTreeSet::from_iter(references), info.references);
        }
        // Registered while the database is open.
        let late = client.add_text_to_store("late", b"", &BTreeSet::new()).unwrap();
        assert!(head.database.is_valid(&late).unwrap());
    }
}

#[test]
fn daemons_of_both_releases_import_items() {
    for (from, to) in [(Release::Sid, Release::Bullseye), (Release::Bullseye, Release::Sid)] {
        let lab = Lab::new();
        let (sender, receiver) = (lab.daemon("sender", from).start(), lab.daemon("receiver", to).start());
        let (mut direct, mut remote) = (sender.direct(), connect(&receiver));
        let one = Drv::new("one").script(&TWO_OUTPUTS.replace("$lib", "$out/lib"));
        let Made { path: drv, derivation } = direct.make(&one);
        let busybox = derivation.input_sources.first().unwrap().clone();
        let client = direct.daemon();
        client.build_paths(&[drv.clone()].into()).unwrap();
        let output = &derivation.outputs["out"].path;
        let paths = BTreeSet::from([busybox, drv, output.clone()]);
        let head = Head::new(&sender);
        let imported = remote.import_paths(&mut head.bundle(&paths)).unwrap();
        assert_eq!(BTreeSet::from_iter(imported), paths);
        for path in &paths {
            let (here, there) = (client.query_path_info(path).unwrap(), remote.query_path_info(path).unwrap());
            assert_eq!((here.nar_hash, here.nar_size), (there.nar_hash, there.nar_size));
            assert_eq!((here.references, here.deriver), (there.references, there.deriver));
        }
        // The same bytes as the daemon's own export, signature included.
        let mut ours = Vec::new();
        head.bundle(&[output.clone()].into()).read_to_end(&mut ours).unwrap();
        let theirs = client.export_path(output, true, |reader| {
            let mut item = Vec::new();
            reader.read_to_end(&mut item).map(|_| item)
        });
        assert_eq!(ours[8..ours.len() - 8], theirs.unwrap());
        assert!(!remote.verify_store(true, false).unwrap());
    }
}

#[test]
fn a_damaged_item_stops_the_import_and_nothing_else() {
    let lab = Lab::new();
    let (sender, receiver) =
        (lab.daemon("sender", Release::Sid).start(), lab.daemon("receiver", Release::Bullseye).start());
    let (mut client, mut remote) = (connect(&sender), connect(&receiver));
    let good = client.add_text_to_store("good", b"good", &BTreeSet::new()).unwrap();
    let bad = client.add_text_to_store("bad", b"bad", &[good.clone()].into()).unwrap();
    fs::write(sender.path(bad.as_str()), b"BAD").unwrap();
    let head = Head::new(&sender);
    match remote.import_paths(&mut head.bundle(&[good.clone(), bad.clone()].into())).unwrap_err() {
        Error::Source { cause, .. } => assert!(cause.to_string().contains("is damaged"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert!(!remote.is_valid_path(&bad).unwrap());
    assert_eq!(remote.import_paths(&mut head.bundle(&[good.clone()].into())).unwrap(), [good]);
}

/// Retrieves an item into its staging place and returns what its trailer says, with its nar hash and size.
fn retrieve(remote: &mut Client<UnixStream>, staging: &Staging<'_>, acl: &Path) -> (Trailer, [u8; 32], u64) {
    let acl = load_acl(acl).unwrap();
    let consume = |reader: &mut dyn Read| -> Result<_, Box<dyn std::error::Error>> {
        let mut reader = HashingReader::new(reader);
        let size = nar::read(&mut reader, &mut staging.restore())?;
        let nar_hash = reader.digest();
        let (trailer, digest) = Trailer::read(&StoreDir::default(), &mut reader)?;
        gcrypt::verify(trailer.signature.as_deref().unwrap(), &digest, &acl)?;
        Ok((trailer, nar_hash, size))
    };
    remote.export_path(staging.output(), true, consume).unwrap()
}

#[test]
fn outputs_of_both_releases_are_restored() {
    for release in RELEASES {
        let lab = Lab::new();
        let (head, builder) = (lab.daemon("head", Release::Sid).start(), lab.daemon("b1", release).start());
        // The head's daemon makes its database when it is first connected to.
        let (_client, mut direct) = (connect(&head), builder.direct());
        let Made { path: drv, derivation } = direct.make(&pair());
        let remote = direct.daemon();
        remote.build_paths(&[drv].into()).unwrap();
        let here = Head::new(&head);
        for path in derivation.output_paths() {
            let staging = Staging::new(&here.store, path).unwrap();
            let (trailer, nar_hash, size) = retrieve(remote, &staging, &head.path("/etc/guix/acl"));
            let info = remote.query_path_info(path).unwrap();
            assert_eq!((&trailer.path, nar_hash, size), (path, info.nar_hash, info.nar_size));
            assert_eq!(BTreeSet::from_iter(trailer.references), info.references);
            assert!(staging.install(&here.database).unwrap());
            assert_same(&head.path(path.as_str()), &builder.path(path.as_str()));
        }
    }
}

/// Both trees have the same metadata, which the daemon made canonical at one of them.
fn assert_same(one: &Path, other: &Path) {
    let (a, b) = (fs::symlink_metadata(one).unwrap(), fs::symlink_metadata(other).unwrap());
    assert_eq!((a.mode(), a.uid(), a.gid(), a.mtime()), (b.mode(), b.uid(), b.gid(), b.mtime()), "{one:?}");
    if a.is_dir() {
        for entry in fs::read_dir(one).unwrap() {
            let name = entry.unwrap().file_name();
            assert_same(&one.join(&name), &other.join(&name));
        }
    }
}

#[test]
fn the_garbage_collector_spares_the_staging_area() {
    for release in RELEASES {
        let lab = Lab::new();
        let daemon = lab.daemon("b1", release).start();
        let (mut client, mut collector) = (connect(&daemon), connect(&daemon));
        let head = Head::new(&daemon);
        let text = client.add_text_to_store("text", b"text", &BTreeSet::new()).unwrap();
        let output =
            StorePath::parse(&StoreDir::default(), b"/gnu/store/00000000000000000000000000000000-out").unwrap();
        client.add_temp_root(&output).unwrap();
        let staging = Staging::new(&head.store, &output).unwrap();
        let mut dump = Dump::new(fs::File::open(daemon.path("/gnu/store")).unwrap(), &c_name(&text)).unwrap();
        nar::read(&mut dump, &mut staging.restore()).unwrap();
        fs::create_dir(daemon.path(format!("{output}.other"))).unwrap();

        let (deleted, _) = collector.collect_garbage(Garbage::Delete, &BTreeSet::new(), None).unwrap();
        assert!(deleted.contains(&format!("{output}.other").into()), "{deleted:?}");
        assert!(!deleted.contains(&format!("{output}.chroot").into()));
        staging.install(&head.database).unwrap();
        collector.collect_garbage(Garbage::Delete, &BTreeSet::new(), None).unwrap();
        assert!(daemon.path(output.as_str()).exists());

        // The files of a killed hook are garbage when its daemon has ended.
        fs::create_dir(daemon.path(format!("{output}.chroot"))).unwrap();
        drop(client);
        let gone = |collector: &mut Client<UnixStream>| {
            collector.collect_garbage(Garbage::Delete, &BTreeSet::new(), None).unwrap();
            !daemon.path(output.as_str()).exists() && !daemon.path(format!("{output}.chroot")).exists()
        };
        assert!(
            (0..1000)
                .any(|_| gone(&mut collector) || (std::thread::sleep(std::time::Duration::from_millis(50)), false).1)
        );
    }
}

/// The smallest hook there can be: it accepts, and copies what the test prepared to where the outputs belong.
const HOOK: &str = r##"#!/bin/sh
[ "$1" = offload ] || exec /usr/bin/guix "$@"
read -r request
echo "# accept" >&2
read -r inputs
read -r outputs
for output in $outputs; do cp -a "/staged/${output##*/}" "$output"; done
"##;

/// A daemon whose builds are all done by the hook.
fn daemon_with_hook(lab: &Lab, release: Release) -> Host {
    let hook = Hook::Program("/hooks/guix".to_owned());
    let daemon = lab.daemon("head", release).hook(hook).env("NIX_BIN_DIR", "/hooks").start();
    daemon.write("/hooks/guix", HOOK);
    fs::set_permissions(daemon.path("/hooks/guix"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(daemon.path("/staged")).unwrap();
    daemon
}

#[test]
fn the_daemon_registers_what_a_hook_leaves() {
    for release in RELEASES {
        let lab = Lab::new();
        let (head, builder) = (daemon_with_hook(&lab, release), lab.daemon("b1", Release::Sid).start());
        let (mut client, mut direct) = (connect(&head), builder.direct());
        let bundle = Head::new(&builder);
        let hash = base16::encode(&Sha256::digest(b"fixed\n"));
        let one = Drv::new("fixed").fixed_file("sha256", &hash).script("echo fixed > $out");
        for made in [direct.make(&pair()), direct.make(&one)] {
            let Made { path: drv, derivation } = made;
            let busybox = derivation.input_sources.first().unwrap().clone();
            let remote = direct.daemon();
            client.import_paths(&mut bundle.bundle(&[busybox.clone(), drv.clone()].into())).unwrap();
            remote.build_paths(&[drv.clone()].into()).unwrap();
            let here = Head::new(&head);
            for path in derivation.output_paths() {
                let staging = Staging::new(&here.store, path).unwrap();
                let (_, nar_hash, _) = retrieve(remote, &staging, &head.path("/etc/guix/acl"));
                if let Some(fixed) = derivation.fixed_output() {
                    check_fixed_output(&staging, &nar_hash, fixed).unwrap();
                }
                staging.install(&here.database).unwrap();
                head.run("mv", &[path.as_str(), "/staged/"]);
            }
            client.set_options(&Options { offload: true, max_jobs: Some(0), ..Options::default() }).unwrap();
            client.build_paths(&[drv.clone()].into()).unwrap();
            for path in derivation.output_paths() {
                let (here, there) = (client.query_path_info(path).unwrap(), remote.query_path_info(path).unwrap());
                assert_eq!((here.nar_hash, here.nar_size), (there.nar_hash, there.nar_size));
                assert_eq!((here.references, here.deriver), (there.references, Some(drv.clone())));
            }
        }
        assert!(!client.verify_store(true, false).unwrap());
    }
}

#[test]
fn memory_does_not_grow_with_the_size_of_an_item() {
    const SIZE: u64 = 200 << 20;
    let top = tempfile::tempdir().unwrap();
    let directory = StoreDir::default();
    let parse = |text: &str| StorePath::parse(&directory, text.as_bytes()).unwrap();
    let path = parse("/gnu/store/00000000000000000000000000000000-large");
    let output = parse("/gnu/store/11111111111111111111111111111111-large");
    fs::File::create(top.path().join(path.base_name())).unwrap().set_len(SIZE).unwrap();
    let store = Store::open_at(&directory, top.path()).unwrap();
    let before = peak_memory();
    let mut nar = HashingReader::new(Dump::new(fs::File::open(top.path()).unwrap(), &c_name(&path)).unwrap());
    let nar_size = io::copy(&mut nar, &mut io::sink()).unwrap();
    let item = Item { path, references: Vec::new(), deriver: None, nar_hash: nar.digest(), nar_size };
    let mut bundle = HashingReader::new(Bundle::new(&store, vec![item], |_| Ok(Vec::new())));
    bundle.read_exact(&mut [0; 8]).unwrap();
    let staging = Staging::new(&store, &output).unwrap();
    assert_eq!(nar::read(&mut bundle, &mut staging.restore()).unwrap(), nar_size);
    let grown = peak_memory() - before;
    // Other tests of this program run beside it.
    assert!(grown < SIZE / 2, "{grown} bytes more than before");
}

fn c_name(path: &StorePath) -> std::ffi::CString {
    std::ffi::CString::new(path.base_name()).unwrap()
}
