//! The hook, run by the test instead of the daemon on real derivations: its replies, its exit status, its descriptors.

mod lab;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::{Drv, Entry, Host, LONG, Lab, SSH_PORT, SYSTEM, max_concurrency, wait_until};
use offload::internals::machine::Machine;
use offload::internals::scheduler::decision::{FULL_QUEUE_HOLD, QUEUE_PER_SLOT};
use offload::internals::state::{Queue, SlotHolder, Slots, StateDirectory, WaitingBuild, health};
use rustix::pipe::{PipeFlags, pipe_with};

/// A derivation in the head's store whose inputs are there, and whose output is not.
struct Goal {
    derivation: PathBuf,
    inputs: BTreeSet<PathBuf>,
    output: PathBuf,
}

/// Puts derivations into the head's store. Nobody builds them: there is no machine file yet.
fn instantiate<const N: usize>(head: &Host, drvs: [Drv; N]) -> [Goal; N] {
    let result = head.client().build(&drvs.each_ref());
    assert!(result.error.contains("unable to start any build"), "{}", result.error);
    drvs.map(|drv| {
        let derivation = result.derivation(drv.name()).to_owned();
        let mut inputs = BTreeSet::new();
        add_closure(head, &derivation, &mut inputs);
        Goal { derivation, inputs, output: result.output(drv.name()).to_owned() }
    })
}

fn add_closure(head: &Host, path: &Path, closure: &mut BTreeSet<PathBuf>) {
    if closure.insert(path.to_owned()) {
        for reference in head.path_info(path).unwrap().references {
            add_closure(head, Path::new(&reference), closure);
        }
    }
}

/// Limits as the daemon gives them: seconds, 0 for none.
#[derive(Clone, Copy)]
struct Arguments {
    max_silent_time: u32,
    print_build_trace: &'static str,
    build_timeout: u32,
}

const ARGUMENTS: Arguments = Arguments { max_silent_time: 60, print_build_trace: "false", build_timeout: 3600 };

/// A hook with a request.
struct Hook {
    child: Child,
    requests: ChildStdin,
    replies: BufReader<std::process::ChildStdout>,
    /// Its writes to standard error, a string for each.
    messages: JoinHandle<Vec<String>>,
}

/// What is left of a hook.
struct Ended {
    status: Option<i32>,
    messages: Vec<String>,
    elapsed: Duration,
}

impl Hook {
    /// Starts the hook with descriptors opened by these redirections of the shell, and puts the request.
    fn start(head: &Host, arguments: Arguments, redirections: &str, goal: &Goal) -> Hook {
        Hook::start_after(head, arguments, "true", redirections, goal)
    }

    /// As `start`; `command` runs in the shell before.
    fn start_after(head: &Host, arguments: Arguments, command: &str, redirections: &str, goal: &Goal) -> Hook {
        let Arguments { max_silent_time, print_build_trace, build_timeout } = arguments;
        // A pipe of packets: each read gives what one write gave.
        let (reader, writer) = pipe_with(PipeFlags::DIRECT | PipeFlags::CLOEXEC).unwrap();
        let mut child = head
            .command("sh")
            .args(["-c", &format!("{command}; exec /opt/offload/offload \"$@\" {redirections}"), "sh", SYSTEM])
            .args([&max_silent_time.to_string(), print_build_trace, &build_timeout.to_string()])
            .env_remove("HOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(writer)
            .spawn()
            .unwrap();
        let mut requests = child.stdin.take().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap());
        let messages = thread::spawn(move || {
            let mut reader = File::from(reader);
            let mut packets = Vec::new();
            let mut packet = vec![0; 1 << 16];
            while let Ok(length @ 1..) = reader.read(&mut packet) {
                packets.push(String::from_utf8_lossy(&packet[..length]).into_owned());
            }
            packets
        });
        writeln!(requests, "0 {SYSTEM} {} ", goal.derivation.display()).unwrap();
        Hook { child, requests, replies, messages }
    }

    fn reply(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        line
    }

    /// Sends what follows `# accept`.
    #[track_caller]
    fn accepted(self, goal: &Goal) -> RunningHook {
        self.accepted_before(goal, || {})
    }

    /// As `accepted`; `fault` comes after the reply.
    #[track_caller]
    fn accepted_before(mut self, goal: &Goal, fault: impl FnOnce()) -> RunningHook {
        assert_eq!(self.reply(), "# accept\n");
        fault();
        let mut inputs: String = goal.inputs.iter().map(|path| format!("{} ", path.display())).collect();
        inputs += &format!("\n{} \n", goal.output.display());
        self.requests.write_all(inputs.as_bytes()).unwrap();
        RunningHook { child: self.child, replies: self.replies, messages: self.messages, start: Instant::now() }
    }
}

/// A hook that builds.
struct RunningHook {
    child: Child,
    replies: BufReader<std::process::ChildStdout>,
    messages: JoinHandle<Vec<String>>,
    start: Instant,
}

impl RunningHook {
    fn wait(mut self) -> Ended {
        let status = self.child.wait().unwrap().code();
        let elapsed = self.start.elapsed();
        let mut rest = String::new();
        self.replies.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "after the reply");
        Ended { status, messages: self.messages.join().unwrap(), elapsed }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Runs the hook to its end, without descriptor 4.
#[track_caller]
fn run(head: &Host, arguments: Arguments, goal: &Goal) -> Ended {
    Hook::start(head, arguments, "4>&-", goal).accepted(goal).wait()
}

#[test]
fn each_outcome_has_its_exit_status() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let [good, bad, slow, silent, other] = instantiate(
        &head,
        [
            Drv::new("good").script("echo words; echo $name >$out"),
            Drv::new("bad").script("echo out of luck; exit 3"),
            Drv::new("slow").script("while true; do echo still here; sleep 0.2; done"),
            Drv::new("silent").script("sleep 1000"),
            Drv::new("other"),
        ],
    );
    head.write_machine_file(&format!("return {{ {}, max_attempts = 1 }}", b1.entry().lua()));
    let valid = head.valid_paths();
    head.mark_healthy("b1");

    // Built, and for the daemon to register.
    let ended = run(&head, ARGUMENTS, &good);
    assert_eq!(ended.status, Some(0), "{:?}", ended.messages);
    assert_eq!(head.read(&good.output), b"good\n");
    assert!(head.path_info(&good.output).is_none());
    // There is no descriptor 4: the build log goes where the messages go.
    assert!(ended.messages.iter().any(|text| text.contains("words\n")), "{:?}", ended.messages);

    let ended = run(&head, ARGUMENTS, &bad);
    assert_eq!(ended.status, Some(100), "{:?}", ended.messages);
    let said = ended.messages.concat();
    assert!(said.contains("out of luck\n") && said.contains("bad.drv' failed to build on 'b1'"), "{said}");

    let limits = [
        (&slow, Arguments { build_timeout: 2, ..ARGUMENTS }),
        (&silent, Arguments { max_silent_time: 2, ..ARGUMENTS }),
    ];
    for (goal, arguments) in limits {
        let ended = run(&head, arguments, goal);
        assert_eq!(ended.status, Some(101), "{:?}", ended.messages);
        // The other limit would end it, too.
        assert!(ended.elapsed < Duration::from_secs(50), "{:?}", ended.elapsed);
        let said = ended.messages.concat();
        assert!(said.contains("exceeded a time limit on 'b1'"), "{said}");
        wait_until("the build is gone", LONG, || !b1.is_building());
    }

    // The machine responds, so the build is accepted. Then the machine dies, and there is no other one.
    head.mark_healthy("b1");
    let hook = Hook::start(&head, ARGUMENTS, "4>&-", &other);
    let ended = hook.accepted_before(&other, || b1.stop_sshd()).wait();
    assert_eq!(ended.status, Some(1), "{:?}", ended.messages);
    assert!(ended.messages.concat().contains("could not be offloaded"), "{:?}", ended.messages);

    assert_eq!(head.valid_paths(), valid);
    for goal in [&bad, &slow, &silent, &other] {
        assert!(!head.path(&goal.output).exists());
    }
}

/// Every connection would fail, and the fault would be looked for in the machines.
#[test]
fn a_hook_that_may_open_too_few_files_declines_and_says_so() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let [first, second, third] = instantiate(&head, ["first", "second", "third"].map(Drv::new));
    head.write_machines(&[b1.entry()]);

    for limit in [14, 63] {
        head.mark_healthy("b1");
        let mut hook = Hook::start_after(&head, ARGUMENTS, &format!("ulimit -n {limit}"), "", &first);
        assert_eq!(hook.reply(), "# decline\n");
        drop(hook.requests);
        assert_eq!(hook.child.wait().unwrap().code(), Some(0));
        let said = hook.messages.join().unwrap().concat();
        assert!(said.contains(&format!("this process may open {limit} files")), "{said}");
        assert!(said.contains("LimitNOFILE=1024"), "{said}");
    }

    // The least, and limits that may be raised: to the wanted one, and to less.
    for (limit, goal) in
        [("ulimit -n 64", &first), ("ulimit -Sn 14", &second), ("ulimit -Sn 14 && ulimit -Hn 100", &third)]
    {
        head.mark_healthy("b1");
        let ended = Hook::start_after(&head, ARGUMENTS, limit, "", goal).accepted(goal).wait();
        assert_eq!(ended.status, Some(0), "{limit}: {:?}", ended.messages);
        assert!(!ended.messages.concat().contains("open files"), "{limit}: {:?}", ended.messages);
    }
}

#[test]
fn a_build_waits_for_a_slot_as_long_as_the_file_says() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let [first, second] =
        instantiate(&head, ["first", "second"].map(|name| Drv::new(name).script("echo on; sleep 1000")));
    let entry = b1.entry().set("parallel_builds", 1);
    head.write_machine_file(&format!("return {{ {}, wait_for_slot = 1 }}", entry.lua()));
    head.mark_healthy("b1");

    let holder = Hook::start(&head, ARGUMENTS, "", &first).accepted(&first);
    wait_until("it is built", LONG, || b1.is_building());
    // A build that would wait for longer than the machine file allows is not accepted.
    let mut hook = Hook::start(&head, ARGUMENTS, "", &second);
    assert_eq!(hook.reply(), "# postpone\n");
    drop(hook);
    // Where it was expected to wait for less, and the slot does not become free, it fails and says why.
    head.write_machine_file(&format!("return {{ {}, wait_for_slot = 11 }}", entry.lua()));
    let ended = run(&head, ARGUMENTS, &second);
    assert_eq!(ended.status, Some(1), "{:?}", ended.messages);
    let said = ended.messages.concat();
    let words = ["no machine became free within 11 s (b1: all its slots are taken)", "raise `wait_for_slot`"];
    assert!(words.iter().all(|words| said.contains(words)), "{said}");
    assert_eq!(b1.built(), ["first"]);

    // One that waits gets the slot of a hook that is killed.
    head.write_machines(&[entry]);
    let waiting = Hook::start(&head, ARGUMENTS, "", &second).accepted(&second);
    wait_until("the other one waits in the queue", LONG, || head.waiting_since().len() == 1);
    assert_eq!(b1.built(), ["first"]);
    holder.kill();
    wait_until("the other one is built", LONG, || b1.built().len() == 2);
    waiting.kill();
    wait_until("both are gone", LONG, || !b1.is_building());
}

#[test]
fn many_hooks_never_exceed_the_slots() {
    const HOOKS: usize = 12;
    let lab = Lab::new();
    let machines = [lab.build_machine("b1").max_jobs(12).start(), lab.build_machine("b2").max_jobs(12).start()];
    let head = lab.head().start();
    let drvs: [Drv; HOOKS] =
        std::array::from_fn(|number| Drv::new(&format!("racer-{number}")).script("sleep 0.3; echo $name >$out"));
    let goals = instantiate(&head, drvs);
    // A machine that takes long to answer all of them at once does no harm.
    let entry = |machine: &Host, slots: i32| machine.entry().set("parallel_builds", slots).set("connect_timeout", 60);
    head.write_machines(&[entry(&machines[0], 2), entry(&machines[1], 1)]);
    ["b1", "b2"].iter().for_each(|name| head.mark_healthy(name));

    let hooks: Vec<Hook> = goals.iter().map(|goal| Hook::start(&head, ARGUMENTS, "", goal)).collect();
    let running: Vec<RunningHook> = hooks.into_iter().zip(&goals).map(|(hook, goal)| hook.accepted(goal)).collect();
    for hook in running {
        let ended = hook.wait();
        assert_eq!(ended.status, Some(0), "{:?}", ended.messages);
    }
    for goal in &goals {
        assert!(head.path(&goal.output).exists());
    }
    for (machine, slots) in machines.iter().zip([2, 1]) {
        let builds = machine.builds();
        assert!(max_concurrency(&builds) <= slots, "{builds:#?}");
    }
    assert_eq!(machines.iter().map(|machine| machine.builds().len()).sum::<usize>(), HOOKS);
}

/// The daemon serves nobody while it waits for a reply, and may have hundreds of builds to ask about.
#[test]
fn a_full_pool_delays_one_request_and_not_all() {
    const REQUESTS: u32 = 100;
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").max_jobs(1).start();
    let head = lab.head().start();
    let [goal] = instantiate(&head, [Drv::new("late")]);
    head.write_machines(&[b1.entry()]);
    let state = StateDirectory::new(head.path("/var/guix/offload"));
    let machine = Machine { port: SSH_PORT, ..Machine::new("b1", "root", Vec::new(), Vec::new()) };
    let _slot = Slots::of(&state, &machine).unwrap().try_take(&SlotHolder::this_process("/gnu/store/x.drv")).unwrap();
    let places = Queue::of(&state).unwrap();
    let _places = [(); QUEUE_PER_SLOT].map(|()| {
        places.try_join(&[machine.address()], &WaitingBuild::default(), QUEUE_PER_SLOT, health::now()).unwrap().unwrap()
    });
    head.mark_healthy("b1");

    let start = Instant::now();
    let mut hook = Hook::start(&head, ARGUMENTS, "", &goal);
    assert_eq!(hook.reply(), "# postpone\n");
    for _ in 1..REQUESTS {
        writeln!(hook.requests, "0 {SYSTEM} {} ", goal.derivation.display()).unwrap();
        assert_eq!(hook.reply(), "# postpone\n");
    }
    let all_held = FULL_QUEUE_HOLD * REQUESTS;
    assert!(start.elapsed() >= FULL_QUEUE_HOLD && start.elapsed() < all_held, "{:?}", start.elapsed());
    drop(hook.requests);
    hook.child.wait().unwrap();
}

/// The machine behind a command that leaves a list of its descriptors in a file.
fn spied_on(machine: &Host) -> Entry {
    let command = ["sh", "-c", "ls -l /proc/self/fd >/tmp/descriptors; echo chatter >&2; exec busybox nc b1 2022"];
    // Each hook has a command of its own.
    machine.entry().set("proxy_command", command).set("keep_connection", false)
}

/// The proxy command has had its socket and somewhere to complain to, and nothing else.
#[track_caller]
fn assert_nothing_inherited(head: &Host) {
    let text = String::from_utf8(head.read("/tmp/descriptors")).unwrap();
    let mut descriptors: Vec<_> = text.lines().filter_map(|line| line.split_once(" -> ")).collect();
    for (name, _) in &mut descriptors {
        *name = name.rsplit(' ').next().unwrap();
    }
    // ls has opened 1, which was the socket too, and 3 itself.
    let [("0", socket), ("1", "/tmp/descriptors"), ("2", strays), ("3", own)] = descriptors[..] else {
        panic!("{text}")
    };
    assert!(socket.starts_with("socket:") && strays.starts_with("pipe:") && own.starts_with("/proc/"), "{text}");
    fs::remove_file(head.path("/tmp/descriptors")).unwrap();
}

#[test]
fn the_log_gets_the_output_and_trace_lines_on_request() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let script = "for i in 1 2 3; do echo line $i; sleep 0.1; done; echo >$out";
    let [traced, quiet] = instantiate(&head, ["traced", "quiet"].map(|name| Drv::new(name).script(script)));
    head.write_machines(&[spied_on(&b1)]);
    // As if the daemon had left other descriptors open.
    let redirections = "4>/tmp/build-log 5>/tmp/five 9</etc/passwd";

    for (flag, goal, is_traced) in [("true", &traced, true), ("0", &quiet, false)] {
        let arguments = Arguments { print_build_trace: flag, ..ARGUMENTS };
        head.mark_healthy("b1");
        let ended = Hook::start(&head, arguments, redirections, goal).accepted(goal).wait();
        assert_eq!(ended.status, Some(0), "{:?}", ended.messages);
        let log = String::from_utf8(head.read("/tmp/build-log")).unwrap();
        let first = format!("offload: building '{}' on 'b1'\n", goal.derivation.display());
        assert_eq!(log, first + "line 1\nline 2\nline 3\n");
        let trace = format!("@ build-remote {} b1\n", goal.derivation.display());
        assert_eq!(ended.messages.contains(&trace), is_traced, "{:?}", ended.messages);
        // Everything else is a line of its own, with the prefix; chatter of children too.
        for text in ended.messages.iter().filter(|text| **text != trace) {
            assert!(text.starts_with("offload: ") && text.ends_with('\n'), "{text:?}");
        }
        assert!(
            ended.messages.iter().any(|text| text == "offload: proxy command 'sh': chatter\n"),
            "{:?}",
            ended.messages
        );
        assert_nothing_inherited(&head);
    }

    // The same with the daemon's own descriptors.
    let result = head.build(&[&Drv::new("asked-for-by-the-daemon").script(script)]).succeeded();
    assert!(result.log.contains("line 3\n"), "{}", result.log);
    assert_nothing_inherited(&head);

    // The trees that those hooks have left are no hindrance.
    head.build(&[&Drv::new("traced").script(script), &Drv::new("quiet").script(script)]).succeeded();
    head.verify_store();
}
