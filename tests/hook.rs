//! The hook as a black box: the program itself, spoken to as guix-daemon speaks to it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const DRV: &str = "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv";
const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPT8ND6KrrZZekAhAq/sAPtog9kbTgoklanLOTp4rVZ6";

/// A head of its own: directories for configuration and state.
struct Head(tempfile::TempDir);

impl Head {
    fn new() -> Head {
        let head = Head(tempfile::tempdir().unwrap());
        fs::create_dir(head.0.path().join("etc")).unwrap();
        head
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn machine_file(&self, text: &str) {
        fs::write(self.path().join("etc/machines.lua"), text).unwrap();
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("GUIX_CONFIGURATION_DIRECTORY", self.path().join("etc"))
            .env("GUIX_STATE_DIRECTORY", self.path().join("var"))
            .current_dir("/");
        command
    }

    /// Runs the hook with `arguments` and gives it `input`.
    fn hook(&self, arguments: &[&str], input: &str) -> Output {
        run(self.command(Path::new(env!("CARGO_BIN_EXE_offload"))).args(arguments), input)
    }
}

fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A hook that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const ARGUMENTS: [&str; 4] = ["x86_64-linux", "3600", "true", "86400"];

/// In a container whose processes belong to a session outside it, as some services for integration start them.
#[test]
fn a_session_that_is_led_from_outside_the_pid_name_space_does_not_matter() {
    let head = Head::new();
    let mut command = head.command(Path::new("unshare"));
    command.args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_offload")]).args(ARGUMENTS);
    let output = run(command.env("PATH", "/usr/bin:/bin"), &format!("0 x86_64-linux {DRV} \n"));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("# decline\n".into(), String::new()));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn without_a_machine_file_all_builds_are_declined_silently() {
    let head = Head::new();
    let request = format!("1 x86_64-linux {DRV} \n0 armhf-linux {DRV} kvm\n");
    for arguments in [&ARGUMENTS[..], &["offload", "x86_64-linux", "0", "0", "0"]] {
        let output = head.hook(arguments, &request);
        assert_eq!(text(&output.stdout), "# decline\n# decline\n");
        assert_eq!(text(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn a_machine_that_does_not_match_is_named_once() {
    let head = Head::new();
    head.machine_file(&format!(
        "return {{ build_machine {{ name = 'b1', user = 'u', systems = {{ 'x86_64-linux' }}, host_key = '{HOST_KEY}' }} }}"
    ));
    let request = format!("1 armhf-linux {DRV} \n").repeat(3);
    let output = head.hook(&ARGUMENTS, &request);
    assert_eq!(text(&output.stdout), "# decline\n".repeat(3));
    let said = text(&output.stderr);
    assert_eq!(said.matches("b1: it does not build for armhf-linux, only for x86_64-linux").count(), 1, "{said}");
    assert!(said.lines().all(|line| line.starts_with("offload: ")), "{said}");
}

#[test]
fn a_broken_machine_file_is_reported_and_has_no_machines() {
    let head = Head::new();
    head.machine_file("return { build_machine { name = 'b1', usr = 'u' } }");
    let output = head.hook(&ARGUMENTS, &format!("1 x86_64-linux {DRV} \n").repeat(2));
    assert_eq!(text(&output.stdout), "# decline\n# decline\n");
    let said = text(&output.stderr);
    assert_eq!(said.matches("usr").count(), said.lines().filter(|line| line.contains("usr")).count());
    assert!(said.contains("machines.lua:1:"), "{said}");
    assert!(said.contains("did you mean 'user'"), "{said}");
}

#[test]
fn output_of_the_machine_file_is_not_a_reply() {
    let head = Head::new();
    head.machine_file("print('# accept') io.write('# accept\\n') io.stderr:write('# postpone\\n') return {}");
    let output = head.hook(&ARGUMENTS, &format!("1 x86_64-linux {DRV} \n"));
    assert_eq!(text(&output.stdout), "# decline\n");
    let said = text(&output.stderr);
    assert!(said.contains("offload: # accept\n"), "{said}");
    assert!(said.lines().all(|line| line.starts_with("offload: ")), "{said}");
}

#[test]
fn invalid_requests_and_arguments_end_with_status_1() {
    let head = Head::new();
    for line in ["rubbish\n", "1 x86_64-linux /gnu/store/.. \n", "1 x86_64-linux"] {
        let output = head.hook(&ARGUMENTS, line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(text(&output.stdout), "");
        assert!(text(&output.stderr).contains("invalid request line"), "{}", text(&output.stderr));
    }
    let output = head.hook(&["x86_64-linux", "soon", "1", "0"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("MAX-SILENT-TIME: expected a number of seconds, found 'soon'"));
}

/// A directory with a link `guix` to the program, and one with a script instead of the real `guix`.
fn wrapper_and_real_guix(head: &Head) -> (std::path::PathBuf, std::path::PathBuf) {
    let (link, real) = (head.path().join("link"), head.path().join("real"));
    fs::create_dir(&link).unwrap();
    fs::create_dir(&real).unwrap();
    symlink(env!("CARGO_BIN_EXE_offload"), link.join("guix")).unwrap();
    fs::write(real.join("guix"), "#!/bin/sh\necho \"$0 $*\"; cat; echo err >&2; exit 7\n").unwrap();
    fs::set_permissions(real.join("guix"), fs::Permissions::from_mode(0o755)).unwrap();
    (link, real)
}

#[test]
fn under_the_name_guix_only_offload_is_handled() {
    let head = Head::new();
    let (link, real) = wrapper_and_real_guix(&head);
    let path = std::env::join_paths([&link, &real, Path::new("/bin")]).unwrap();
    let guix = link.join("guix");

    let output = run(head.command(&guix).env("PATH", &path).arg("offload").args(ARGUMENTS), "");
    assert_eq!((output.status.code(), text(&output.stdout), text(&output.stderr)), (Some(0), "".into(), "".into()));

    let output = run(head.command(&guix).env("PATH", &path).args(["authenticate", "x y"]), "input");
    assert_eq!(text(&output.stdout), format!("{}/guix authenticate x y\ninput", real.display()));
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(7), "err\n".into()));

    let named = head.path().join("named");
    fs::copy(real.join("guix"), &named).unwrap();
    let output = run(head.command(&guix).env("OFFLOAD_GUIX", &named).env("PATH", "/bin").arg("gc"), "");
    assert_eq!(text(&output.stdout), format!("{} gc\n", named.display()));
}

#[test]
fn the_wrapper_never_runs_itself() {
    let head = Head::new();
    let (link, real) = wrapper_and_real_guix(&head);
    let guix = link.join("guix");

    let output = run(head.command(&guix).env("OFFLOAD_GUIX", &guix).arg("gc"), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("which is offload itself"), "{}", text(&output.stderr));

    // A wrapper that runs this program again.
    fs::write(real.join("guix"), format!("#!/bin/sh\nexec {} \"$@\"\n", guix.display())).unwrap();
    let output =
        run(head.command(&guix).env("PATH", std::env::join_paths([&real, Path::new("/bin")]).unwrap()).arg("gc"), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("runs offload again"), "{}", text(&output.stderr));
}
