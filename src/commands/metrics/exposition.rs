//! The text of metrics, in two formats that differ in three places.
//!
//! | | OpenMetrics 1.0 | Prometheus 0.0.4 |
//! |---|---|---|
//! | name in the comments of a counter | without `_total` | as in its samples |
//! | unit | a comment | none |
//! | end | `# EOF` | none |
//!
//! node exporter reads files in the second one. Sources: the OpenMetrics specification, "Text format"; Prometheus'
//! "Exposition formats".

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::ValueEnum;

/// The format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    Openmetrics,
    /// The text format of Prometheus, 0.0.4, for node exporter.
    Prometheus,
}

/// What the samples of a metric mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    /// It grows only.
    Counter,
}

/// A metric without its samples.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// With its unit; without `_total`.
    pub name: &'static str,
    pub kind: Kind,
    /// A base unit; empty: none.
    pub unit: &'static str,
    pub help: &'static str,
}

/// The samples of a metric: values of labels, and the number.
pub type Samples<'a> = BTreeMap<Vec<(&'a str, &'a str)>, f64>;

/// Returns a gauge.
pub const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, help }
}

/// Returns a counter.
pub const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, help }
}

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text so far.
pub struct Writer {
    format: Exposition,
    text: String,
}

impl Writer {
    pub fn new(format: Exposition) -> Writer {
        Writer { format, text: String::new() }
    }

    /// Adds a metric with its samples, if there are any.
    pub fn add<'a>(&mut self, metric: &Metric, samples: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>) {
        let sample = match metric.kind {
            Kind::Gauge => metric.name.to_owned(),
            Kind::Counter => format!("{}_total", metric.name),
        };
        let name = if self.format == Exposition::Prometheus { &sample } else { metric.name };
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let mut heading = format!("# HELP {name} {}\n# TYPE {name} {kind}\n", escape(metric.help));
        if self.format == Exposition::Openmetrics && !metric.unit.is_empty() {
            heading += &format!("# UNIT {name} {}\n", metric.unit);
        }
        for (labels, value) in samples {
            self.text += &std::mem::take(&mut heading);
            // A `String` takes any text.
            let _ = writeln!(self.text, "{sample}{} {value}", in_braces(&labels));
        }
    }

    /// Returns the whole text.
    pub fn finish(mut self) -> String {
        if self.format == Exposition::Openmetrics {
            self.text += "# EOF\n";
        }
        self.text
    }
}

fn in_braces(labels: Labels<'_>) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

/// Escapes what has a meaning in a text between quotes.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(format: Exposition) -> String {
        let mut writer = Writer::new(format);
        let counter =
            Metric { name: "offload_phase_seconds", kind: Kind::Counter, unit: "seconds", help: "Time \\ spent." };
        writer.add(&counter, [(vec![("machine", "b\"1\n\\"), ("phase", "x")], 1.5), (vec![], 2.0)]);
        let gauge = Metric { name: "offload_up", kind: Kind::Gauge, unit: "", help: "Up." };
        writer.add(&gauge, [(vec![("machine", "b1")], 1.0)]);
        writer.add(&Metric { name: "offload_none", ..gauge }, []);
        writer.finish()
    }

    #[test]
    fn the_formats_differ_in_the_names_of_counters_the_unit_and_the_end() {
        let openmetrics = "\
# HELP offload_phase_seconds Time \\\\ spent.
# TYPE offload_phase_seconds counter
# UNIT offload_phase_seconds seconds
offload_phase_seconds_total{machine=\"b\\\"1\\n\\\\\",phase=\"x\"} 1.5
offload_phase_seconds_total 2
# HELP offload_up Up.
# TYPE offload_up gauge
offload_up{machine=\"b1\"} 1
# EOF
";
        assert_eq!(example(Exposition::Openmetrics), openmetrics);
        let prometheus = openmetrics
            .replace("HELP offload_phase_seconds ", "HELP offload_phase_seconds_total ")
            .replace("TYPE offload_phase_seconds ", "TYPE offload_phase_seconds_total ")
            .replace("# UNIT offload_phase_seconds seconds\n", "")
            .replace("# EOF\n", "");
        assert_eq!(example(Exposition::Prometheus), prometheus);
    }
}
