//! Several heads share one pool, through a real PostgreSQL server (`tests/lab/postgres.rs`): slots, turns, and what
//! happens when the database fails. `OFFLOAD_CAMPAIGN=1` makes it 200 builds instead of 40.

mod lab;

use std::fs;

use lab::{Drv, Entry, Host, LONG, Lab, PASSWORD, Postgres, derivations, max_concurrency, wait_until};

const PASSWORD_FILE: &str = "/etc/guix/pool-password";

/// The field `shared` of a machine file.
fn shared(postgres: &Postgres, when_down: &str) -> String {
    let url = postgres.url();
    format!(
        r#"shared = {{ url = "{url}", name = "farm", password_file = "{PASSWORD_FILE}", when_down = "{when_down}" }}"#
    )
}

fn set_up(head: &Host, machines: &[Entry], shared: &str) {
    head.write(PASSWORD_FILE, format!("{PASSWORD}\n"));
    let entries: String = machines.iter().map(|entry| entry.lua() + ",\n").collect();
    head.write_machine_file(&format!("return {{\n{entries}{shared},\n}}\n"));
}

fn entry(machine: &Host) -> Entry {
    machine.entry().set("overload_threshold", false).set("parallel_builds", 2.0)
}

fn offload(head: &Host, arguments: &[&str]) -> String {
    let output = head.command("/opt/offload/offload").args(arguments).output().unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "offload {arguments:?}: {said}");
    said
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Builds that end after the others of their kind have started, or soon.
fn batch(name: &str, count: usize, seconds: &str) -> Vec<Drv> {
    (0..count)
        .map(|number| Drv::new(&format!("{name}-{number}")).script(&format!("sleep {seconds}; echo {name} >$out")))
        .collect()
}

/// The largest number of advisory locks of one host at the same time, as seen in `pg_locks` until this is dropped.
const LOCKS: &str = "select coalesce(max(n), 0) from (select count(*) n from pg_locks where locktype = 'advisory' \
    and objsubid = 2 group by classid) as hosts";

/// The number of builds that wait, as heads announce them.
const VALID_WAITS: &str = "select count(*) from offload.waiting where renewed > now() - interval '5 seconds'";

#[test]
fn two_heads_never_run_more_builds_than_a_machine_has_slots_and_take_turns() {
    let count = if std::env::var_os("OFFLOAD_CAMPAIGN").is_some() { 200 } else { 40 };
    let postgres = Postgres::start();
    let lab = Lab::new();
    let machines = ["b1", "b2"].map(|name| lab.build_machine(name).start());
    let heads = ["head", "other"].map(|name| lab.head().name(name).start());
    for head in &heads {
        set_up(head, &machines.each_ref().map(entry), &shared(&postgres, "share"));
        machines.iter().for_each(|machine| head.mark_healthy(machine.name()));
    }
    assert!(offload(&heads[0], &["shared", "init"]).contains("is set up (version 1)"));
    assert!(offload(&heads[1], &["shared", "init"]).contains("was set up already"));

    // One head has far more builds than there are slots.
    let flood = batch("flood", count - 4, "0.8");
    let flooding = heads[0].client().max_jobs(100).start(&flood.iter().collect::<Vec<_>>());
    let mut locks = 0;
    let mut observe = || {
        let seen: usize = postgres.sql("offload", LOCKS).parse().unwrap();
        locks = locks.max(seen);
        seen
    };
    wait_until("all slots are taken", LONG, || observe() == 2 && machines.iter().all(Host::is_building));
    // A build that waits behind others of its head has no connection.
    let connections = postgres.sql("offload", "select count(*) from pg_stat_activity where usename = 'offload'");
    assert!(connections.parse::<usize>().unwrap() <= 4 + 2 + 1, "{connections} connections for 4 slots");
    let status = offload(&heads[1], &["shared", "status"]);
    assert!(status.contains("flood-") && status.contains("HEAD"), "{status}");
    // The other head has one build at a time, which waits for no more than the next two turns of a machine.
    for (number, single) in batch("single", 4, "0.1").iter().enumerate() {
        let before: usize = machines.iter().map(|machine| machine.builds().len()).sum();
        heads[1].build(&[single]).succeeded();
        let builds = machines.iter().flat_map(Host::builds).collect::<Vec<_>>();
        let own = builds.iter().find(|build| build.name == format!("single-{number}")).unwrap();
        let started_before = builds.iter().filter(|build| build.start < own.start).count();
        assert!(started_before <= before + 6, "{} builds started before it", started_before - before);
        observe();
    }
    flooding.wait().succeeded();
    let builds = machines.iter().flat_map(Host::builds).collect::<Vec<_>>();
    let single = builds.iter().filter(|build| build.name.starts_with("single")).map(|build| build.start);
    let last = single.fold(0.0, f64::max);
    assert!(builds.iter().any(|build| build.start > last), "the builds of the first head had to compete");

    for machine in &machines {
        let most = max_concurrency(&machine.builds());
        assert_eq!(most, 2, "builds ran at the same time on {}", machine.name());
    }
    assert_eq!(locks, 2);
    wait_until("no lock is left", LONG, || postgres.sql("offload", LOCKS) == "0");
    let log = postgres.log();
    assert!(!log.contains("ERROR"), "{log}");
    // Nobody was there for whom a head would have had to say anything.
    for head in &heads {
        assert!(!head.daemon_log().contains("shared pool"), "{}", head.daemon_log());
    }
}

/// The statements of the manual make an account that can use the database.
#[test]
fn the_account_of_the_manual_suffices() {
    let page = fs::read_to_string("doc/manual/several-heads.md").unwrap();
    let block = page.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    let postgres = Postgres::without_database();
    for statement in block.lines().map(str::trim).filter(|line| !line.is_empty()) {
        postgres.sql("postgres", &statement.replace("choose one", PASSWORD));
    }
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], password: &str| {
        let url = postgres.url();
        fs::write(directory.path().join("machines.lua"), format!("return {{ shared = {{ url = \"{url}\" }} }}"))
            .unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_offload"))
            .args(arguments)
            .env("GUIX_CONFIGURATION_DIRECTORY", directory.path())
            .env("GUIX_STATE_DIRECTORY", directory.path().join("state"))
            .env("PGPASSWORD", password)
            .output()
            .unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (status, said) = run(&["shared", "status"], PASSWORD);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("needs version 1: run `offload shared init`"), "{said}");
    assert_eq!(run(&["shared", "init"], PASSWORD).0, Some(0));
    assert!(run(&["shared", "init"], PASSWORD).1.contains("was set up already"));
    // A head that has just been served is behind one that waits.
    let take = |head: &str| {
        format!("select outcome from offload.take('p', 'b1', 7, 1, '{{}}', false, false, '{head}', 'x', null)")
    };
    let (wait, release) =
        ("select offload.wait('p', '{b1}', 'h2', 'x', null)", "select offload.release('p', 'b1', 7, 0)");
    let turns = [&take("h1"), wait, release, &take("h1"), &take("h2")].join("; ");
    let turns = postgres.sql("offload", &turns);
    let turns: Vec<&str> = turns.lines().filter(|line| !["", "[]"].contains(line)).collect();
    assert_eq!(turns, ["slot", "behind", "slot"]);
    // With sslrootcert, only the authorities of that file are trusted, and not those of the system.
    for name in ["server", "other"] {
        let file = |end: &str| directory.path().join(format!("{name}.{end}"));
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "9", "-out"]);
        assert!(openssl.arg(file("crt")).arg("-keyout").arg(file("key")).output().unwrap().status.success());
    }
    postgres.use_tls(&directory.path().join("server.crt"), &directory.path().join("server.key"));
    let verify = |authorities: &str| {
        let url = postgres.url().replace("disable", "verify-ca&sslrootcert=");
        let url = format!("{url}{}", directory.path().join(authorities).display());
        let file = directory.path().join("tls.lua");
        fs::write(&file, format!("return {{ shared = {{ url = \"{url}\" }} }}")).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_offload"))
            .args(["shared", "status", "--machine-file"])
            .arg(file)
            .env("GUIX_STATE_DIRECTORY", directory.path().join("state"))
            .env("PGPASSWORD", PASSWORD)
            .env("SSL_CERT_FILE", directory.path().join("server.crt"))
            .output()
            .unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    assert_eq!(verify("server.crt").0, Some(0), "{}", verify("server.crt").1);
    let (status, said) = verify("other.crt");
    assert!(status == Some(1) && said.contains("certificate verify failed"), "{said}");
    let (status, said) = run(&["shared", "status", "--json"], PASSWORD);
    let json: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((status, &json["name"], &json["pool"]["version"]), (Some(0), &"default".into(), &1.into()));
    assert_eq!((&json["pool"]["is_pooled"], &json["pool"]["holders"]), (&false.into(), &serde_json::json!([])));
    // Each failure says what it is.
    let (status, said) = run(&["shared", "status"], "wrong");
    assert!(status == Some(1) && said.contains("refuses the login"), "{said}");
    postgres.sql("offload", "update offload.version set version = 99");
    let (status, said) = run(&["shared", "init"], PASSWORD);
    assert!(status == Some(1) && said.contains("has version 99") && said.contains("update offload"), "{said}");
    postgres.stop();
    let (status, said) = run(&["shared", "status"], PASSWORD);
    assert!(status == Some(1) && said.contains("cannot be reached"), "{said}");
}

/// Each failure of the database is reported once, and fails no build.
#[test]
fn builds_go_on_whatever_happens_to_the_database() {
    let postgres = Postgres::start();
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    set_up(&head, &[entry(&machine)], &shared(&postgres, "share"));
    head.mark_healthy("b1");
    offload(&head, &["shared", "init"]);
    let record = head.path("/var/guix/offload/shared.json");
    let mut number = 0;
    // Builds two derivations one after the other. The report is about the first one only.
    let mut build_through = |what: &str, report: &str| {
        let _ = fs::remove_file(&record);
        for is_first in [true, false] {
            number += 1;
            let drv = Drv::new(&format!("build-{number}")).script("echo done >$out");
            let log = head.build(&[&drv]).succeeded().log;
            assert_eq!(log.contains(report), is_first, "{what}: {log}");
            assert_eq!(log.contains("1/1 of the slots"), is_first, "{what}: {log}");
        }
    };
    postgres.freeze();
    build_through("frozen", "did not respond within 1 s");
    postgres.thaw();
    postgres.sql("offload", "update offload.version set version = 0");
    build_through("older", "has not been set up");
    postgres.sql("offload", "update offload.version set version = 2");
    build_through("newer", "has version 2, and this offload needs version 1");
    postgres.sql("offload", "update offload.version set version = 1");
    postgres.sql("postgres", "alter role offload password 'another'");
    build_through("password", "refuses the login");
    postgres.sql("postgres", &format!("alter role offload password '{PASSWORD}' connection limit 0"));
    build_through("connections", "has no free connection");
    postgres.sql("postgres", "alter role offload connection limit 50");
    postgres.sql("postgres", "alter database offload set default_transaction_read_only = on");
    build_through("read only", "can only be read");
    postgres.sql("postgres", "alter database offload reset default_transaction_read_only");
    postgres.stop();
    build_through("stopped", "cannot be reached");
    postgres.run();

    // A server that restarts during a build: the build continues, and its slot is taken again.
    let _ = fs::remove_file(&record);
    let waits = Drv::new("waits").script("until test -e /var/lab/go; do sleep 0.1; done; echo done >$out");
    let running = head.client().start(&[&waits]);
    wait_until("the build has a slot", LONG, || machine.is_building() && postgres.sql("offload", LOCKS) == "1");
    postgres.stop();
    postgres.run();
    // After the crash it still knows how many heads there are.
    assert_ne!(postgres.sql("offload", "select count(*) from offload.head"), "0");
    wait_until("the slot is taken again", LONG, || postgres.sql("offload", LOCKS) == "1");
    // A suspended server loses nothing either.
    postgres.freeze();
    postgres.thaw();
    machine.write("/var/lab/go", "");
    running.wait().succeeded();
    wait_until("no lock is left", LONG, || postgres.sql("offload", LOCKS) == "0");
}

/// The slot of a hook that is killed is free at once; that of a head without a network, or suspended, within 25 seconds.
#[test]
fn drains_are_for_all_heads_and_lost_hooks_free_their_slots() {
    let postgres = Postgres::start();
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let heads = ["head", "other"].map(|name| lab.head().name(name).start());
    let drv = |name: &str| Drv::new(name).script("echo done >$out");
    let by_hand = derivations(&heads[0], &[&drv("by-hand")]);
    for head in &heads {
        set_up(head, &[entry(&machine).set("parallel_builds", 1.0)], &shared(&postgres, "share"));
        head.mark_healthy("b1");
    }
    offload(&heads[0], &["shared", "init"]);
    let said = offload(&heads[0], &["test", "--quick", "--verbose"]);
    assert!(said.contains("the database of the pool 'farm' can be used") && said.contains("heads: 1"), "{said}");
    heads[1].build(&[&drv("first")]).succeeded();
    offload(&heads[0], &["drain", "b1"]);
    assert!(offload(&heads[0], &["shared", "status"]).contains("b1:2022"));
    let waiting = heads[1].client().start(&[&drv("second")]);
    let record = heads[1].path("/var/guix/offload/shared.json");
    wait_until("the other head knows", LONG, || fs::read_to_string(&record).unwrap().contains("b1:2022"));
    // A build that may use it does so. The one that may not does not count as waiting for its slots.
    let by_hand = by_hand.derivation("by-hand").to_str().unwrap();
    offload(&heads[0], &["build", by_hand, "--on", "b1", "--ignore-drain"]);
    assert_eq!(machine.built(), ["first", "by-hand"]);
    assert_eq!(postgres.sql("offload", VALID_WAITS), "0");
    let said = offload(&heads[0], &["undrain", "b1"]);
    assert!(said.contains("b1:2022: undrained"), "{said}");
    waiting.wait().succeeded();
    // The head that did not drain it undrains it for all. Without the database, it does so for itself.
    offload(&heads[0], &["drain", "b1"]);
    let undrain = |head: &Host| {
        let output = head.command("/opt/offload/offload").args(["undrain", "b1"]).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (status, said) = undrain(&heads[1]);
    assert!(status == Some(0) && said.contains("b1:2022: undrained"), "{said}");
    postgres.stop();
    let (status, said) = undrain(&heads[0]);
    assert!(status == Some(1) && said.contains("stay drained for all heads") && said.contains("undrained"), "{said}");
    postgres.run();
    assert_eq!(undrain(&heads[0]).0, Some(0));

    let waits = Drv::new("waits").script("until test -e /var/lab/go; do sleep 0.1; done; echo done >$out");
    let running = heads[0].client().start(&[&waits]);
    wait_until("the build has the slot", LONG, || postgres.sql("offload", LOCKS) == "1" && machine.is_building());
    let next = heads[1].client().start(&[&drv("third")]);
    wait_until("the other head waits", LONG, || postgres.sql("offload", VALID_WAITS) == "1");
    // An outage that another process of this head has met is not one for a process with a connection.
    let mut known: serde_json::Value = serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    known["outage"] = serde_json::json!({ "since": now, "retry_at": now + 600_000, "error": "planted" });
    fs::write(&record, known.to_string()).unwrap();
    let renewed = postgres.sql("offload", "select max(renewed) from offload.waiting");
    let again =
        format!("select coalesce(max(renewed) > '{renewed}'::timestamptz + interval '2 s', true) from offload.waiting");
    wait_until("it waits on", LONG, || postgres.sql("offload", &again) == "t" || machine.built().len() > 4);
    assert!(!machine.built().contains(&"third".to_owned()), "{:?}", machine.built());
    heads[0].freeze();
    let start = std::time::Instant::now();
    next.wait().succeeded();
    println!("a suspended head has lost its slot after {:?}", start.elapsed());
    heads[0].thaw();
    machine.write("/var/lab/go", "");
    running.wait().succeeded();
}
