//! Whether to compress: `compression = "auto"` in the machine file.
//!
//! SSH fixes compression when a connection is opened, before the data are known. So the choice for each direction rests
//! on earlier transfers ([`state::throughput`](crate::state::throughput)): the rate of the link, and zlib's ratio and
//! speed for such data. The first connection to a machine is not compressed.
//!
//! Compression runs concurrently with sending. So on a compressed link a byte of data takes the longer of two times:
//! sending its compressed part, and compressing it. Compression pays if that is clearly less than sending the byte. On
//! a link that is far slower than zlib with any data (`SLOW_BYTES_PER_SECOND`) compression costs no time, whatever the data. So it is
//! always on there, in case later data compress better.
//!
//! The measurement has limits. A transfer of small items shows the speed of the daemon and not of the link, so it is
//! ignored; so is the time that a program takes to start on the other side. If compression was the bottleneck of a
//! transfer, the link may be faster. If the throughput proves that, the old measurement is dropped, and the next
//! connection measures again. Concurrent transfers share a link, which then seems slower than it is; so a higher rate
//! replaces the old one, and a lower rate is averaged with it.

use std::io::Write;
use std::time::Instant;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::machine::Compressed;
use crate::state::health::Time;
use crate::state::throughput::{Data, LinkSpeed, Throughput};

/// Bytes per second up to which a link is far slower than zlib, whatever the data.
const SLOW_BYTES_PER_SECOND: f64 = 4e6;
/// Bytes per second from which on no compression pays, so that no sample of the data is taken.
const FAST_BYTES_PER_SECOND: f64 = 250e6;
/// Compression pays if its time is at most this part of the time without it.
const WORTHWHILE_RATIO: f64 = 0.9;
/// The part of zlib's own speed from which on zlib was the bottleneck of a transfer.
const CPU_BOUND_RATIO: f64 = 0.5;

/// Returns the directions in which compression pays, according to the record.
pub fn choose(throughput: &Throughput, now: Time) -> Compressed {
    let is_worth = |link_speed: &Option<LinkSpeed>| {
        link_speed.as_ref().is_some_and(|link_speed| link_speed.counts(now) && pays(link_speed))
    };
    Compressed { sending: is_worth(&throughput.sending), receiving: is_worth(&throughput.receiving) }
}

fn pays(link_speed: &LinkSpeed) -> bool {
    if is_slow(link_speed.rate) {
        return true;
    }
    link_speed.data.is_some_and(|Data { ratio, speed }| {
        (ratio / link_speed.rate).max(1.0 / speed) <= WORTHWHILE_RATIO / link_speed.rate
    })
}

/// The observation of a large transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Observation {
    /// Bytes of data per second.
    pub rate: f64,
    pub is_compressed: bool,
    /// The compressibility of the data; `None` if no sample was taken.
    pub data: Option<Data>,
}

/// Returns whether a link with this rate is far slower than zlib.
pub(super) fn is_slow(rate: f64) -> bool {
    rate <= SLOW_BYTES_PER_SECOND
}

/// Returns whether the data of a transfer at this rate, in bytes of data per second, should be sampled.
pub(super) fn is_worth_sampling(rate: f64, is_compressed: bool) -> bool {
    is_compressed || rate < FAST_BYTES_PER_SECOND
}

/// Returns the record after a transfer.
pub(super) fn learn(before: Option<LinkSpeed>, seen: Observation, now: Time) -> Option<LinkSpeed> {
    let before = before.filter(|link_speed| link_speed.counts(now));
    let rate = match (seen.is_compressed, seen.data) {
        (false, _) => seen.rate,
        (true, None) => return before,
        (true, Some(Data { ratio, speed })) if seen.rate >= CPU_BOUND_RATIO * speed => {
            let at_least = seen.rate * ratio;
            return before.filter(|link_speed| at_least <= 1.5 * link_speed.rate);
        }
        (true, Some(Data { ratio, .. })) => seen.rate * ratio,
    };
    let rate = before.map_or(rate, |link_speed| rate.max((rate + link_speed.rate) / 2.0));
    let data = match (before.and_then(|link_speed| link_speed.data), seen.data) {
        (Some(before), Some(data)) => {
            Some(Data { ratio: (before.ratio + data.ratio) / 2.0, speed: (before.speed + data.speed) / 2.0 })
        }
        (before, data) => data.or(before),
    };
    Some(LinkSpeed { rate, measured: now, data })
}

/// Compresses a sample with zlib, at the level of libssh2. `None` if it is empty. The time is measured on this machine
/// under its current load, like that of the transfer.
pub(super) fn try_out(sample: &[u8]) -> Option<Data> {
    let start = Instant::now();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(sample).ok()?;
    let size = encoder.finish().ok()?.len();
    let time = start.elapsed().as_secs_f64();
    let is_measured = !sample.is_empty() && time > 0.0;
    is_measured.then(|| Data { ratio: size as f64 / sample.len() as f64, speed: sample.len() as f64 / time })
}

#[cfg(test)]
mod tests;
