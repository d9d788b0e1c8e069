//! The messages to the client of a build: the machine, the progress of transfers, the commands to inspect a failure. None
//! appears twice.

mod lab;

use lab::{Drv, Lab};

/// The lines of the hook, which are all prefixed.
fn lines(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains("offload"))
        .inspect(|line| assert!(line.starts_with("offload: "), "{line}"))
        .collect()
}

#[test]
fn a_failed_build_names_the_machine_and_the_commands_to_inspect_it() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);
    let result = head.build(&[&Drv::new("fails").script("echo complaint; exit 3")]);
    assert_eq!(result.status, Some(100), "{}", result.log);
    let derivation = result.derivation("fails").display().to_string();
    println!("{}", result.log);
    let first = format!("offload: building '{derivation}' on 'b1'");
    let at = |line: &str| {
        result.log.lines().position(|found| found == line).unwrap_or_else(|| panic!("{line}:\n{}", result.log))
    };
    assert!(at(&first) < at("complaint"), "{}", result.log);

    let ssh = "ssh -p 2022 -i /etc/guix/keys/ed25519 root@b1 ";
    let command = |what: &str| {
        let line = result.log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{}", result.log));
        assert!(line.starts_with("offload: error:   "), "{line}");
        line.split_once(ssh).unwrap_or_else(|| panic!("{line}")).1.to_owned()
    };
    assert_eq!(b1.run("sh", &["-c", &command("its log: ")]), "complaint\n");
    let again = b1.command("sh").args(["-c", &command("to keep its directory in /tmp there: ")]).output().unwrap();
    assert!(!again.status.success());
    assert!(
        b1.path("/tmp")
            .read_dir()
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with("guix-build-fails.drv") })
    );
    // Also on the head, in the file that `guix build --log-file` names.
    let log = head.build_log(&derivation);
    assert!(log.starts_with(&format!("{first}\ncomplaint\n")), "{log}");
}

/// The link is so slow that the daemon's silence timer would run out.
#[test]
fn long_transfers_report_progress() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let slow = lab.proxy("slow", b1.ssh_address());
    let head = lab.head().start();
    head.write_machines(&[b1.entry().via(&slow)]);
    head.write("/tmp/noise", noise(5 << 20));
    let drv = Drv::new("copy").file("noise", "/tmp/noise").script("cat $noise $noise >$out");
    slow.throttle(Some(1 << 20));
    let result = head.client().max_silent_time(4).build(&[&drv]).succeeded();
    println!("{}", result.log);
    let about = |start: &str| lines(&result.log).into_iter().filter(|line| line.starts_with(start)).count();
    // One for two seconds, and one at the end.
    let most = 2 + result.elapsed.as_secs() as usize / 2;
    assert!((2..=most).contains(&about("offload: sent ")), "{}", result.log);
    assert!((2..=most).contains(&about("offload: retrieved ")), "{}", result.log);
    let last = result.log.lines().find(|line| line.starts_with("offload: sent ") && line.contains(" in ")).unwrap();
    assert!(last.contains(" to 'slow' in ") && last.ends_with("/s)"), "{last}");
}

fn noise(length: usize) -> Vec<u8> {
    use std::io::Read;
    let mut noise = vec![0; length];
    std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut noise)).unwrap();
    noise
}

#[test]
fn many_requests_make_few_lines() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().max_jobs(4).start();
    head.write_machines(&[b1.entry()]);
    // The common inputs are sent first, so that no build waits for another one to send them.
    head.build(&[&Drv::new("first")]).succeeded();
    let foreign: Vec<Drv> =
        (0..8).map(|i| Drv::new(&format!("foreign{i}")).features(&["quantum"]).script("echo >$out")).collect();
    let result = head.build(&foreign.iter().collect::<Vec<_>>()).succeeded();
    assert_eq!(lines(&result.log).len(), 2, "{}", result.log);
    assert_eq!(b1.built(), ["first"]);

    // One line for each build that is offloaded, in its log.
    let own: Vec<Drv> = (0..4).map(|i| Drv::new(&format!("own{i}")).script("echo >$out")).collect();
    let result = head.build(&own.iter().collect::<Vec<_>>()).succeeded();
    // A busy machine also causes lines about long waits.
    let is_transfer = |line: &&str| line.starts_with("offload: sent ") || line.starts_with("offload: retrieved ");
    let count = lines(&result.log).iter().filter(|line| !is_transfer(line)).count();
    assert_eq!((b1.built().len(), count), (5, 4), "{}", result.log);
}
