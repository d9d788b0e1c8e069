//! Large transfers over a session, and garbage collection beside it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::lab::Drv;
use crate::pool::{MIB, Pool, is_reused};

/// The most memory that an owner may use, in bytes.
pub const OWNER_MEMORY_MAX: u64 = 48 << 20;

#[test]
fn an_owner_passes_much_data_and_uses_little_memory() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    let owner = pool.owner_after(&Drv::new("first"));
    head.run("sh", &["-c", &format!("head -c {} /dev/urandom >/tmp/large", 32 * MIB)]);
    // An added item is sent in one stream. An imported item is sent in pieces that the machine's daemon requests.
    let made = pool.made_here("made", 32 * MIB);
    let large = Drv::new("large").file("data", "/tmp/large").input(&made).script("cat $data $made >$out");
    let result = pool.build(&large);
    assert!(is_reused(&result), "{}", result.log);
    let inputs = [head.read("/tmp/large"), head.read(result.output("made"))].concat();
    assert!(head.read(result.output("large")) == inputs, "the output differs");
    pool.await_idle(1);

    let ids: Vec<String> = (0..100).map(|number| format!("out{number}")).collect();
    let script: String = ids.iter().map(|id| format!("echo {id} >${id}; ")).collect();
    let many = Drv::new("many").outputs(&ids.iter().map(String::as_str).collect::<Vec<_>>()).script(&script);
    let result = pool.build(&many);
    assert!(is_reused(&result), "{}", result.log);
    for id in &ids {
        let output = result.output_of("many", id);
        assert_eq!(head.read(output), format!("{id}\n").as_bytes());
        assert!(head.path_info(output).is_some());
    }
    // The output of a builder is passed on, too.
    pool.await_idle(1);
    let wordy = Drv::new("wordy").script("head -c 3000000 /dev/urandom | base64; echo THE END; echo >$out");
    let result = pool.build(&wordy);
    assert!(is_reused(&result));
    let log = head.build_log(result.derivation("wordy"));
    assert!(log.len() > 4_000_000 && log.trim_end().ends_with("THE END"), "{} bytes", log.len());
    pool.await_idle(1);
    assert_eq!(pool.owners()[0].pid, owner.pid);
    let peak = pool.owners()[0].peak_memory();
    assert!(peak < OWNER_MEMORY_MAX, "{peak} bytes");
    head.verify_store();
    machine.verify_store();
}

#[test]
fn garbage_collection_beside_an_open_session_fails_no_build() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    let made = pool.made_here("made", 1000);
    let user = |number: usize| Drv::new(&format!("user-{number}")).input(&made).script("cat $made >$out");
    pool.owner_after(&user(0));
    let output = machine.command("timeout").args(["60", "guix", "gc"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The collector deletes items that no stream protects. The hook sends them again.
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                machine.run("guix", &["gc"]);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let _over = Over(&is_over);
        for number in 1..4 {
            let result = pool.build(&user(number));
            let name = format!("user-{number}");
            assert!(is_reused(&result), "{}", result.log);
            assert_eq!(head.read(result.output(&name)), head.read(result.output("made")));
            pool.await_idle(1);
        }
    });
    head.verify_store();
    machine.verify_store();
}

/// Sets the flag when it is dropped, also if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
