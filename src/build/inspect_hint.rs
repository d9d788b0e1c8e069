//! Hints for inspecting a build that failed on a machine: its log and its build directory there.
//!
//! guix-daemon stores the log of a derivation `HASH-NAME.drv` in `/var/log/guix/drvs/HA/SH-NAME.drv.gz` by default. A
//! client that wants failed builds kept (`--keep-failed`) does not offload them. So the administrator repeats the build
//! on the machine, where its inputs are. `offload build --keep-failed` has the directory kept at once.

use std::path::Path;

use crate::machine::Machine;
use crate::shell::quote;
use crate::store::path::StorePath;

/// Returns the lines that follow the message about the failure. `has_commands` means that the account may run commands
/// on the machine, and `kept` is the build directory that the daemon has kept there.
pub fn inspect_hint(machine: &Machine, derivation: &StorePath, has_commands: bool, kept: Option<&str>) -> String {
    let base = Path::new(derivation.as_str()).file_name().map(|base| base.to_string_lossy().into_owned());
    let base = base.unwrap_or_default();
    let (directory, rest) = base.split_at_checked(2).unwrap_or_default();
    let log = format!("zcat /var/log/guix/drvs/{directory}/{rest}.gz");
    let again = format!("guix build --keep-failed {derivation}");
    let there = if has_commands { ssh(machine) } else { format!("on {}:", machine.name) };
    let directory = match kept {
        Some(kept) => format!("its directory there: {there} ls -lA {}", quote(kept)),
        None => format!("to keep its directory in /tmp there: {there} {again}"),
    };
    format!("\n  its log: {there} {log}\n  {directory}")
}

/// Returns the command that logs in to the machine as `offload` does.
fn ssh(machine: &Machine) -> String {
    let mut command = "ssh".to_owned();
    if machine.port != 22 {
        command += &format!(" -p {}", machine.port);
    }
    if let Some(key) = &machine.private_key {
        command += &format!(" -i {}", quote(&key.to_string_lossy()));
    }
    if let Some(proxy) = &machine.proxy_command {
        let words: Vec<String> = proxy.iter().map(|word| quote(word)).collect();
        command += &format!(" -o {}", quote(&format!("ProxyCommand={}", words.join(" "))));
    }
    format!("{command} {}", quote(&format!("{}@{}", machine.user, machine.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn the_commands_refer_to_the_machine() {
        let store = StoreDir::default();
        let derivation = StorePath::parse(&store, b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv").unwrap();
        let mut machine = Machine::new("b1", "offload", vec!["x86_64-linux".into()], Vec::new());
        let log = "zcat /var/log/guix/drvs/0y/jkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv.gz";
        let text = inspect_hint(&machine, &derivation, true, None);
        assert!(text.starts_with(&format!("\n  its log: ssh offload@b1 {log}\n")), "{text}");
        assert!(text.ends_with(&format!(": ssh offload@b1 guix build --keep-failed {derivation}")), "{text}");
        assert!(inspect_hint(&machine, &derivation, false, None).starts_with(&format!("\n  its log: on b1: {log}\n")));

        machine.user = "o;x".to_owned();
        assert!(inspect_hint(&machine, &derivation, true, None).contains(": ssh 'o;x@b1' zcat"));
        machine.user = "offload".to_owned();
        machine.port = 2022;
        machine.private_key = Some("/etc/guix/a key".into());
        machine.proxy_command = Some(["nc", "-X", "it's", "%h"].map(str::to_owned).to_vec());
        let text = inspect_hint(&machine, &derivation, true, None);
        let expected =
            r#"ssh -p 2022 -i '/etc/guix/a key' -o 'ProxyCommand=nc -X '\''it'\''\'\'''\''s'\'' %h' offload@b1 zcat"#;
        assert!(text.contains(expected), "{text}");

        let kept = inspect_hint(&machine, &derivation, false, Some("/tmp/guix-build-vec.drv-0"));
        assert!(kept.ends_with("\n  its directory there: on b1: ls -lA /tmp/guix-build-vec.drv-0"), "{kept}");
    }
}
