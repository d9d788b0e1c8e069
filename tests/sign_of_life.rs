//! A request is accepted only after a machine has responded for this request. A pool that dies between two builds costs
//! neither a failed build nor a long wait.

mod lab;

use std::time::{Duration, Instant};

use lab::{Drv, Host, LONG, Lab, Proxy};

/// A head that may build, and two machines behind proxies that have just built something each.
struct Pool {
    _lab: Lab,
    machines: [Host; 2],
    proxies: [Proxy; 2],
    head: Host,
}

fn quick(name: &str) -> Drv {
    Drv::new(name).script("echo built >$out")
}

impl Pool {
    /// `more` are further fields of the machine file.
    fn start(more: &str) -> Pool {
        let lab = Lab::new();
        let machines = ["b1", "b2"].map(|name| lab.build_machine(name).max_jobs(1).start());
        let proxies =
            machines.each_ref().map(|machine| lab.proxy(&format!("way-to-{}", machine.name()), machine.ssh_address()));
        let head = lab.head().max_jobs(2).start();
        let entries = [0, 1].map(|number| {
            // A wait for one of these times, or for a slot, would take longer than the test has.
            let entry = machines[number].entry().via(&proxies[number]).set("overload_threshold", false);
            entry.set("connect_timeout", 300).set("stall_timeout", 300).lua()
        });
        head.write_machine_file(&format!("return {{\n{},\n{more} }}\n", entries.join(",\n")));
        let pool = Pool { _lab: lab, machines, proxies, head };
        for name in ["before-1", "before-2"] {
            pool.head.client().max_jobs(0).build(&[&quick(name)]).succeeded();
        }
        assert_eq!(pool.head.built(), Vec::<String>::new());
        pool
    }

    /// Builds something that the daemon may build itself, and returns the log.
    fn build(&self, name: &str) -> String {
        let start = Instant::now();
        let log = self.head.build(&[&quick(name)]).succeeded().log;
        println!("{name}: {:.2} s", start.elapsed().as_secs_f64());
        assert!(start.elapsed() < LONG, "{:?}: {log}", start.elapsed());
        assert!(!log.contains("busy"), "{log}");
        log
    }
}

#[test]
fn the_head_builds_if_the_ssh_servers_of_all_machines_have_ended() {
    let pool = Pool::start("");
    pool.machines.iter().for_each(Host::stop_sshd);
    pool.proxies.iter().for_each(Proxy::refuse);
    pool.build("without-sshd");
    pool.build("again");
    assert_eq!(pool.head.built(), ["without-sshd", "again"]);
}

#[test]
fn the_head_builds_if_all_machines_were_powered_off() {
    let pool = Pool::start("");
    // No packet comes back, and no connection ends.
    for proxy in &pool.proxies {
        proxy.freeze();
        proxy.say_nothing();
    }
    pool.build("without-power");
    pool.build("again");
    assert_eq!(pool.head.built(), ["without-power", "again"]);
}

#[test]
fn the_head_builds_if_the_daemons_of_all_machines_have_ended() {
    let pool = Pool::start("");
    pool.machines.iter().for_each(Host::stop_daemon);
    pool.build("without-daemon");
    assert_eq!(pool.head.built(), ["without-daemon"]);
    // Frozen instead: the socket is there, and nobody responds.
    pool.machines.iter().for_each(Host::start_daemon);
    pool.head.forget_health();
    pool.head.client().max_jobs(0).build(&[&quick("between")]).succeeded();
    pool.machines.iter().for_each(Host::freeze_daemon);
    pool.build("with-frozen-daemons");
    assert_eq!(pool.head.built(), ["without-daemon", "with-frozen-daemons"]);
    pool.machines.iter().for_each(Host::thaw);
}

/// The other machine takes the build, although the record of the dead one is fresh and better.
#[test]
fn a_machine_that_responds_is_used_instead_of_one_that_does_not() {
    let pool = Pool::start("");
    for proxy in &pool.proxies {
        pool.head.mark_healthy(proxy.name());
    }
    pool.proxies[0].freeze();
    pool.proxies[0].say_nothing();
    let log = pool.build("on-the-other");
    assert!(pool.machines[1].built().contains(&"on-the-other".to_owned()), "{log}");
    assert!(!log.contains("could not be built"), "{log}");
}

/// A build that the head may not do waits for `wait_for_machine`, and says what for.
#[test]
fn an_accepted_build_waits_for_a_machine_and_not_for_a_slot() {
    let pool = Pool::start("wait_for_machine = 3, wait_for_slot = 600,");
    let started = pool.head.client().max_jobs(1).build(&[&quick("here")]).succeeded();
    drop(started);
    // Both machines fail after the reply: the queue was joined while they were busy.
    let blocking: Vec<_> = ["busy-1", "busy-2"]
        .map(|name| {
            let drv =
                Drv::new(name).script("echo begun; while ! test -e /var/lab/finish; do sleep 0.1; done; echo >$out");
            let mut build = pool.head.client().max_jobs(0).start(&[&drv]);
            build.wait_for_log("begun");
            build
        })
        .into_iter()
        .collect();
    let mut waiting = pool.head.client().max_jobs(0).start(&[&quick("waiting")]);
    waiting.wait_for_log("waits for a build slot");
    pool.machines.iter().for_each(Host::power_off);
    let start = Instant::now();
    let result = waiting.wait();
    println!("gave up after {:.2} s", start.elapsed().as_secs_f64());
    assert_eq!(result.status, Some(1), "{}\n{}", result.error, result.log);
    assert!(start.elapsed() < Duration::from_secs(300));
    assert!(result.log.contains("no machine could be reached for 3 s"), "{}", result.log);
    assert!(result.log.contains("no matching machine can be reached; "), "{}", result.log);
    assert_eq!(result.log.matches("busy").count(), 1 + result.log.matches("busy-").count(), "{}", result.log);
    for build in blocking {
        assert_eq!(build.wait().status, Some(1));
    }
}
