use super::*;

const NOW: Time = 1_000_000_000;

/// Measured on two processors: text, programs, data that do not compress.
const TEXT: Data = Data { ratio: 0.25, speed: 60e6 };
const PROGRAMS: Data = Data { ratio: 0.4, speed: 40e6 };
const NOISE: Data = Data { ratio: 1.0, speed: 28e6 };

fn link_speed(rate: f64, data: Data) -> LinkSpeed {
    LinkSpeed { rate, measured: NOW, data: Some(data) }
}

/// Returns the time for a byte on a link, compressed or not.
fn time(rate: f64, data: Data, is_compressed: bool) -> f64 {
    if is_compressed { (data.ratio / rate).max(1.0 / data.speed) } else { 1.0 / rate }
}

/// Returns the shorter of both times.
fn better_time(rate: f64, data: Data) -> f64 {
    time(rate, data, true).min(time(rate, data, false))
}

#[test]
fn the_choice_is_as_in_the_table_of_links_and_data() {
    for (megabytes, compressed) in [
        (0.1, &[TEXT, PROGRAMS, NOISE][..]),
        (2.5, &[TEXT, PROGRAMS, NOISE]), // 20 Mbit/s
        (4.0, &[TEXT, PROGRAMS, NOISE]),
        (12.5, &[TEXT, PROGRAMS]), // 100 Mbit/s
        (30.0, &[TEXT, PROGRAMS]),
        (50.0, &[TEXT]),
        (125.0, &[]), // 1 Gbit/s
        (400.0, &[]),
    ] {
        let rate = megabytes * 1e6;
        let found: Vec<Data> =
            [TEXT, PROGRAMS, NOISE].into_iter().filter(|&data| pays(&link_speed(rate, data))).collect();
        assert_eq!(found, compressed, "{megabytes} MB/s");
    }
}

/// With data like the earlier ones, the choice is never slower than the better one by more than a tenth.
#[test]
fn the_choice_is_never_much_slower_than_the_better_one() {
    for data in [TEXT, PROGRAMS, NOISE] {
        for step in 0..60 {
            let rate = 1e5 * 1.15_f64.powi(step);
            let taken = time(rate, data, pays(&link_speed(rate, data)));
            let better = better_time(rate, data);
            assert!(taken <= better / WORTHWHILE_RATIO + f64::EPSILON, "{rate} B/s, {data:?}");
        }
    }
}

/// On a slow link the earlier data do not matter.
#[test]
fn a_slow_link_is_ready_for_other_data() {
    for before in [TEXT, NOISE] {
        for data in [TEXT, PROGRAMS, NOISE] {
            let rate = 2.5e6;
            let better = better_time(rate, data);
            assert!(time(rate, data, pays(&link_speed(rate, before))) <= 1.1 * better);
        }
    }
}

#[test]
fn the_first_transfer_is_not_compressed_and_the_directions_differ() {
    assert_eq!(choose(&Throughput::default(), NOW), Compressed::default());
    let throughput = Throughput { sending: Some(link_speed(1e6, TEXT)), receiving: Some(link_speed(1e8, TEXT)) };
    assert_eq!(choose(&throughput, NOW), Compressed { sending: true, receiving: false });
    assert_eq!(choose(&throughput, NOW + 4_000_000), Compressed::default());
}

#[test]
fn the_rate_is_measured_after_compression() {
    let seen = Observation { rate: 8e6, is_compressed: true, data: Some(TEXT) };
    let link_speed = learn(Some(link_speed(2.5e6, TEXT)), seen, NOW).unwrap();
    assert!((link_speed.rate - 2.25e6).abs() < 1.0, "{link_speed:?}");
    assert!(pays(&link_speed));
}

#[test]
fn a_link_that_is_faster_than_recorded_is_measured_again() {
    let slow = Some(link_speed(2.5e6, TEXT));
    let seen = Observation { rate: 58e6, is_compressed: true, data: Some(TEXT) };
    assert_eq!(learn(slow, seen, NOW), None);
    // If the link is as recorded, zlib may be the bottleneck without a new measurement.
    let middling = Some(link_speed(20e6, TEXT));
    assert_eq!(learn(middling, seen, NOW + 1000), middling);
    assert_eq!(learn(middling, seen, NOW + 4_000_000), None);
}

#[test]
fn a_shared_link_is_not_taken_for_a_slow_one_at_once() {
    let seen = |rate| Observation { rate, is_compressed: false, data: None };
    let fast = learn(None, seen(200e6), NOW);
    assert_eq!(learn(fast, seen(40e6), NOW).unwrap().rate, 120e6);
    assert_eq!(learn(fast, seen(400e6), NOW).unwrap().rate, 400e6);
}

#[test]
fn samples_are_distinguished() {
    let text: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    let text = try_out(text.as_bytes()).unwrap();
    assert!(text.ratio < 0.5 && text.speed > 1e5, "{text:?}");
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(500_000)
    .collect();
    let noise = try_out(&noise).unwrap();
    assert!(noise.ratio > 0.99, "{noise:?}");
    assert_eq!(try_out(&[]), None);
}
