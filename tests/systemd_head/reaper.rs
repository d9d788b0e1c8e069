//! The timer's `offload reap` has the environment of the daemon, also that of a drop-in, and the daemon's user.

use offload::internals::machine::Machine;
use offload::internals::state::{Phase, PowerRecord, StateDirectory, health};

use crate::site::{Site, succeed};

const DROP_IN: &str = "/etc/systemd/system/guix-daemon.service.d/zz-machines.conf";
const VARIABLES: &str = "/etc/cloud.env";
const MACHINE_FILE: &str = "/etc/machines-of-a-drop-in.lua";

pub fn of_the_timer(site: &Site) {
    let (head, user) = (&site.head, site.daemon_user());
    let reaped = format!("/var/tmp/reaped-by-{user}");
    // Without a record, the command reads no machine file.
    site.systemctl(&["start", "offload-reap.service"]);
    let assignments = format!("Environment=\"OFFLOAD_MACHINE_FILE={MACHINE_FILE}\"\nEnvironmentFile={VARIABLES}\n");
    head.write(DROP_IN, format!("[Service]\n{assignments}"));
    head.write(VARIABLES, "CLOUD_TOKEN=secret\n");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u";
    // A program may need any variable of the daemon.
    let stop = format!("test \"$CLOUD_TOKEN\" = secret && id -un >{reaped}");
    head.write(
        MACHINE_FILE,
        format!(
            "return {{ build_machine {{ name = '127.0.0.1', port = 9, user = 'x', systems = {{ 'x86_64-linux' }}, \
             host_key = '{key}', on_demand = {{ start = {{ 'true' }}, stop = {{ '/bin/sh', '-c', [[{stop}]] }}, idle = 0 }} }} }}"
        ),
    );
    let mut machine = Machine::new("127.0.0.1", "x", Vec::new(), Vec::new());
    machine.port = 9;
    let record = PowerRecord::of(&StateDirectory::new(head.path("/var/guix/offload")), &machine).unwrap();
    let long_ago = health::now() - 3_600_000;
    record
        .change(|power| {
            power.starting(long_ago);
            power.running(long_ago);
        })
        .unwrap();
    site.systemctl(&["start", "offload-reap.service"]);
    assert_eq!(record.read().phase, Phase::Off);
    assert_eq!(String::from_utf8(head.read(&reaped)).unwrap().trim(), user);
    succeed(head, &format!("rm {DROP_IN} {VARIABLES} {MACHINE_FILE} {reaped}; rm -r /var/guix/offload/127.0.0.1:9"));
}
