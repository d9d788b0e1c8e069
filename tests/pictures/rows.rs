//! Rows of a pool that never was: builds arrive, wait for a slot, run, and sometimes fail. The same number of rows is always the
//! same.

use std::path::Path;

use offload::internals::state::StateDirectory;
use offload::internals::state::history::{History, Outcome, Row};

/// Names, with the builder's time in seconds.
const NAMES: [(&str, u64); 16] = [
    ("hello-2.12.1", 12),
    ("python-numpy-1.26.4", 410),
    ("linux-libre-6.12.1", 3300),
    ("gcc-14.2.0", 2700),
    ("emacs-29.4", 520),
    ("python-pandas-2.2.3", 300),
    ("rust-serde-1.0.217", 18),
    ("texlive-latex-base-20250301", 60),
    ("ghc-pandoc-3.1.8", 940),
    ("ungoogled-chromium-131.0", 9000),
    ("guix-1.5.0", 240),
    ("r-ggplot2-3.5.1", 85),
    ("perl-moose-2.2207", 40),
    ("qtbase-6.8.1", 1500),
    ("sbcl-2.5.1", 330),
    ("openblas-0.3.28", 620),
];

const MACHINES: [(&str, u32, u64); 4] = [
    ("fast.example.org", 6, 60),
    ("b1.example.org", 4, 100),
    ("b2.example.org", 4, 130),
    ("old.example.org:2222", 2, 300),
];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Returns rows of builds that arrive every `interval` milliseconds on the average, the first at `begin`.
pub fn rows(count: usize, begin: u64, interval: u64) -> Vec<Row> {
    let mut random = Random(20);
    let mut free: Vec<Vec<u64>> = MACHINES.iter().map(|(_, slots, _)| vec![0; *slots as usize]).collect();
    let (mut rows, mut now) = (Vec::new(), begin);
    while rows.len() < count {
        now += random.below(2 * interval);
        let (name, seconds) = NAMES[(random.below(16).min(random.below(16))) as usize];
        let derivation = format!("/gnu/store/{:032}-{name}.drv", rows.len());
        let row = Row::new(&derivation, "x86_64-linux", Outcome::Built, now);
        let row = Row { head: "head.example.org".to_owned(), user: Some("alice".to_owned()), ..row };
        if random.below(25) == 0 {
            let reasons = [
                "b1.example.org: it lacks the feature big-parallel; b2.example.org: it lacks the feature big-parallel",
                "all machines are drained",
                "the function 'accepts' of the machine file rejects it on all machines",
            ];
            let (outcome, reason) = (Outcome::Declined, reasons[random.below(3) as usize]);
            rows.push(Row { outcome, reason: Some(reason.to_owned()), requests: 1 + random.below(4), ..row });
            continue;
        }
        let mut started = now;
        for attempt in 1.. {
            let slots = free.iter().enumerate().flat_map(|(machine, slots)| {
                slots.iter().enumerate().map(move |(slot, until)| ((*until).max(started), machine, slot))
            });
            let (from, machine, slot) = slots.min().unwrap();
            let (label, _, speed) = MACHINES[machine];
            let is_lost = random.below(60) == 0 && attempt < 3;
            let sending = 40 + random.below(2500);
            let building = (seconds * 10 * speed * (80 + random.below(40)) / 100).max(10);
            let (building, retrieving) = if is_lost { (building / 3, 0) } else { (building, 60 + random.below(3000)) };
            let to = from + sending + building + retrieving;
            free[machine][slot] = to;
            let (outcome, reason) = match random.below(30) {
                _ if is_lost => (Outcome::MachineFailed, Some("the connection was lost: Connection reset by peer")),
                0 => (Outcome::BuildFailed, Some("builder for '/gnu/store/x.drv' failed with exit code 1")),
                1 if seconds > 1000 => {
                    (Outcome::TimedOut, Some("building of '/gnu/store/x.drv' timed out after 3600 seconds of silence"))
                }
                _ => (Outcome::Built, None),
            };
            let is_built = outcome == Outcome::Built;
            rows.push(Row {
                machine: Some(label.to_owned()),
                slot: Some(slot as u32),
                attempt,
                outcome,
                reason: reason.map(str::to_owned),
                started,
                ended: to + 12,
                waiting: from - started,
                sending,
                building,
                retrieving: if is_built { retrieving } else { 0 },
                placing: if is_built { 12 } else { 0 },
                reused_connection: Some(true),
                sent_items: 3,
                sent_bytes: random.below(90 << 20),
                substituted_items: 8,
                substituted_bytes: random.below(400 << 20),
                retrieved_items: u64::from(is_built),
                retrieved_bytes: if is_built { random.below(60 << 20) } else { 0 },
                ..row.clone()
            });
            started = to + 12;
            if !is_lost {
                break;
            }
        }
    }
    rows.truncate(count);
    // A hook appends its rows when its build ends.
    rows.sort_by_key(|row| row.ended);
    rows
}

/// Writes the rows into the history of a state directory.
pub fn record(rows: &[Row], state: &Path) {
    let history = History::of(&StateDirectory::new(state));
    for rows in rows.chunks(2000) {
        history.append(rows);
        history.collect();
    }
}

/// Returns a machine file with the machines.
pub fn machine_file() -> String {
    let machine = |&(label, slots, _): &(&str, u32, u64)| {
        let (name, port) = label.split_once(':').unwrap_or((label, "22"));
        format!(
            "build_machine {{ name = '{name}', port = {port}, user = 'u', systems = {{ 'x86_64-linux' }}, parallel_builds = {slots},
             host_key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPT8ND6KrrZZekAhAq/sAPtog9kbTgoklanLOTp4rVZ6' }},\n"
        )
    };
    format!("return {{ {} }}", MACHINES.iter().map(machine).collect::<String>())
}
