//! What goes there and comes back: outputs of every shape arrive as they were built, by whatever way.

mod lab;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use lab::{Drv, Host, Lab, Release};

fn pool() -> (Lab, Host, Host) {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry().set("overload_threshold", false)]);
    (lab, b1, head)
}

/// The item is the same on both sides: hash, size, references, deriver.
#[track_caller]
fn assert_same_item(head: &Host, machine: &Host, path: &Path) {
    let here = head.path_info(path);
    assert!(here.is_some(), "{} is not valid on the head", path.display());
    assert_eq!(here, machine.path_info(path), "{}", path.display());
}

/// In one direction: the daemon refuses outputs that refer to each other in a circle.
#[test]
fn outputs_may_refer_to_each_other() {
    let (_lab, b1, head) = pool();
    let drv = Drv::new("library")
        .outputs(&["out", "dev", "doc"])
        .script("mkdir $out $dev; echo $dev >$out/needs; echo $doc $dev >$dev/config; echo plain >$doc");
    let user = Drv::new("user").input_output("dev", &drv, "dev").script("cat $dev/config >$out");
    let result = head.build(&[&drv, &user]).succeeded();

    let [out, dev, doc] = ["out", "dev", "doc"].map(|id| result.output_of("library", id));
    for output in [out, dev, doc, result.output("user")] {
        assert_same_item(&head, &b1, output);
    }
    let references = |path| head.path_info(path).unwrap().references;
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    assert_eq!(references(out), [text(dev)]);
    let mut both = [text(dev), text(doc)];
    both.sort();
    assert_eq!(references(dev), both);
    assert!(references(doc).is_empty());
    head.verify_store();
}

#[test]
fn only_the_missing_output_is_fetched() {
    let (_lab, b1, head) = pool();
    let drv = Drv::new("two").outputs(&["out", "extra"]).script("echo out >$out; echo extra >$extra");
    let result = head.build(&[&drv]).succeeded();
    let extra = result.output_of("two", "extra").to_str().unwrap().to_owned();
    head.run("guix", &["gc", "-D", &extra]);
    assert!(head.path_info(&extra).is_none());
    head.build(&[&drv]).succeeded();
    assert_same_item(&head, &b1, Path::new(&extra));
    head.verify_store();
}

#[test]
fn fixed_outputs_are_checked_for_their_hash() {
    let (_lab, b1, head) = pool();
    // SHA-256 of "fixed\n", and of the nar of a directory that holds it.
    let flat = Drv::new("flat")
        .fixed_file("sha256", "a4a1ed5a0cd4a7cb6ee1ab0e7d0c3ab0d4a3ad5e7a2bd8b4d7b3b0c0c5b4c3a1")
        .script("echo fixed >$out");
    let result = head.build(&[&flat]);
    // A wrong hash is the builder's failure, and says what was found.
    assert_ne!(result.status, Some(0));
    assert!(head.path_info(result.output("flat")).is_none());

    let hex = sha256_hex(b"fixed\n");
    let right = Drv::new("right").fixed_file("sha256", &hex).script("echo fixed >$out");
    let user = Drv::new("user").input(&right).script("cat $right >$out");
    let result = head.build(&[&user, &right]).succeeded();
    for name in ["right", "user"] {
        assert_same_item(&head, &b1, result.output(name));
        assert_eq!(head.read(result.output(name)), b"fixed\n");
    }
    head.verify_store();
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_kind_of_file_arrives_unchanged() {
    let (_lab, b1, head) = pool();
    let drv = Drv::new("shapes").script(
        "mkdir -p $out/empty-directory \"$out/a b\" $out/deep/er/est; cd $out
         touch empty-file; echo x >plain; printf '#!/bin/sh\\n' >executable; chmod 755 executable
         ln -s plain link; ln -s /nowhere/at/all dangling; ln -s .. up
         echo space >\"a b/c d\"; printf 'n\\303\\244me' >\"$(printf 'n\\303\\244me')\"; echo raw >\"$(printf 'raw\\377')\"
         echo deep >deep/er/est/file; echo $out >self",
    );
    let result = head.build(&[&drv]).succeeded();
    let output = result.output("shapes");
    assert_same_item(&head, &b1, output);
    assert_eq!(head.path_info(output).unwrap().references, [output.to_str().unwrap()]);

    let path = |name: &[u8]| head.path(output).join(OsStr::from_bytes(name));
    assert_eq!(std::fs::read(path(b"raw\xff")).unwrap(), b"raw\n");
    assert_eq!(std::fs::read(path("näme".as_bytes())).unwrap(), "näme".as_bytes());
    assert_eq!(std::fs::read(path(b"a b/c d")).unwrap(), b"space\n");
    assert_eq!(std::fs::read_link(path(b"dangling")).unwrap(), Path::new("/nowhere/at/all"));
    for (name, mode) in [(&b"executable"[..], 0o555), (b"plain", 0o444), (b"empty-directory", 0o555), (b"", 0o555)] {
        let metadata = std::fs::metadata(path(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name:?}");
        assert_eq!(metadata.mtime(), 1, "{name:?}");
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
    }
    head.verify_store();
}

#[test]
fn large_and_many_files_arrive_unchanged() {
    let (_lab, b1, head) = pool();
    let large = Drv::new("large").script("dd if=/dev/urandom of=$out bs=1048576 count=200 2>/dev/null");
    let many = Drv::new("many").script(
        "mkdir $out; cd $out; i=0; while test $i -lt 200; do mkdir $i; j=0; while test $j -lt 100; do echo $i $j >$i/$j; \
         j=$((j+1)); done; i=$((i+1)); done",
    );
    // The output becomes the input of another build on another machine.
    let user = Drv::new("user").input(&large).input(&many).script("wc -c <$large >$out; ls -R $many | wc -l >>$out");
    let result = head.build(&[&large, &many, &user]).succeeded();
    for output in result.outputs() {
        assert_same_item(&head, &b1, output);
    }
    assert_eq!(std::fs::metadata(head.path(result.output("large"))).unwrap().len(), 200 << 20);
    assert!(String::from_utf8(head.read(result.output("user"))).unwrap().starts_with("209715200\n"));
    head.verify_store();
}

/// Over a long link the question and answer of an import are left to a program on the other side, where there is one.
#[test]
fn an_input_arrives_over_a_link_with_latency() {
    let lab = Lab::new();
    let near = lab.build_machine("near").start();
    let bare = lab.build_machine("bare").sshd_option("ForceCommand /bin/false").start();
    let (far, far_bare) = (lab.proxy("far", near.ssh_address()), lab.proxy("far-bare", bare.ssh_address()));
    for proxy in [&far, &far_bare] {
        proxy.delay(Duration::from_millis(10));
    }
    let head = lab.head().env("OFFLOAD_LOG", "offload::timing=debug").start();
    for (machine, proxy, way) in [(&near, &far, "stream"), (&bare, &far_bare, "send")] {
        head.write_machines(&[machine.entry().via(proxy)]);
        let input = Drv::new("input").script("dd if=/dev/urandom of=$out bs=1048576 count=2 2>/dev/null");
        let made = head.client().no_offload().max_jobs(1).build(&[&input]).succeeded();
        let user = Drv::new(&format!("user-{way}")).input(&input).script("sha256sum <$input >$out");
        let result = head.build(&[&user]).succeeded();
        assert_eq!(machine.built(), [user.name()]);
        assert!(result.log.contains(&format!("{way}: ")), "{}", result.log);
        assert_same_item(&head, machine, made.output("input"));
    }
    head.verify_store();
}

/// 800 directories in each other, as deep as guix-daemon can handle: it works with whole paths, of which the kernel takes
/// 4095 bytes.
#[test]
fn the_deepest_tree_that_guix_daemon_builds_arrives() {
    let lab = Lab::new();
    let [b1, b2] = [("b1", Release::Sid), ("b2", Release::Bullseye)]
        .map(|(name, release)| lab.build_machine(name).release(release).start());
    let head = lab.head().start();
    let deep =
        Drv::new("deep").script("p=$out; while [ ${#p} -lt 4085 ]; do p=$p/deep; done; mkdir -p $p; echo end >$p/file");
    head.write_machines(&[b1.entry()]);
    let result = head.build(&[&deep]).succeeded();
    assert_same_item(&head, &b1, result.output("deep"));

    // And there, as an input, from this store.
    head.write_machines(&[b2.entry()]);
    let user =
        Drv::new("user").input(&deep).script("p=$deep; while [ -d $p/deep ]; do p=$p/deep; done; cat $p/file >$out");
    let result = head.build(&[&user]).succeeded();
    assert_eq!(head.read(result.output("user")), b"end\n");
    assert_same_item(&head, &b2, result.output("deep"));
    for host in [&head, &b1, &b2] {
        host.verify_store();
    }
}
