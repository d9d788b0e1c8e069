//! The client of a daemon: builds derivations through Guix's own Guile modules, see `client.scm`.
//!
//! Only [`Client::start`] knows that Guile is at work. A test that wants to speak to the daemon itself takes
//! [`Host::direct`], or [`Host::connect_to_daemon`] for the bare socket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::derivation::Drv;
use super::entry::quote;
use super::host::Host;
use super::wait_until;

const SCRIPT: &str = include_str!("client.scm");

/// A number that no other caller in this process gets.
pub fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How a client builds.
pub struct Client<'a> {
    host: &'a Host,
    options: Vec<(&'static str, String)>,
    limit: Duration,
    user: Option<&'static str>,
}

impl Host {
    /// A client of this host's daemon: no substitutes, as many local builds as the daemon allows, ended after five
    /// minutes.
    pub fn client(&self) -> Client<'_> {
        Client { host: self, options: Vec::new(), limit: Duration::from_secs(300), user: None }
            .option("use-substitutes?", "#f")
            .max_jobs(self.options.max_jobs)
    }

    /// Builds with the default [`client`](Host::client).
    pub fn build(&self, drvs: &[&Drv]) -> BuildResult {
        self.client().build(drvs)
    }
}

impl<'a> Client<'a> {
    /// A keyword argument of `set-build-options`, its value in Scheme.
    pub fn option(mut self, keyword: &'static str, value: &str) -> Self {
        self.options.retain(|(known, _)| *known != keyword);
        self.options.push((keyword, value.to_owned()));
        self
    }

    /// Local builds at the same time; with 0, what the hook declines fails.
    pub fn max_jobs(self, jobs: u32) -> Self {
        self.option("max-build-jobs", &jobs.to_string())
    }

    /// Runs as this user of the host: `offload` or `nobody`, beside root.
    pub fn user(mut self, user: &'static str) -> Self {
        self.user = Some(user);
        self
    }

    pub fn keep_going(self) -> Self {
        self.option("keep-going?", "#t")
    }

    /// In seconds.
    pub fn timeout(self, seconds: u32) -> Self {
        self.option("timeout", &seconds.to_string())
    }

    /// In seconds.
    pub fn max_silent_time(self, seconds: u32) -> Self {
        self.option("max-silent-time", &seconds.to_string())
    }

    /// Builds everything here.
    pub fn no_offload(self) -> Self {
        self.option("offload?", "#f")
    }

    /// How long the build may take before the test fails.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Builds `drvs` and what they need; returns when the daemon is done, be it with a failure.
    pub fn build(self, drvs: &[&Drv]) -> BuildResult {
        self.start(drvs).wait()
    }

    /// Starts to build.
    pub fn start(self, drvs: &[&Drv]) -> RunningBuild {
        let mut all = Vec::new();
        drvs.iter().for_each(|drv| drv.collect(&mut all));
        let mut request = "((options".to_owned();
        for (keyword, value) in &self.options {
            write!(request, " #:{keyword} {value}").unwrap();
        }
        let derivations: String = all.iter().map(|drv| drv.to_scheme() + "\n").collect();
        let names: String = drvs.iter().map(|drv| quote(drv.name())).collect();
        writeln!(request, ")\n(derivations\n{derivations})\n(build {names}))").unwrap();

        self.host.write("/var/lab/client.scm", SCRIPT);
        let number = serial();
        let (output, log) =
            (self.host.log_file(&format!("client-{number}.out")), self.host.log_file(&format!("client-{number}")));
        let mut command = match self.user {
            Some(user) => {
                let mut command = self.host.command("setpriv");
                command.args(["--reuid", user, "--clear-groups", "guix"]).env("HOME", "/tmp");
                command
            }
            None => self.host.command("guix"),
        };
        let mut child = command
            .args(["repl", "--", "/var/lab/client.scm"])
            .stdin(Stdio::piped())
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(request.as_bytes()).expect("the client has died");
        RunningBuild { child, output, log, deadline: Instant::now() + self.limit }
    }
}

/// A build whose client runs. Dropping it kills the client.
pub struct RunningBuild {
    child: Child,
    output: PathBuf,
    log: PathBuf,
    deadline: Instant,
}

impl RunningBuild {
    /// The build log so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Waits until the build log contains `text`.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        loop {
            // In this order: what the client printed at the last moment counts.
            let is_over = self.is_done() || Instant::now() > self.deadline;
            if self.log().contains(text) {
                return;
            }
            assert!(!is_over, "{text:?} does not come in the build log:\n{}\n{}", self.log(), read(&self.output));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the client with a signal, and waits for its end.
    pub fn interrupt(mut self, signal: Signal) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            rustix::process::kill_process(pid, signal).unwrap();
        }
        self.child.wait().unwrap();
    }

    /// Whether the client is done.
    pub fn is_done(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end of the build.
    pub fn wait(mut self) -> BuildResult {
        while !self.is_done() {
            assert!(Instant::now() < self.deadline, "the build does not end; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = read(&self.output);
        // Killed along with its host.
        let killed = self.child.wait().unwrap().signal().is_some() && !output.contains("\nbuilt\t");
        BuildResult::parse(&(output + if killed { "built\tlost\t0\n" } else { "" }), self.log())
    }
}

impl Drop for RunningBuild {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a build.
#[derive(Debug)]
pub struct BuildResult {
    /// 0, or the daemon's 1, 100 or 101; `None`: the daemon or the whole host went away.
    pub status: Option<u32>,
    /// The daemon's message if the status is not 0.
    pub error: String,
    /// Everything the daemon sent for the client's user.
    pub log: String,
    /// How long the daemon took over it.
    pub elapsed: Duration,
    derivations: BTreeMap<String, String>,
    outputs: BTreeMap<(String, String), String>,
}

impl BuildResult {
    fn parse(text: &str, log: String) -> BuildResult {
        let (mut derivations, mut outputs) = (BTreeMap::new(), BTreeMap::new());
        let (mut built, mut error) = (None, String::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["derivation", name, path] => drop(derivations.insert(name.to_owned(), path.to_owned())),
                ["output", name, id, path] => drop(outputs.insert((name.to_owned(), id.to_owned()), path.to_owned())),
                ["built", status, seconds] => built = Some((status.parse().ok(), seconds.parse().unwrap())),
                ["error", first] => {
                    error = std::iter::once(first).chain(lines.by_ref()).collect::<Vec<_>>().join("\n");
                }
                _ => panic!("the client said {line:?}"),
            }
        }
        let Some((status, seconds)) = built else { panic!("the client died:\n{text}{log}") };
        BuildResult { status, error, log, elapsed: Duration::from_secs_f64(seconds), derivations, outputs }
    }

    /// Itself; panics if the build failed.
    #[track_caller]
    pub fn succeeded(self) -> BuildResult {
        assert_eq!(self.status, Some(0), "the build failed: {}; its log:\n{}", self.error, self.log);
        self
    }

    /// The path of a derivation of the build.
    pub fn derivation(&self, name: &str) -> &Path {
        self.derivations.get(name).unwrap_or_else(|| panic!("no derivation {name}")).as_ref()
    }

    /// The path of output `out` of a derivation.
    pub fn output(&self, name: &str) -> &Path {
        self.output_of(name, "out")
    }

    pub fn output_of(&self, name: &str, id: &str) -> &Path {
        let key = (name.to_owned(), id.to_owned());
        self.outputs.get(&key).unwrap_or_else(|| panic!("no output {id} of {name}")).as_ref()
    }

    /// The paths of all outputs of all derivations.
    pub fn outputs(&self) -> impl Iterator<Item = &Path> {
        self.outputs.values().map(Path::new)
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
