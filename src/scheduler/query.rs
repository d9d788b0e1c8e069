//! What is to be decided.

use super::rules::Rules;
use crate::hook::Request;
use crate::machine::Machine;

/// Which of some machines a build goes to. A *place* is an index into `machines`.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    pub request: &'a Request,
    pub machines: &'a [&'a Machine],
    pub rules: &'a dyn Rules,
    /// The places of machines that are not to be tried again.
    pub excluded: &'a [usize],
    /// The score of the head itself, if it may build this and takes part.
    pub head: Option<f64>,
}
