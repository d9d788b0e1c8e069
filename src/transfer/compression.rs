//! Whether to compress: `compression = "auto"` in the machine file.
//!
//! SSH fixes compression when a connection is opened, before it is known what will pass. So the choice for each way
//! rests on what passed before ([`state::throughput`](crate::state::throughput)): the rate of the line, and what zlib makes of such
//! data. The first connection to a machine is not compressed.
//!
//! Compressing goes on beside sending, so that a compressed line takes for a byte of data whichever is longer: what is
//! left of it on the line, or the compressing. That pays where it is clearly less than a byte takes on the line. On a
//! line that is far slower than zlib is with any data (`SLOW`) compressing costs no time whatever passes, and so it is
//! on there, for the sake of data that differ from those before.
//!
//! What is learned has its limits. A transfer of small items shows how fast a daemon is and not the line, and is not
//! counted; nor is the time that a program takes to start on the other side. When compressing itself was what held a
//! transfer up, the line may be any faster: if it is, by what came through, then what was known of it is forgotten, and
//! the next connection measures. Several transfers at once share a line, which then seems slower than it is; so a
//! higher rate counts at once and a lower one by half.

use std::io::Write;
use std::time::Instant;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::machine::Compressed;
use crate::state::health::Time;
use crate::state::throughput::{Data, LinkSpeed, Throughput};

/// Bytes in a second up to which a line is slower than zlib by far, whatever the data.
const SLOW: f64 = 4e6;
/// Bytes in a second from which on no compression pays, so that the data need not be looked at.
const FAST: f64 = 250e6;
/// How much less time it must take.
const CLEARLY: f64 = 0.9;
/// The part of zlib's own speed from which on it held up a transfer.
const HELD_UP: f64 = 0.5;

/// The directions that are worth it, going by what is remembered.
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
    link_speed
        .data
        .is_some_and(|Data { ratio, speed }| (ratio / link_speed.rate).max(1.0 / speed) <= CLEARLY / link_speed.rate)
}

/// What was seen of a large transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Observation {
    /// Bytes of data in a second.
    pub rate: f64,
    pub is_compressed: bool,
    /// What the data were like; `None` where nobody looked.
    pub data: Option<Data>,
}

/// Whether a line with this rate is slower than zlib by far.
pub(super) fn is_slow(rate: f64) -> bool {
    rate <= SLOW
}

/// Whether the data of a transfer at this rate, in bytes of data a second, are worth a look.
pub(super) fn is_worth_sampling(rate: f64, is_compressed: bool) -> bool {
    is_compressed || rate < FAST
}

/// What is known after a transfer.
pub(super) fn learn(before: Option<LinkSpeed>, seen: Observation, now: Time) -> Option<LinkSpeed> {
    let before = before.filter(|link_speed| link_speed.counts(now));
    let rate = match (seen.is_compressed, seen.data) {
        (false, _) => seen.rate,
        (true, None) => return before,
        (true, Some(Data { ratio, speed })) if seen.rate >= HELD_UP * speed => {
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

/// What zlib makes of a sample, at the level that libssh2 has. `None` if it is empty. The time is what it takes on this
/// machine as busy as it is, like that of the transfer.
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
