use super::*;

fn total(machine: Option<&str>, outcome: Outcome, rows: u64) -> Total {
    Total {
        machine: machine.map(str::to_owned),
        outcome,
        rows,
        requests: 10 * rows,
        last: 1000 * rows,
        waiting: 1500 * rows,
        sending: 2000 * rows,
        building: 3000 * rows,
        retrieving: 4000 * rows,
        placing: 5000 * rows,
        sent_bytes: 6 * rows,
        substituted_items: 7 * rows,
        substituted_bytes: 8 * rows,
        retrieved_bytes: 9 * rows,
    }
}

#[test]
fn records_and_totals_become_metrics_in_base_units() {
    let up = MachineRecord {
        name: "b1".to_owned(),
        slots: 4,
        taken: Some(3),
        is_enabled: true,
        last_contact: Some(5500),
        ..MachineRecord::default()
    };
    let down = MachineRecord {
        name: "b2:2222".to_owned(),
        slots: 1,
        is_drained: true,
        failures: 2,
        back_off: 1500,
        power: Some(crate::state::Phase::Running),
        on: Some(2_500),
        ..MachineRecord::default()
    };
    let unknown = MachineRecord { name: "b3".to_owned(), slots: 1, ..MachineRecord::default() };
    let totals = [
        total(None, Outcome::Declined, 3),
        total(None, Outcome::NoMachine, 1),
        total(Some("b1"), Outcome::Built, 1),
        total(Some("b1"), Outcome::MachineFailed, 2),
        total(Some("b2:2222"), Outcome::Built, 1),
    ];
    let power = [PowerSummary {
        machine: "b2:2222".to_owned(),
        starts: 3,
        failed_starts: 1,
        stops: 2,
        failed_stops: 4,
        on: 7_500,
        booting: 4_500,
        median_boot: None,
    }];
    let text = text(&[up, down, unknown], 7, (&totals, &power), Exposition::Prometheus);
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for sample in [
        "offload_machine_up{machine=\"b1\"} 1",
        "offload_machine_up{machine=\"b2:2222\"} 0",
        "offload_machine_enabled{machine=\"b1\"} 1",
        "offload_machine_enabled{machine=\"b2:2222\"} 0",
        "offload_machine_drained{machine=\"b2:2222\"} 1",
        "offload_machine_slots{machine=\"b1\"} 4",
        "offload_machine_slots_taken{machine=\"b1\"} 3",
        "offload_machine_failures{machine=\"b2:2222\"} 2",
        "offload_machine_back_off_seconds{machine=\"b2:2222\"} 1.5",
        "offload_machine_last_contact_timestamp_seconds{machine=\"b1\"} 5.5",
        "offload_queued_builds 7",
        "offload_attempts_total{machine=\"b1\",outcome=\"built\"} 1",
        "offload_attempts_total{machine=\"b1\",outcome=\"machine-failed\"} 2",
        "offload_requests_total{outcome=\"declined\"} 30",
        "offload_requests_total{outcome=\"no-machine\"} 10",
        "offload_phase_seconds_total{machine=\"b1\",phase=\"waiting\"} 4.5",
        "offload_phase_seconds_total{machine=\"b1\",phase=\"placing\"} 15",
        "offload_phase_seconds_total{machine=\"b2:2222\",phase=\"building\"} 3",
        "offload_transferred_bytes_total{machine=\"b1\",direction=\"sent\"} 18",
        "offload_transferred_bytes_total{machine=\"b1\",direction=\"fetched\"} 24",
        "offload_transferred_bytes_total{machine=\"b1\",direction=\"retrieved\"} 27",
        "offload_fetched_items_total{machine=\"b1\"} 21",
        "offload_attempts_total{machine=\"b2:2222\",outcome=\"machine-failed\"} 0",
        "offload_last_attempt_timestamp_seconds{machine=\"b1\"} 2",
        "offload_machine_power{machine=\"b2:2222\",state=\"running\"} 1",
        "offload_machine_power{machine=\"b2:2222\",state=\"off\"} 0",
        "offload_machine_power_starts_total{machine=\"b2:2222\",outcome=\"ok\"} 3",
        "offload_machine_power_starts_total{machine=\"b2:2222\",outcome=\"failed\"} 1",
        "offload_machine_power_stops_total{machine=\"b2:2222\",outcome=\"ok\"} 2",
        "offload_machine_power_stops_total{machine=\"b2:2222\",outcome=\"failed\"} 4",
        "offload_machine_power_on_seconds_total{machine=\"b2:2222\"} 10",
        "offload_machine_power_booting_seconds_total{machine=\"b2:2222\"} 4.5",
    ] {
        assert!(samples.contains(&sample), "{sample}: {text}");
    }
    // A machine that is always on has no power.
    assert!(!text.contains("offload_machine_power{machine=\"b1\""), "{text}");
    // Unknown values have no sample.
    assert!(!text.contains("offload_machine_slots_taken{machine=\"b2:2222\"}"), "{text}");
    assert!(!text.contains("offload_machine_last_contact_timestamp_seconds{machine=\"b2:2222\"}"), "{text}");
    assert!(!text.contains("offload_machine_up{machine=\"b3\"}"), "{text}");
    // Each name once, and each sample once.
    let mut unique = samples.iter().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect::<Vec<_>>();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), samples.len());
}

#[test]
fn a_host_with_two_entries_is_one_machine() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let entry = |name: &str, enabled: bool| {
        format!(
            "build_machine {{ name = '{name}', user = 'u', systems = {{ 'x86_64-linux' }}, enabled = {enabled}, \
             host_key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPT8ND6KrrZZekAhAq/sAPtog9kbTgoklanLOTp4rVZ6', \
             parallel_builds = 2 }},"
        )
    };
    let [disabled, enabled, other] = [entry("b1", false), entry("B1", true), entry("b2", false)];
    // In any order.
    for entries in [[&disabled, &enabled, &other], [&other, &enabled, &disabled]] {
        let entries: String = entries.into_iter().map(String::as_str).collect();
        std::fs::write(&file, format!("return {{ {entries} }}")).unwrap();
        let pool = crate::machine_file::load(&file, &crate::machine_file::LoadContext::default()).unwrap();
        let state = StateDirectory::new(directory.path().join("offload"));
        let found = machines(&pool, &state, health::now());
        let seen: Vec<(&str, bool, u32)> =
            found.iter().map(|machine| (machine.name.as_str(), machine.is_enabled, machine.slots)).collect();
        assert_eq!(seen, [("b1", true, 2), ("b2", false, 2)]);
    }
}
