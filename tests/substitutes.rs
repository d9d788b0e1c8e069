//! Inputs that the build machine's daemon fetches from a substitute server, and servers that fail.

mod lab;
#[path = "substitutes/liar.rs"]
mod liar;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lab::{
    BuildResult, Direction, Drv, Entry, Host, HostOptions, LONG, Lab, Proxy, RELEASES, Release, Signal, wait_until,
};
use liar::{Change, Liar};
use offload::internals::daemon::Client;
use offload::internals::machine::Machine;
use offload::internals::state::{LinkSpeed, StateDirectory, ThroughputRecord, health};
use offload::internals::store::path::{StoreDir, StorePath};

const MIB: u64 = 1 << 20;

/// How many outputs the input has, of a mebibyte each.
const COUNT: usize = 8;

/// A head, a build machine whose daemon has a substitute server, and the server. All are reached through proxies.
struct Pool {
    lab: Lab,
    head: Host,
    machine: Host,
    server: Host,
    /// From the head to the machine, and from the machine to the server.
    link: Proxy,
    web: Proxy,
}

impl Pool {
    fn new(release: Release) -> Pool {
        Pool::with(release, |server| server, |machine, web| machine.substitute_server(web.address()))
    }

    fn with(
        release: Release,
        change_server: impl Fn(HostOptions) -> HostOptions,
        change_machine: impl Fn(HostOptions, &Proxy) -> HostOptions,
    ) -> Pool {
        Pool::prepared(release, change_server, change_machine, |_| ())
    }

    /// `prepare` is called before the first build on the machine.
    fn prepared(
        release: Release,
        change_server: impl Fn(HostOptions) -> HostOptions,
        change_machine: impl Fn(HostOptions, &Proxy) -> HostOptions,
        prepare: impl Fn(&Host),
    ) -> Pool {
        let lab = Lab::new();
        let server = change_server(lab.daemon("server", Release::Sid)).start();
        let web = lab.proxy("web", server.publish());
        let machine = change_machine(lab.build_machine("b1").release(release), &web).start();
        prepare(&machine);
        let link = lab.proxy("link", machine.ssh_address());
        let head = lab.head().start();
        let pool = Pool { lab, head, machine, server, link, web };
        pool.write_machine(|entry| entry.set("substitutes", "always").set("minimum_disk_space", 0));
        // The items that all builds share are there before.
        pool.head.build(&[&Drv::new("first")]).succeeded();
        pool
    }

    fn write_machine(&self, change: impl Fn(Entry) -> Entry) {
        self.head.write_machines(&[change(self.machine.entry().via(&self.link))]);
    }

    /// An input that is built on the head; each output refers to the one before.
    fn input(&self, name: &str) -> Input {
        let ids: Vec<String> = (0..COUNT).map(|number| format!("o{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut script = format!("head -c {MIB} /dev/urandom >$o0\n");
        for pair in ids.windows(2) {
            script += &format!("(echo ${}; head -c {MIB} /dev/urandom) >${}\n", pair[0], pair[1]);
        }
        let drv = Drv::new(name).outputs(&ids).script(&script);
        let result = self.head.client().no_offload().max_jobs(1).build(&[&drv]).succeeded();
        let output = |id: &&str| parse(result.output_of(name, id).to_str().unwrap());
        Input { outputs: ids.iter().map(output).collect(), drv }
    }

    /// Copies items to the server.
    fn serve(&self, items: &[StorePath]) {
        let (mut from, mut to) = (connect(&self.head), connect(&self.server));
        let mut bundle = Vec::new();
        for item in items {
            bundle.extend(1u64.to_le_bytes());
            from.export_path(item, true, |reader: &mut dyn Read| io::copy(reader, &mut bundle)).unwrap();
        }
        bundle.extend(0u64.to_le_bytes());
        assert_eq!(to.import_paths(&mut bundle.as_slice()).unwrap(), items);
    }

    /// Builds something that needs all of an input. Returns how many bytes went to the machine, and how long it took.
    fn build_with(&self, name: &str, input: &Input) -> (BuildResult, u64, Duration) {
        let variables: Vec<String> = (0..COUNT).map(|number| format!("o{number}")).collect();
        let script = format!("cat {} | wc -c >$out", variables.iter().map(|id| format!("${id} ")).collect::<String>());
        let drv = variables.iter().fold(Drv::new(name), |drv, id| drv.input_output(id, &input.drv, id));
        let (before, start) = (self.link.passed(Direction::ToTarget), Instant::now());
        let result = self.head.build(&[&drv.script(&script)]).succeeded();
        let text = String::from_utf8(self.head.read(result.output(name))).unwrap();
        assert!(text.trim().parse::<u64>().unwrap() > COUNT as u64 * MIB, "{text}");
        (result, self.link.passed(Direction::ToTarget) - before, start.elapsed())
    }

    /// An input of so many MiB that is built on the head, and that no server has.
    fn sent_input(&self, name: &str, mebibytes: u64) -> Drv {
        let drv = Drv::new(name).script(&format!("head -c {} /dev/urandom >$out", mebibytes * MIB));
        self.head.client().no_offload().max_jobs(1).build(&[&drv]).succeeded();
        drv
    }

    /// Whether a process of the head has the machine fetch something.
    fn is_fetching(&self) -> bool {
        let (name, port) = (self.link.name(), self.link.address().port());
        let slot = self.head.path(format!("/var/guix/offload/{name}:{port}/uploads/fetches/0"));
        !std::process::Command::new("flock").arg("--nonblock").arg(slot).arg("true").status().unwrap().success()
    }

    /// Has the head know how many bytes a second it sends to the machine.
    fn set_upload_rate(&self, rate: f64) {
        let state = StateDirectory::new(self.head.path("/var/guix/offload"));
        let mut machine = Machine::new(self.link.name(), "root", Vec::new(), Vec::new());
        machine.port = self.link.address().port();
        let speed = LinkSpeed { rate, measured: health::now(), data: None };
        let record = ThroughputRecord::of(&state, &machine).unwrap();
        record.change(|throughput| throughput.sending = Some(speed)).unwrap();
    }

    /// Returns whether the machine's daemon has started this program.
    fn has_helper(&self, command: &str) -> bool {
        self.machine.processes().iter().any(|process| process.command.contains(command))
    }

    /// Returns the head's record about the servers of the machine.
    fn record(&self) -> serde_json::Value {
        let file = format!("/var/guix/offload/{}:{}/substitutes.json", self.link.name(), self.link.address().port());
        match std::fs::read(self.head.path(file)) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => serde_json::Value::Null,
        }
    }

    /// Ends the back-off after a failure.
    fn forget_failures(&self) {
        let file = format!("/var/guix/offload/{}:{}/substitutes.json", self.link.name(), self.link.address().port());
        let _ = std::fs::remove_file(self.head.path(file));
    }
}

/// Outputs that builds need.
struct Input {
    drv: Drv,
    outputs: Vec<StorePath>,
}

fn connect(daemon: &Host) -> Client<UnixStream> {
    Client::connect(daemon.connect_to_daemon(), StoreDir::default()).unwrap()
}

fn parse(text: &str) -> StorePath {
    StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap()
}

/// Something that needs half of an input, and another one.
fn user_of_both(input: &Input, other: &Drv) -> Drv {
    let half = format!("o{}", COUNT / 2 - 1);
    Drv::new("user").input_output("data", &input.drv, &half).input(other)
}

/// How many items a build's log says were fetched.
fn fetched(result: &BuildResult) -> Option<usize> {
    let line = result.log.lines().find(|line| line.contains("has fetched"))?;
    line.split_whitespace().find_map(|word| word.parse().ok())
}

#[test]
fn inputs_that_a_server_has_are_fetched_and_the_others_sent_meanwhile() {
    for release in RELEASES {
        let pool = Pool::new(release);
        let whole = pool.input("whole");
        pool.serve(&whole.outputs);
        let (result, sent, _) = pool.build_with("all", &whole);
        assert_eq!(fetched(&result), Some(COUNT), "{}", result.log);
        assert!(sent < MIB / 4, "{sent} bytes were sent");
        assert!(pool.record()["rate"]["rate"].as_f64().unwrap() > 0.0, "{}", pool.record());

        // The second half refers to the first one, which the server has.
        let half = pool.input("half");
        pool.serve(&half.outputs[..COUNT / 2]);
        let (result, sent, _) = pool.build_with("some", &half);
        assert_eq!(fetched(&result), Some(COUNT / 2), "{}", result.log);
        let expected = COUNT as u64 / 2 * MIB;
        assert!((expected..expected + MIB / 2).contains(&sent), "{sent} bytes were sent");

        let none = pool.input("none");
        let (result, sent, _) = pool.build_with("nothing", &none);
        assert_eq!(fetched(&result), None, "{}", result.log);
        assert!(sent > COUNT as u64 * MIB, "{sent} bytes were sent");
        assert!(pool.record()["failures"].is_null(), "{}", pool.record());

        pool.write_machine(|entry| entry.set("substitutes", "never"));
        let whole = pool.input("again");
        pool.serve(&whole.outputs);
        let requests = pool.web.connections();
        let (result, sent, _) = pool.build_with("forbidden", &whole);
        assert_eq!((fetched(&result), pool.web.connections()), (None, requests), "{}", result.log);
        assert!(sent > COUNT as u64 * MIB, "{sent} bytes were sent");
        pool.machine.verify_store();
    }
}

/// What goes wrong: a name, how, and what the head records about it; empty: nothing.
type Fault = (&'static str, fn(&Pool, &Input), &'static str);

const FAULTS: [Fault; 8] = [
    ("a server that accepts and is silent", |pool, _| pool.web.say_nothing(), "no reply within 9 s"),
    ("a server that is down", |pool, _| pool.web.refuse(), "connection failed: Connection refused"),
    ("a nar that is gone after a good narinfo", lose_nars, "8 of 8 items did not arrive"),
    ("a flipped byte", |pool, _| pool.web.flip_after(Direction::FromTarget, 2 * MIB), "items did not arrive"),
    ("a server that dies midway", |pool, _| pool.web.cut_after(Direction::FromTarget, 2 * MIB), "items did not arrive"),
    ("a server that stops midway", |pool, _| pool.web.freeze_after(Direction::FromTarget, 2 * MIB), "no reply within"),
    (
        "a server that drips",
        |pool, _| pool.web.throttle_after(Direction::FromTarget, 2 * MIB, 100),
        "items did not arrive",
    ),
    ("a server that works again", |_, _| (), ""),
];

/// Has the machine's daemon learn what the server has, and then deletes it there.
fn lose_nars(pool: &Pool, input: &Input) {
    let asked = input.outputs.iter().cloned().collect();
    assert_eq!(connect(&pool.machine).query_substitutable_paths(&asked).unwrap(), asked);
    pool.server.run("guix", &[&["gc", "--delete"][..], &paths(&input.outputs)].concat());
}

fn paths(items: &[StorePath]) -> Vec<&str> {
    items.iter().map(StorePath::as_str).collect()
}

/// No build fails, the machine has nothing that its daemon would not accept, and the servers are not asked again at once.
fn check_faults(release: Release) {
    let pool = Pool::new(release);
    pool.write_machine(|entry| entry.set("substitutes", "always").set("substitute_timeout", 10));
    for (number, (what, break_server, cause)) in FAULTS.into_iter().enumerate() {
        let input = pool.input(&format!("input-{number}"));
        pool.serve(&input.outputs);
        break_server(&pool, &input);
        let (result, ..) = pool.build_with(&format!("user-{number}"), &input);
        let record = pool.record();
        let recorded = record["failures"]["cause"].as_str().unwrap_or_default();
        assert!(recorded.contains(cause) && recorded.is_empty() == cause.is_empty(), "{what}: {record}");
        let said = format!("failed, so this machine sends the inputs: {recorded}\n");
        assert_eq!(result.log.contains(&said), !cause.is_empty(), "{what}: {}", result.log);
        assert_eq!(fetched(&result).is_some(), what.contains("works"), "{what}: {}", result.log);

        // As without a server, and without a request, until the back-off is over. A helper that ends may have made one that
        // the proxy has yet to accept.
        let mut connections = pool.web.connections();
        wait_until("no download goes on", LONG, || {
            std::thread::sleep(Duration::from_millis(300));
            let before = std::mem::replace(&mut connections, pool.web.connections());
            connections == before && !pool.has_helper("substitute --substitute")
        });
        let next = pool.input(&format!("next-{number}"));
        if !cause.is_empty() {
            let (result, ..) = pool.build_with(&format!("after-{number}"), &next);
            assert!(!result.log.contains("substitute"), "{what}: {}", result.log);
            assert_eq!(pool.web.connections(), connections, "{what}");
        }
        pool.web.forget_faults();
        pool.web.pass();
        pool.forget_failures();
    }
    pool.machine.verify_store();
    pool.head.await_no_lock("afterwards");
}

#[test]
fn a_server_that_fails_costs_a_limited_time_and_no_build() {
    check_faults(Release::Sid);
}

#[test]
fn the_same_on_a_machine_with_an_old_daemon() {
    check_faults(Release::Bullseye);
}

#[test]
fn items_that_are_signed_by_a_stranger_are_sent() {
    for release in RELEASES {
        let pool =
            Pool::with(release, |server| server.untrusted(), |machine, web| machine.substitute_server(web.address()));
        let input = pool.input("input");
        pool.serve(&input.outputs);
        let (result, sent, _) = pool.build_with("user", &input);
        assert_eq!(fetched(&result), None, "{}", result.log);
        assert!(sent > COUNT as u64 * MIB, "{sent} bytes were sent");
        assert!(pool.record()["failures"].is_null(), "{}", pool.record());
    }
}

#[test]
fn one_of_two_builds_fetches_an_item_and_the_other_waits() {
    let pool = Pool::new(Release::Sid);
    let input = pool.input("input");
    pool.serve(&input.outputs);
    let user = |name: &str| {
        let last = format!("o{}", COUNT - 1);
        Drv::new(name).input_output("data", &input.drv, &last).script("wc -c <$data >$out")
    };
    pool.web.freeze_after(Direction::FromTarget, 2 * MIB);
    let mut first = pool.head.client().start(&[&user("one")]);
    first.wait_for_log("fetches 8 store items");
    let mut second = pool.head.client().start(&[&user("two")]);
    second.wait_for_log("waiting for other transfers");
    pool.web.forget_faults();
    pool.web.thaw();
    let results = [first.wait().succeeded(), second.wait().succeeded()];
    assert_eq!(results.each_ref().map(fetched), [Some(COUNT), None], "{}{}", results[0].log, results[1].log);
    assert!(pool.link.passed(Direction::ToTarget) < 3 * MIB);
}

#[test]
fn an_interrupted_client_ends_the_fetch() {
    for release in RELEASES {
        let pool = Pool::new(release);
        // The daemon would not end it by itself.
        pool.write_machine(|entry| entry.set("substitutes", "always").set("substitute_timeout", 600));
        let input = pool.input("input");
        pool.serve(&input.outputs);
        pool.web.throttle_after(Direction::FromTarget, 2 * MIB, 4000);
        let user = Drv::new("user").input_output("data", &input.drv, "o7").script("wc -c <$data >$out");
        let mut build = pool.head.client().start(&[&user]);
        build.wait_for_log("fetches 8 store items");
        wait_until("the machine downloads", LONG, || pool.has_helper("substitute --"));
        build.interrupt(Signal::INT);
        wait_until("no download goes on", LONG, || !pool.has_helper("substitute --"));
        pool.head.await_no_lock("after the interruption");
        pool.web.forget_faults();
        pool.build_with("later", &input);
        pool.machine.verify_store();
    }
}

#[test]
fn auto_fetches_where_sending_takes_longer() {
    let pool = Pool::new(Release::Sid);
    pool.write_machine(|entry| entry.set("substitutes", "auto"));
    // Eight seconds of sending, and less than three.
    for (name, rate, is_fetched) in [("slow", 1e6, true), ("fast", 1e8, false)] {
        let input = pool.input(name);
        pool.serve(&input.outputs);
        pool.set_upload_rate(rate);
        let (result, ..) = pool.build_with(&format!("{name}-user"), &input);
        assert_eq!(fetched(&result), is_fetched.then_some(COUNT), "{name}: {}", result.log);
    }
}

/// A query costs more than sending them, so `"always"` asks about none of them.
#[test]
fn small_items_are_sent_without_a_query() {
    let pool = Pool::new(Release::Sid);
    let ids: Vec<String> = (0..50).map(|number| format!("o{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let script: String = ids.iter().map(|id| format!("head -c 4096 /dev/urandom >${id}\n")).collect();
    let small = Drv::new("small").outputs(&ids).script(&script);
    pool.head.client().no_offload().max_jobs(1).build(&[&small]).succeeded();
    let user = ids.iter().fold(Drv::new("user"), |drv, id| drv.input_output(id, &small, id));
    let result = pool.head.build(&[&user]).succeeded();
    assert_eq!((fetched(&result), pool.web.connections()), (None, 0), "{}", result.log);
}

/// The account is one that the machine's daemon does not trust. Its own server is down.
#[test]
fn the_servers_of_the_machine_file_are_used() {
    for release in RELEASES {
        let pool = Pool::with(
            release,
            |server| server,
            |machine, _| machine.substitute_server(([127, 0, 0, 1], 9).into()).account("offload"),
        );
        let url = format!("http://{}", pool.web.address());
        pool.write_machine(|entry| {
            entry.set("substitutes", "always").set("substitute_urls", ["http://127.0.0.1:9", url.as_str()])
        });
        let input = pool.input("input");
        pool.serve(&input.outputs);
        let (result, ..) = pool.build_with("user", &input);
        assert_eq!(fetched(&result), Some(COUNT), "{}", result.log);
    }
}

/// The server of a cache whose own server is gone: it answers every request with an error.
#[test]
fn a_server_that_has_only_errors_fails_no_build() {
    for release in RELEASES {
        let pool = Pool::new(release);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, requests) = std::sync::mpsc::channel();
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (mut stream, asked) = (stream, asked.clone());
                std::thread::spawn(move || {
                    // Many requests may come at once. An empty line ends each.
                    let requests = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                    for _ in requests.filter(String::is_empty) {
                        let _ = asked.send(());
                        let reply = "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n";
                        let _ = stream.write_all(reply.as_bytes());
                    }
                });
            }
        });
        pool.write_machine(|entry| entry.set("substitutes", "always").set("substitute_urls", [url.as_str()]));
        let input = pool.input("input");
        let (result, sent, _) = pool.build_with("user", &input);
        assert_eq!(fetched(&result), None, "{}", result.log);
        assert!(sent > COUNT as u64 * MIB, "{sent} bytes were sent");
        assert!(requests.try_iter().count() >= COUNT, "not all items were asked about");
        assert!(pool.record()["failures"].is_null(), "{}", pool.record());
        pool.machine.verify_store();
    }
}

/// The fetch fails, and so does sending the rest; another machine builds.
#[test]
fn a_disk_that_is_full_during_the_fetch_moves_the_build() {
    for release in RELEASES {
        let pool = Pool::prepared(
            release,
            |server| server,
            |machine, web| machine.substitute_server(web.address()),
            |machine| machine.limit_store(6),
        );
        let other = pool.lab.build_machine("other").start();
        let small = pool.machine.entry().via(&pool.link).set("speed", 1000).set("minimum_disk_space", 0);
        pool.head.write_machines(&[small.set("substitutes", "always"), other.entry()]);
        pool.head.mark_healthy(pool.link.name());
        let input = pool.input("input");
        pool.serve(&input.outputs);
        let (result, ..) = pool.build_with("user", &input);
        assert!(result.log.contains("'link' fetches 8 store items"), "{}", result.log);
        assert!(result.log.contains("failed, so this machine sends the inputs: "), "{}", result.log);
        assert!(result.log.contains("could not be built on 'link'"), "{}", result.log);
        assert_eq!(other.built(), ["user"]);
        pool.machine.verify_store();
        pool.head.await_no_lock("afterwards");
    }
}

/// The stream of the fetch protects what has arrived: during the fetch, and until the build.
#[test]
fn a_garbage_collection_during_or_after_the_fetch_loses_nothing() {
    for release in RELEASES {
        let pool = Pool::new(release);
        let input = pool.input("input");
        let items = &input.outputs[..COUNT / 2];
        pool.serve(items);
        let sent = pool.sent_input("sent", 4);
        pool.web.freeze_after(Direction::FromTarget, 3 * MIB);
        pool.link.throttle_after(Direction::ToTarget, MIB, 50_000);
        let mut build = pool.head.client().start(&[&user_of_both(&input, &sent)]);
        build.wait_for_log("fetches 4 store items");
        let is_there = |number: usize| pool.machine.path_info(items[number].as_str()).is_some();
        wait_until("an item has arrived", LONG, || is_there(0));
        pool.machine.run("guix", &["gc", "--collect-garbage"]);
        assert!(is_there(0));
        pool.web.forget_faults();
        pool.web.thaw();
        wait_until("the fetch has ended", LONG, || is_there(3) && !pool.is_fetching());
        // A daemon whose client is gone ends a moment later, and its roots with it.
        for _ in 0..3 {
            pool.machine.run("guix", &["gc", "--collect-garbage"]);
        }
        assert!(is_there(0) && is_there(3));
        pool.link.forget_faults();
        let result = build.wait().succeeded();
        assert_eq!(fetched(&result), Some(COUNT / 2), "{}", result.log);
        pool.machine.verify_store();
    }
}

/// The fetch would take minutes. The upload fails, and another machine builds.
#[test]
fn a_failed_attempt_ends_its_fetch() {
    let pool = Pool::prepared(
        Release::Sid,
        |server| server,
        |machine, web| machine.substitute_server(web.address()),
        |machine| machine.limit_store(12),
    );
    let other = pool.lab.build_machine("other").start();
    let small = pool.machine.entry().via(&pool.link).set("speed", 1000).set("minimum_disk_space", 0);
    let small = small.set("substitutes", "always").set("substitute_timeout", 600);
    pool.head.write_machines(&[small, other.entry()]);
    pool.head.mark_healthy(pool.link.name());
    let input = pool.input("input");
    pool.serve(&input.outputs[..COUNT / 2]);
    let sent = pool.sent_input("sent", 16);
    pool.web.throttle_after(Direction::FromTarget, MIB, 4000);
    let user = user_of_both(&input, &sent).script("until test -e /var/lab/go; do sleep 0.1; done; true >$out");
    let mut build = pool.head.client().start(&[&user]);
    build.wait_for_log("fetches 4 store items");
    assert!(pool.is_fetching());
    build.wait_for_log("could not be built on 'link'");
    wait_until("the fetch has ended", LONG, || !pool.is_fetching());
    let helpers = || pool.machine.processes().into_iter().filter(|one| one.command.contains("substitute --"));
    wait_until("no download goes on", LONG, || helpers().count() == 0);
    other.write("/var/lab/go", "");
    build.wait().succeeded();
    pool.machine.verify_store();
}

/// Streams to the daemon are commands there. Only one of them is permitted, or two.
#[test]
fn without_a_second_stream_nothing_is_fetched() {
    for (sessions, is_fetched) in [(1, false), (2, true)] {
        let pool = Pool::with(
            Release::Sid,
            |server| server,
            |machine, web| {
                let limit = format!("MaxSessions {sessions}");
                machine
                    .substitute_server(web.address())
                    .sshd_option("AllowStreamLocalForwarding no")
                    .sshd_option(&limit)
            },
        );
        let input = pool.input("input");
        pool.serve(&input.outputs);
        let (result, ..) = pool.build_with("user", &input);
        assert_eq!(fetched(&result), is_fetched.then_some(COUNT), "{}", result.log);
        assert_eq!(pool.web.connections() > 0, is_fetched);
        // That is not the fault of the servers.
        assert!(pool.record()["failures"].is_null() && !result.log.contains("failed"), "{}", result.log);
    }
}

#[test]
fn explain_and_status_show_what_is_fetched_and_what_failed() {
    let pool = Pool::new(Release::Sid);
    pool.write_machine(|entry| entry.set("substitutes", "always").set("substitute_timeout", 4));
    let derivation = |name: &str, input: &Input| {
        let drv = Drv::new(name).input_output("data", &input.drv, "o7").script("wc -c <$data >$out");
        let failed = pool.head.client().no_offload().build(&[&drv]);
        failed.derivation(name).to_str().unwrap().to_owned()
    };
    let run = |arguments: &[&str]| {
        let mut command = pool.head.command("/opt/offload/offload");
        let output = command.env("OFFLOAD_LOG", "debug").args(arguments).output().unwrap();
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let input = pool.input("input");
    pool.serve(&input.outputs[..COUNT / 2]);
    let first = derivation("first-user", &input);
    assert!(!run(&["explain", &first]).contains("missing items"));
    // The others are the second half, and the derivations.
    let said = run(&["explain", "--probe", &first]);
    let expected = "    4 of 10 missing items (4.0 MiB) would be fetched there; 6 (4.0 MiB) would be sent\n";
    assert!(said.contains(expected), "{said}");

    let second = derivation("second-user", &pool.input("other"));
    pool.web.say_nothing();
    let said = run(&["explain", "--probe", &second]);
    assert!(said.contains("    10 missing items (8.0 MiB) would be sent\n"), "{said}");
    for said in [said, run(&["explain", &second]), run(&["status"])] {
        assert!(said.replace("\n", " ").contains("its substitute servers failed: no reply within 3.6 s;"), "{said}");
    }
    let status: serde_json::Value = serde_json::from_str(&run(&["status", "--json"])).unwrap();
    assert_eq!(status["machines"][0]["substitutes"]["failures"]["count"], 1, "{status}");
}

/// What a narinfo says beside the truth, signed by a key that the machine trusts.
const LIES: [(&str, Change, bool); 5] = [
    ("nothing", |text| text.to_owned(), true),
    ("no references", |text| change_line(text, "References: ", |_| String::new()), false),
    ("a reference more", |text| change_line(text, "References: ", |line| format!("{line} {}", own_name(text))), false),
    ("a larger size", |text| change_line(text, "NarSize: ", |size| format!("{size}0")), false),
    ("a smaller size", |text| change_line(text, "NarSize: ", |size| size[1..].to_owned()), false),
];

/// The name of the item, without its directory.
fn own_name(text: &str) -> &str {
    text.lines().next().unwrap().rsplit('/').next().unwrap()
}

fn change_line(text: &str, name: &str, change: impl Fn(&str) -> String) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix(name) {
        Some(value) => format!("{name}{}\n", change(value)),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// The head compares a server's word with its own records. The first output has no reference, so it can be fetched.
#[test]
fn a_signed_lie_about_references_or_size_is_not_fetched() {
    for release in RELEASES {
        let lab = Lab::new();
        let server = lab.daemon("server", Release::Sid).start();
        let liar = Liar::start(server.publish(), &server.path("/etc/guix/signing-key.sec"));
        let machine = lab.build_machine("b1").release(release).substitute_server(liar.address).start();
        let (web, link) = (lab.proxy("web", liar.address), lab.proxy("link", machine.ssh_address()));
        let head = lab.head().start();
        let pool = Pool { lab, head, machine, server, link, web };
        pool.write_machine(|entry| entry.set("substitutes", "always"));
        for (number, (lie, change, is_fetched)) in LIES.into_iter().enumerate() {
            let input = pool.input(&format!("input-{number}"));
            pool.serve(&input.outputs);
            liar.tell(change);
            let (result, sent, _) = pool.build_with(&format!("user-{number}"), &input);
            let expected = match lie {
                _ if is_fetched => Some(COUNT),
                "no references" => Some(1),
                _ => None,
            };
            assert_eq!(fetched(&result), expected, "{release:?}, {lie}: {}", result.log);
            assert_eq!(sent > (COUNT as u64 - 1) * MIB, !is_fetched, "{lie}: {sent} bytes were sent");
            for item in &input.outputs {
                let (here, there) = (pool.head.path_info(item.as_str()), pool.machine.path_info(item.as_str()));
                assert_eq!(here.unwrap().references, there.unwrap().references, "{lie}: {item}");
            }
            assert!(pool.record()["failures"].is_null(), "{lie}: {}", pool.record());
        }
        pool.machine.verify_store();
    }
}

/// A machine that finds no server's address: all comes from the head, and the servers are not asked again at once.
#[test]
fn a_machine_without_network_gets_all_inputs_from_the_head() {
    for release in RELEASES {
        let pool = Pool::prepared(
            release,
            |server| server,
            |machine, web| machine.substitute_server(web.address()),
            |machine| machine.write("/etc/resolv.conf", ""),
        );
        pool.write_machine(|entry| {
            entry.set("substitutes", "always").set("substitute_urls", ["http://substitutes.example.org"])
        });
        for (name, is_first) in [("first", true), ("second", false)] {
            let input = pool.input(&format!("{name}-input"));
            let (result, sent, _) = pool.build_with(&format!("{name}-user"), &input);
            assert!(sent > COUNT as u64 * MIB, "{sent} bytes were sent");
            let said = "failed, so this machine sends the inputs: guix substitute: warning: substitutes.example.org: \
                        host not found: ";
            assert_eq!(result.log.contains(said), is_first, "{}", result.log);
            assert_eq!(result.log.contains("substitute"), is_first, "{}", result.log);
        }
        assert_eq!(pool.record()["failures"]["count"], 1, "{}", pool.record());
        pool.machine.verify_store();
    }
}

#[test]
fn test_shows_whether_the_servers_answer_and_what_the_machine_accepts() {
    for release in RELEASES {
        let pool = Pool::new(release);
        let input = pool.input("input");
        pool.serve(&input.outputs[..COUNT / 2]);
        let check = |expected: &str| {
            let output = pool.head.command("/opt/offload/offload").args(["test", "--verbose"]).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(0), "{said}");
            let found = said.lines().find(|line| line.contains("  substitutes   ")).unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{expected}:\n{said}");
        };
        // The output of the first build is the ninth.
        check("  ok  substitutes   its servers offer 4 of 9 items of this machine, signed by keys that it trusts");

        pool.web.refuse();
        pool.build_with("while-down", &pool.input("other"));
        assert_eq!(pool.record()["failures"]["count"], 1, "{}", pool.record());
        // The answers about the others are remembered there.
        check("  ??  substitutes   it would accept 4 of 18 items of this machine, but: guix substitute: warning: ");
        let cached = pool.machine.path("/var/guix/substitute/cache");
        std::fs::remove_dir_all(&cached).unwrap();
        check(
            "  ??  substitutes   its servers do not answer, so this machine sends all inputs: guix substitute: warning: ",
        );
        pool.web.pass();
        let _ = std::fs::remove_dir_all(&cached);
        check("  ok  substitutes   its servers offer 4 of ");
        assert!(pool.record()["failures"].is_null(), "{}", pool.record());

        pool.write_machine(|entry| entry.set("substitutes", "never"));
        check("");
    }
}

/// The server's key is not in the machine's ACL; a machine has substitutes off.
#[test]
fn test_shows_servers_that_a_machine_does_not_trust_or_does_not_have() {
    for release in RELEASES {
        let pool =
            Pool::with(release, |server| server.untrusted(), |machine, web| machine.substitute_server(web.address()));
        let input = pool.input("input");
        pool.serve(&input.outputs);
        let off = pool.lab.build_machine("off").release(release).start();
        let trusting = pool.machine.entry().via(&pool.link);
        pool.head.write_machines(&[trusting, off.entry()]);
        let output = pool.head.command("/opt/offload/offload").args(["test", "--verbose"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        for expected in [
            "  ??  substitutes   its servers answer, but offer none of 9 items of this machine that it would accept\n",
            "  ok  substitutes   its daemon has substitutes off, so this machine sends all inputs\n",
        ] {
            assert!(said.contains(expected), "{expected}:\n{said}");
        }
    }
}
