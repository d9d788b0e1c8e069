//! Builds beside everything else that Guix does at the same time: garbage collectors on all hosts, two clients that
//! want the same, the head's own builds, a database that somebody else holds.
//!
//! 20 builds are offloaded while `guix gc` runs in a loop; `OFFLOAD_CAMPAIGN=1` makes it 200, for some minutes.

mod lab;

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Drv, Entry, Host, LONG, Lab, wait_until};
use offload::internals::daemon::Options;
use rusqlite::Connection;

/// Runs `guix gc` on a host again and again, until `is_over`; returns how often, and how often it took something away.
fn collect_until(host: &Host, is_over: &AtomicBool) -> [usize; 2] {
    let (mut runs, mut fruitful) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        let output = host.command("guix").arg("gc").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "guix gc on {}: {said}", host.name());
        runs += 1;
        fruitful += usize::from(said.contains("deleting"));
    }
    [runs, fruitful]
}

/// Ends what waits for it, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn entry_at_any_load(machine: &Host) -> Entry {
    machine.entry().set("overload_threshold", false)
}

/// A step of a chain: it needs the step before it, and a file that no machine has.
fn step(head: &Host, chain: usize, number: usize, before: Option<&Drv>) -> Drv {
    let name = format!("step-{chain}-{number}");
    let file = format!("/tmp/{name}");
    head.run("sh", &["-c", &format!("head -c 300000 /dev/urandom >{file}")]);
    let drv = Drv::new(&name).file("data", &file);
    match before {
        None => drv.script("mkdir $out; cp $data $out/data; echo 0 >$out/number"),
        Some(before) => {
            let variable = before.name().replace('-', "_");
            let script = format!(
                "test -s ${variable}/data; mkdir $out; ln -s ${variable} $out/before; cp $data $out/data; echo {number} >$out/number"
            );
            drv.input(before).script(&script)
        }
    }
}

#[test]
fn builds_succeed_beside_endless_garbage_collection() {
    let length = if std::env::var_os("OFFLOAD_CAMPAIGN").is_some() { 100 } else { 10 };
    const CHAINS: usize = 2;
    let lab = Lab::new();
    let machines = ["b1", "b2"].map(|name| lab.build_machine(name).start());
    let head = lab.head().start();
    head.write_machines(&machines.each_ref().map(entry_at_any_load));
    let chains: Vec<Vec<Drv>> = (0..CHAINS)
        .map(|chain| {
            let mut steps: Vec<Drv> = Vec::new();
            for number in 0..length {
                steps.push(step(&head, chain, number, steps.last()));
            }
            steps
        })
        .collect();

    let is_over = AtomicBool::new(false);
    let working = AtomicUsize::new(2 * CHAINS);
    let start = Instant::now();
    let collected: Vec<[usize; 2]> = thread::scope(|scope| {
        let _over = Over(&is_over);
        let collectors: Vec<_> =
            machines.iter().chain([&head]).map(|host| scope.spawn(|| collect_until(host, &is_over))).collect();
        // Two clients for each chain: both want each of its steps.
        for steps in chains.iter().chain(&chains) {
            let (head, working, is_over) = (&head, &working, &is_over);
            scope.spawn(move || {
                let _over = Over(is_over);
                let mut client = head.direct();
                for drv in steps {
                    client.build(&[drv]).unwrap_or_else(|error| panic!("{}: {error}", drv.name()));
                    // An item that a client has built, with its references, stays while the client is connected.
                    let output = client.make(drv).output().to_string();
                    let item = head.path_info(&output).unwrap_or_else(|| panic!("{output} is not valid"));
                    assert!(head.path(&output).join("data").exists(), "{output} is not there");
                    assert!(item.references.iter().all(|path| head.path(path).exists()), "{item:?}");
                }
                working.fetch_sub(1, Ordering::Relaxed);
                wait_until("all clients are done", Duration::from_secs(1200), || {
                    working.load(Ordering::Relaxed) == 0 || is_over.load(Ordering::Relaxed)
                });
            });
        }
        collectors.into_iter().map(|collector| collector.join().unwrap()).collect()
    });

    assert_eq!(working.load(Ordering::Relaxed), 0);
    let built: usize = machines.iter().map(|machine| machine.built().len()).sum();
    eprintln!(
        "{built} builds for {} steps in {:.1?}; `guix gc` ran on each host, and found something: {collected:?}",
        CHAINS * length,
        start.elapsed()
    );
    assert!(built >= CHAINS * length && head.built().is_empty());
    assert!(collected.iter().all(|[runs, _]| *runs > 0), "{collected:?}");
    assert!(collected.iter().any(|[_, fruitful]| *fruitful > 0), "{collected:?}");
    for host in machines.iter().chain([&head]) {
        host.verify_store();
    }
}

/// The database of a host, to be locked.
fn database(host: &Host) -> Connection {
    let connection = Connection::open(host.path("/var/guix/db/db.sqlite")).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection
}

/// A database that nobody else can write to, until this is dropped; also when a test fails.
struct Held<'a>(&'a Connection);

impl Held<'_> {
    fn of(connection: &Connection) -> Held<'_> {
        connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
        Held(connection)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.0.execute_batch("COMMIT");
    }
}

#[test]
fn builds_succeed_beside_other_work_of_the_head() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").max_jobs(2).start();
    let head = lab.head().max_jobs(2).start();
    head.write_machine_file(&format!("return {{ {}, when_busy = 'local' }}", entry_at_any_load(&b1).lua()));

    // Two clients ask for the same at the same moment.
    let both = Barrier::new(2);
    let shared = Drv::new("shared").script("sleep 1; echo shared >$out");
    let clients = [(); 2].map(|()| {
        let mut client = head.direct();
        let output = client.make(&shared).output().to_string();
        (client, output)
    });
    thread::scope(|scope| {
        for (mut client, output) in clients {
            let (both, shared, head) = (&both, &shared, &head);
            scope.spawn(move || {
                both.wait();
                client.build(&[shared]).unwrap();
                assert_eq!(fs::read_to_string(head.path(output)).unwrap(), "shared\n");
            });
        }
    });
    assert_eq!((b1.built(), head.built()), (vec!["shared".to_owned()], Vec::new()));

    // More than there are slots, which are taken until one has been built here: the others are built here, and so is
    // what had better be. Meanwhile somebody else writes to the database, now and then for longer.
    head.write("/var/lab/one-is-here", "");
    let script = "until test -e /var/lab/one-is-here; do sleep 0.1; done; sleep 0.5; cat $shared >$out";
    let drvs: Vec<Drv> =
        (0..8).map(|number| Drv::new(&format!("many-{number}")).input(&shared).script(script)).collect();
    let local = Drv::new("local").env("preferLocalBuild", "1").script("sleep 1; echo >$out");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            let connection = database(&head);
            for hold in [20, 300, 20, 1500].into_iter().cycle() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let held = Held::of(&connection);
                thread::sleep(Duration::from_millis(hold));
                drop(held);
                thread::sleep(Duration::from_millis(20));
            }
        });
        scope.spawn(|| {
            wait_until("one of many is built here", 3 * LONG, || {
                is_over.load(Ordering::Relaxed) || head.built().iter().any(|name| name.starts_with("many-"))
            });
            b1.write("/var/lab/one-is-here", "");
        });
        let mut client = head.direct();
        client.set_options(&Options { max_jobs: Some(2), ..client.options() });
        client.build(&drvs.iter().chain([&local]).collect::<Vec<_>>()).unwrap();
    });
    let (here, there) = (head.built(), b1.built());
    assert!(here.contains(&"local".to_owned()), "{here:?}");
    assert!(here.len() > 1 && there.len() > 2, "here: {here:?}, there: {there:?}");
    assert_eq!(here.len() + there.len(), drvs.len() + 2);

    // Locked from before the build until some time after its end on the machine: its registration waits.
    let connection = database(&head);
    let last = Drv::new("last").script("echo last >$out");
    let mut client = head.direct();
    client.make(&last);
    thread::scope(|scope| {
        let held = Held::of(&connection);
        let building = scope.spawn(|| client.build(&[&last]));
        wait_until("it has been built", LONG, || b1.built().contains(&"last".to_owned()));
        thread::sleep(Duration::from_secs(3));
        assert!(!building.is_finished());
        drop(held);
        building.join().unwrap().unwrap();
    });
    head.await_no_lock("afterwards");
    for host in [&b1, &head] {
        host.verify_store();
    }
}
