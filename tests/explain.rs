//! `offload explain` on a real pool: for a derivation, with machines that are busy, down, drained or asked.

mod lab;

use lab::{Drv, Host, Lab};
use rustix::process::Signal;

fn explain(head: &Host, arguments: &[&str]) -> String {
    let output = head.command("/opt/offload/offload").arg("explain").args(arguments).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    said.into_owned()
}

#[test]
fn explain_prints_the_records_of_each_machine() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").max_jobs(1).start();
    let b2 = lab.build_machine("b2").start();
    let b3 = lab.build_machine("b3").start();
    let head = lab.head().start();
    let full = 1e18;
    head.write_machine_file(&format!(
        "return {{ {}, {}, {}, accepts = function(request, machine)
           if request:read_derivation().env.never then return false, 'never, it says' end
         end }}",
        b1.entry().set("speed", 2.0).set("features", ["slow"]).lua(),
        b2.entry().set("minimum_disk_space", full).lua(),
        b3.entry().lua(),
    ));

    // b1 is busy with an endless build.
    let endless = Drv::new("endless").features(&["slow"]).script("echo running; sleep 1000");
    let mut build = head.client().start(&[&endless]);
    build.wait_for_log("running\n");
    b3.stop_sshd();

    // Not asked: nothing is known of b2 and b3.
    let derivation = {
        let failed = head.client().no_offload().build(&[&Drv::new("explained")]);
        failed.derivation("explained").to_str().unwrap().to_owned()
    };
    let said = explain(&head, &[&derivation]);
    assert!(said.contains("all its slots are taken\n    a slot is held by process"), "{said}");
    assert!(said.contains("-endless.drv"), "{said}");
    assert!(said.contains("b2:2022  score 1.000  not checked recently; checked before use"), "{said}");

    // Asked: b2 has no room, b3 does not answer.
    let said = explain(&head, &[&derivation, "--probe"]);
    assert!(said.contains("its store is nearly full"), "{said}");
    assert!(said.contains("connection refused"), "{said}");
    assert!(said.contains("    1 failure "), "{said}");
    // It would wait for the slot of b1.
    assert!(said.ends_with("→ waits for a slot\n"), "{said}");

    // A rule that reads the derivation.
    let failed = head.client().no_offload().build(&[&Drv::new("refused").env("never", "1")]);
    let derivation = failed.derivation("refused").to_str().unwrap().to_owned();
    let output = head.command("/opt/offload/offload").args(["explain", &derivation]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("never, it says").count(), 3, "{said}");
    assert!(said.ends_with("→ built on this machine: no build machine matches\n"), "{said}");
    assert_eq!(output.status.code(), Some(5));

    // A plan: derivations, an output, and a list among other text; each once.
    let known = head.client().no_offload().max_jobs(1).build(&[&Drv::new("known").script("echo >$out")]).succeeded();
    let (path, output) = (known.derivation("known").to_str().unwrap(), known.output("known").to_str().unwrap());
    let list = format!("The following would be built:\n   {derivation}\n{path}\n");
    head.write("/tmp/list", &list);
    let shell = format!("/opt/offload/offload explain {output} - <'/tmp/list'");
    let output = head.command("sh").args(["-c", &shell]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!(
        "{path}  → waits for a slot\n{derivation}  → built on this machine: no build machine matches\n2 builds: 1 on this \
         machine, 1 waiting\n"
    );
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(5));
    let shell = shell.replace("explain", "explain --format=recutils");
    let records = String::from_utf8(head.command("sh").args(["-c", &shell]).output().unwrap().stdout).unwrap();
    let select = |arguments: &[&str]| lab::recsel(&records, arguments);
    assert_eq!(
        select(&["-t", "Build", "-e", "Reply = 'decline'", "-P", "RequestDerivation,Number"]),
        format!("{derivation}\n2\n")
    );
    assert_eq!(select(&["-t", "Candidate", "-e", "Build = 1 && FailuresCount > 0", "-P", "Name"]), "b3\n");
    let holder = select(&["-t", "Candidate", "-e", "Build = 2 && Name = 'b1'", "-P", "Holder"]);
    assert!(holder.trim_end().ends_with("-endless.drv"), "{holder}");
    build.interrupt(Signal::KILL);

    // What the daemon builds here after a decline.
    head.write_machine_file(&format!(
        "return {{ {}, when_busy = 'local' }}",
        b2.entry().set("minimum_disk_space", full).lua()
    ));
    let here = Drv::new("here").script("echo running; until test -e /var/lab/go; do sleep 0.1; done; echo >$out");
    let mut build = head.client().max_jobs(1).start(&[&here]);
    build.wait_for_log("running\n");
    let status = head.command("/opt/offload/offload").args(["status", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let local = json["local_builds"].as_array().unwrap();
    assert!(local.len() == 1 && local[0]["derivation"].as_str().unwrap().ends_with("-here.drv"), "{json}");
    assert!(local[0]["reason"].as_str().unwrap().contains("its store is nearly full"), "{json}");
    let records = head.command("/opt/offload/offload").args(["status", "--format=recutils"]).output().unwrap();
    let records = String::from_utf8(records.stdout).unwrap();
    let reason = lab::recsel(&records, &["-t", "LocalBuild", "-e", "Derivation ~ 'here.drv$'", "-P", "Reason"]);
    assert!(reason.contains("its store is nearly full"), "{records}");
    head.write("/var/lab/go", "");
    build.wait().succeeded();
    let status = head.command("/opt/offload/offload").args(["status", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(json["local_builds"].as_array().unwrap().len(), 0, "{json}");
}
