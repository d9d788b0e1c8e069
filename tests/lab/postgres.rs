//! A PostgreSQL server of a test: a cluster of its own in a temporary directory, which an account without privileges
//! runs. It accepts passwords over TCP, and forgets everything in the end.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};

use super::{LONG, wait_until};

/// The account that runs the server: `nobody` of Debian.
const ACCOUNT: u32 = 65534;

/// The password of the account `offload` in the database.
pub const PASSWORD: &str = "a secret";

/// A server, and the database `offload` in it, whose owner is `offload`.
pub struct Postgres {
    directory: tempfile::TempDir,
    programs: PathBuf,
    pub port: u16,
    server: Mutex<Option<Child>>,
}

impl Postgres {
    /// Makes a cluster with a database, and starts it.
    pub fn start() -> Postgres {
        let postgres = Postgres::without_database();
        postgres.sql("postgres", &format!("create role offload login password '{PASSWORD}'"));
        postgres.sql("postgres", "create database offload owner offload");
        postgres
    }

    /// Makes a cluster, and starts it.
    pub fn without_database() -> Postgres {
        let programs = fs::read_dir("/usr/lib/postgresql").expect("no PostgreSQL: run tests/setup");
        let programs =
            programs.flatten().map(|entry| entry.path().join("bin")).max().expect("no version of PostgreSQL");
        let directory = tempfile::Builder::new().prefix("offload-postgres").tempdir_in("/tmp").unwrap();
        chown(directory.path(), Some(ACCOUNT), Some(ACCOUNT)).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let postgres = Postgres { directory, programs, port, server: Mutex::default() };
        let data = postgres.directory.path().join("data");
        let arguments =
            ["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-locale"];
        let output =
            postgres.command("initdb").args(arguments).args(["--encoding=UTF8", "-D"]).arg(&data).output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let sockets = postgres.directory.path().display();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{sockets}'\nfsync = off\n\
             shared_buffers = 16MB\nmax_connections = 50\nlog_min_messages = warning\n"
        );
        fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        postgres.run();
        postgres
    }

    /// The URL of the database, without the password.
    pub fn url(&self) -> String {
        format!("postgresql://offload@127.0.0.1:{}/offload?sslmode=disable", self.port)
    }

    /// Starts the server; returns when it accepts connections.
    pub fn run(&self) {
        let mut server = self.server.lock().unwrap();
        assert!(server.is_none(), "it runs");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("log")).unwrap();
        let data = self.directory.path().join("data");
        let child = self.command("postgres").arg("-D").arg(data).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        *server = Some(child);
        wait_until("PostgreSQL accepts connections", LONG, || {
            let mut ready = self.command("pg_isready");
            let ended = server.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "PostgreSQL ends:\n{}", self.log());
            ready.args(["--quiet", "--host"]).arg(self.directory.path()).arg(format!("--port={}", self.port));
            ready.status().unwrap().success()
        });
    }

    /// Stops the server as after a power failure, with all sessions.
    pub fn stop(&self) {
        if let Some(mut server) = self.server.lock().unwrap().take() {
            self.signal(&server, Signal::CONT);
            kill_process(Pid::from_child(&server), Signal::QUIT).unwrap();
            server.wait().unwrap();
        }
    }

    /// Stops all its processes where they are: the kernel still accepts connections.
    pub fn freeze(&self) {
        self.signal(self.server.lock().unwrap().as_ref().unwrap(), Signal::STOP);
    }

    /// Continues all its processes.
    pub fn thaw(&self) {
        self.signal(self.server.lock().unwrap().as_ref().unwrap(), Signal::CONT);
    }

    fn signal(&self, server: &Child, signal: Signal) {
        kill_process(Pid::from_child(server), signal).unwrap();
        let id = server.id().to_string();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        for child in children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)) {
            let _ = kill_process(child, signal);
        }
    }

    /// Runs a statement as the superuser; returns what it prints: a line for each row.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let mut command = self.command("psql");
        command.args(["--username=postgres", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--host"]);
        command.arg(self.directory.path()).arg(format!("--port={}", self.port));
        let output = command.args(["--set=ON_ERROR_STOP=1", "-c", statement, database]).output().unwrap();
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Changes a setting of the server, for new sessions.
    pub fn set(&self, setting: &str, value: &str) {
        self.sql("postgres", &format!("alter system set {setting} = {value}"));
        self.sql("postgres", "select pg_reload_conf()");
    }

    /// Makes it accept TLS, with copies of these files.
    pub fn use_tls(&self, certificate: &std::path::Path, key: &std::path::Path) {
        for (from, setting) in [(certificate, "ssl_cert_file"), (key, "ssl_key_file")] {
            let to = self.directory.path().join(setting);
            fs::copy(from, &to).unwrap();
            fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            chown(&to, Some(ACCOUNT), Some(ACCOUNT)).unwrap();
            self.sql("postgres", &format!("alter system set {setting} = '{}'", to.display()));
        }
        self.set("ssl", "on");
        let shows = || self.sql("postgres", "show ssl") == "on";
        wait_until("PostgreSQL uses TLS", LONG, shows);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A program of PostgreSQL's, which ends with this thread.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig=KILL",
            "--clear-groups",
            &format!("--reuid={ACCOUNT}"),
            &format!("--regid={ACCOUNT}"),
        ]);
        command.arg(self.programs.join(program)).current_dir("/").env_clear().env("LC_ALL", "C.UTF-8");
        command.env("PATH", "/usr/bin:/bin");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("---- PostgreSQL ----\n{}", self.log());
        }
    }
}
