//! The metrics and the examples for monitoring, with the programs that read them: Prometheus' promtool and node exporter.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use offload::internals::events::pool::PoolEventKind;
use offload::internals::state::StateDirectory;
use offload::internals::state::history::{History, Outcome, PowerRow, Row};

/// A head with two machines, one of which was never contacted, and a history with each outcome.
fn head() -> tempfile::TempDir {
    let head = tempfile::tempdir().unwrap();
    let entry = |name: &str| {
        format!(
            "build_machine {{ name = '{name}', user = 'u', systems = {{ 'x86_64-linux' }}, \
             host_key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPT8ND6KrrZZekAhAq/sAPtog9kbTgoklanLOTp4rVZ6' }},"
        )
    };
    let on_demand = entry("b2").replace("rVZ6' },", "rVZ6', on_demand = { start = { 'true' }, stop = { 'true' } } },");
    fs::write(head.path().join("machines.lua"), format!("return {{ {}{} }}", entry("b1"), on_demand)).unwrap();
    let host = head.path().join("offload/b1:22");
    fs::create_dir_all(&host).unwrap();
    let status = serde_json::json!({ "host_name": "b1", "kernel": "Linux", "architecture": "x86_64", "load1": 0.5,
        "cores": 4, "free_disk": 1 << 30, "clock": 1, "uptime": 1 });
    fs::write(host.join("health.json"), serde_json::json!({ "status": status, "measured": 5500 }).to_string()).unwrap();
    let rows = Outcome::ALL.iter().map(|&outcome| Row {
        machine: (!outcome.is_request()).then(|| "b1".to_owned()),
        building: 1500,
        sent_bytes: 7,
        ..Row::new("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x-1.drv", "x86_64-linux", outcome, 1)
    });
    let history = History::of(&StateDirectory::new(head.path().join("offload")));
    history.append(&rows.collect::<Vec<_>>());
    for event in [PoolEventKind::MachineStarted, PoolEventKind::StartFailed, PoolEventKind::MachineStopped] {
        let (machine, head) = ("b2".to_owned(), "head".to_owned());
        history.append_power(PowerRow { event, machine, head, time: 1, duration: Some(2500), reason: None });
    }
    head
}

fn metrics(head: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
    command.arg("metrics").args(arguments).env("GUIX_STATE_DIRECTORY", head);
    printed(command.env("OFFLOAD_MACHINE_FILE", head.join("machines.lua")).output().unwrap())
}

/// Returns standard output of a command that succeeds without a message.
fn printed(output: Output) -> String {
    let [out, messages] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && messages.is_empty(), "{out}{messages}");
    out
}

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir("examples/monitoring");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("promtool");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn promtool_accepts_the_metrics() {
    let head = head();
    let text = metrics(head.path(), &[]);
    for sample in [
        "offload_machine_power{machine=\"b2\",state=\"off\"} 1\n",
        "offload_machine_power_starts_total{machine=\"b2\",outcome=\"failed\"} 1\n",
        "offload_machine_power_on_seconds_total{machine=\"b2\"} 2.5\n",
        "offload_machine_power_booting_seconds_total{machine=\"b2\"} 2.5\n",
    ] {
        assert!(text.contains(sample), "{sample}: {text}");
    }
    assert_eq!(printed(promtool(&["check", "metrics"], &metrics(head.path(), &["--format=prometheus"]))), "");
    // It reports what it does not accept.
    assert!(!promtool(&["check", "metrics"], "offload_x_total 1\n").stderr.is_empty());
}

#[test]
fn alerts_fire_when_they_should() {
    printed(promtool(&["check", "rules", "alerts.yml"], ""));
    printed(promtool(&["test", "rules", "alerts.test.yml"], ""));
}

/// Ends with the test.
struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn node_exporter_passes_the_metrics_on() {
    let head = head();
    let directory = head.path().join("textfile");
    fs::create_dir(&directory).unwrap();
    metrics(head.path(), &["--textfile", directory.to_str().unwrap()]);
    let mut command = Command::new("prometheus-node-exporter");
    command.args(["--web.listen-address=127.0.0.1:0", "--collector.disable-defaults", "--collector.textfile"]);
    command.arg(format!("--collector.textfile.directory={}", directory.display()));
    let mut exporter = Exporter(command.stderr(Stdio::piped()).spawn().expect("prometheus-node-exporter"));
    let mut lines = BufReader::new(exporter.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| Some(line.split("address=127.0.0.1:").nth(1)?.to_owned())).expect("an address");
    let port: u16 = address.split_whitespace().next().unwrap().parse().unwrap();
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut scraped = String::new();
    connection.read_to_string(&mut scraped).unwrap();
    let file = fs::read_to_string(directory.join("offload.prom")).unwrap();
    let samples: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(samples.len() > 20, "{file}");
    // The programs write numbers in different forms, and labels in different orders.
    let parsed = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let mut labels: Vec<String> = name.split(['{', ',', '}']).map(str::to_owned).collect();
        labels.sort();
        Some((labels, value.parse::<f64>().ok()?))
    };
    let found: Vec<_> = scraped.lines().map(parsed).collect();
    for sample in samples {
        assert!(parsed(sample).is_some() && found.contains(&parsed(sample)), "{sample}: {scraped}");
    }
    assert!(scraped.contains("\nnode_textfile_scrape_error 0\n"), "{scraped}");
    // A machine that was never contacted is neither up nor down.
    assert!(scraped.contains("\noffload_machine_up{machine=\"b1\"} 1\n"), "{scraped}");
    assert!(!scraped.contains("\noffload_machine_up{machine=\"b2\"}"), "{scraped}");
}
