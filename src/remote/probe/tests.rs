use std::process::Command;

use super::*;

/// The output of a Debian machine with Linux 6.12, with output of the login shell around it.
const DEBIAN: &str = "Welcome to build1!
load 9.99 9.99 9.99 1/1 1

offload-probe-begin
load 0.42 1.30 2.05 3/812 40213
uptime 351735.12 1330000.90
pressure cpu some avg10=1.53 avg60=0.87 avg300=0.22 total=88123
pressure memory some avg10=0.00 avg60=0.00 avg300=0.00 total=0
pressure io some avg10=12.50 avg60=3.00 avg300=1.00 total=1234
memory 24012340
cores 16
clock 1767225600
uname Linux build1 6.12.1-amd64 x86_64
store 20315128:4096:16777216:15901221
build 1000:4096:0:0
offload-probe-end
load 8 8 8
";

#[test]
fn complete_output_is_parsed_and_text_around_it_is_skipped() {
    let expected = MachineStatus {
        load1: Some(0.42),
        load5: Some(1.3),
        load15: Some(2.05),
        cores: Some(16),
        pressure_cpu: Some(1.53),
        pressure_memory: Some(0.0),
        pressure_io: Some(12.5),
        free_memory: Some(24012340 * 1024),
        free_disk: Some(20315128 * 4096),
        free_inodes: Some(15901221),
        build_free: Some(1000 * 4096),
        clock: Some(1767225600),
        uptime: Some(351735),
        kernel: Some("Linux 6.12.1-amd64".to_owned()),
        architecture: Some("x86_64".to_owned()),
        host_name: Some("build1".to_owned()),
    };
    assert_eq!(parse(DEBIAN.as_bytes()), expected);
    assert_eq!(parse(DEBIAN.replace('\n', "\r\n").as_bytes()), expected);
}

#[test]
fn a_missing_or_invalid_line_leaves_its_field_unknown() {
    for (line, _) in DEBIAN.match_indices('\n') {
        parse(&DEBIAN.as_bytes()[..line]);
    }
    for lines in [
        "load x y z\nuptime\npressure cpu full avg10=3\npressure disk some avg10=1\nmemory 18446744073709551615\ncores 0\nclock -1",
        "load nan inf -1\ncores 4294967296\nuname Linux\nstore 1:2:3\nbuild 18446744073709551615:2:3:4\nstore-kib a b",
        "cores\nclock \nstore ::::\nuname\n\u{fffd}\n\0",
    ] {
        let output = format!("{BEGIN_MARK}\n{lines}\n{END_MARK}\n");
        assert_eq!(parse(output.as_bytes()), MachineStatus::default(), "{lines}");
    }
    assert_eq!(parse(b""), MachineStatus::default());
    assert_eq!(parse(b"This account is currently not available.\n"), MachineStatus::default());
    assert_eq!(parse(&vec![b'x'; 1 << 20]), MachineStatus::default());
}

#[test]
fn truncated_output_is_parsed_as_far_as_it_goes() {
    let status = parse(format!("{BEGIN_MARK}\ncores 4\nload 0.").as_bytes());
    assert_eq!((status.cores, status.load1), (Some(4), Some(0.0)));
}

#[test]
fn df_replaces_stat() {
    let output = format!(
        "{BEGIN_MARK}\nstore-kib Filesystem 1024-blocks Used Available Capacity Mounted on\n\
         store-kib /dev/my disk 1000 600 400 60% /gnu store\n\
         build-kib tmpfs 10 10 0 100% /tmp\n{END_MARK}\n"
    );
    let status = parse(output.as_bytes());
    assert_eq!((status.free_disk, status.build_free), (Some(400 * 1024), Some(0)));
}

#[test]
fn shells_on_this_machine_understand_the_command() {
    for shell in ["sh", "bash", "dash"] {
        let output = Command::new(shell).arg("-c").arg(command("/")).output().unwrap();
        let status = parse(&output.stdout);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}");
        let [Some(_), Some(_), Some(_)] = [status.load1, status.load5, status.load15] else {
            panic!("{shell}: {status:?}")
        };
        assert!(
            status.cores > Some(0) && status.free_memory > Some(1 << 20) && status.free_disk > Some(1 << 20),
            "{status:?}"
        );
        assert!(status.clock > Some(1_700_000_000) && status.uptime > Some(0), "{status:?}");
        assert!(status.kernel.unwrap().starts_with("Linux ") && status.build_free.is_some());
        assert_eq!(status.architecture.as_deref(), Some(std::env::consts::ARCH));
    }
}

#[test]
fn a_machine_without_proc_and_programs_has_an_unknown_status() {
    // Only the built-in commands of the shell remain.
    let command = command("/gnu/store").replacen("echo;", "PATH=/nonexistent; echo;", 1);
    let command = command.replace("/proc/", "/nonexistent/");
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert_eq!(parse(&output.stdout), MachineStatus::default());
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(&format!("{END_MARK}\n")));
}

#[test]
fn the_command_has_no_character_that_a_login_shell_would_interpret() {
    let command = command("/gnu/store");
    let inside = command.strip_prefix("exec /bin/sh -c '").unwrap().strip_suffix('\'').unwrap();
    assert!(!inside.contains(['\'', '\\', '!', '\n']));
    for store in ["/gnu/store\"; reboot", "/a b", "/$HOME", "/`x`", "gnu", "", "/\u{e9}", "/a'b"] {
        assert!(super::command(store).contains("s store \"\";"), "{store}");
    }
}

/// The texts are written to the record of the host, which has a size limit.
#[test]
fn texts_are_short_and_have_no_control_characters() {
    let wild =
        format!("offload-probe-begin\nuname Linux \u{1b}[2J{0} {0} {0}\noffload-probe-end\n", "x".repeat(20_000));
    let status = parse(wild.as_bytes());
    assert!(status.host_name.as_ref().unwrap().starts_with("\\u{1b}[2Jxxx"), "{status:?}");
    assert!(serde_json::to_vec(&status).unwrap().len() < 4096);
}
