//! Pictures of the history: rows become the text of a file, without any effect.
//!
//! | file | contents |
//! |---|---|
//! | `lanes` | the builds in each slot, one after the other |
//! | `trace` | Chrome's trace format |
//! | `chart` | a timeline of slots, in SVG; `marks` are its builds, `time_axis` its ticks |
//! | `svg_file` | the chart as a file of its own |
//! | `markup` | XML and HTML, in which all text is escaped |
//! | `units` | numbers and times for people |

pub mod chart;
pub mod lanes;
mod marks;
pub mod markup;
pub mod svg_file;
mod time_axis;
pub mod trace;
pub mod units;
