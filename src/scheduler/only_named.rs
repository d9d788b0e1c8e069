//! The rules of a build for which the caller names the machines.

use std::time::Duration;

use super::rules::{LearnedSource, RuleInput, Rules, Wants};
use crate::machine::Machine;
use crate::machine_file::Fallback;
use crate::status::MachineStatus;

/// The same rules, but only for machines with certain names. A name may have the port after it.
pub struct OnlyNamed<'a> {
    pub rules: &'a dyn Rules,
    pub machines: &'a [&'a Machine],
    pub names: &'a [String],
}

impl Rules for OnlyNamed<'_> {
    fn accepts(&self, machine: usize) -> Result<(), String> {
        let is_named =
            self.machines.get(machine).is_some_and(|machine| self.names.iter().any(|name| machine.is_called(name)));
        if is_named { self.rules.accepts(machine) } else { Err("the build is for other machines".to_owned()) }
    }

    fn score(&self, machine: usize, known: &RuleInput<'_>) -> Result<f64, String> {
        self.rules.score(machine, known)
    }

    fn nearly_as_good(&self) -> f64 {
        self.rules.nearly_as_good()
    }

    fn wants(&self, machine: usize) -> Wants {
        self.rules.wants(machine)
    }

    fn head(&self, _: &MachineStatus, _: &LearnedSource) -> Option<f64> {
        None
    }

    fn when_busy(&self) -> Fallback {
        self.rules.when_busy()
    }

    fn max_expected_wait(&self) -> Option<Duration> {
        self.rules.max_expected_wait()
    }

    fn when_unreachable(&self) -> Fallback {
        self.rules.when_unreachable()
    }

    fn begin(&self) {
        self.rules.begin();
    }

    fn record_attempt(&self, machine: usize) {
        self.rules.record_attempt(machine);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::scheduler::DefaultRules;

    /// Rules by which this machine takes part.
    struct WithHead<'a>(DefaultRules<'a>);

    impl Rules for WithHead<'_> {
        fn accepts(&self, machine: usize) -> Result<(), String> {
            self.0.accepts(machine)
        }

        fn score(&self, machine: usize, known: &RuleInput<'_>) -> Result<f64, String> {
            self.0.score(machine, known)
        }

        fn head(&self, _: &MachineStatus, _: &LearnedSource) -> Option<f64> {
            Some(1.0)
        }
    }

    #[test]
    fn other_machines_refuse_the_build() {
        let machines = ["b1", "b2"].map(|name| Machine::new(name, "offload", Vec::new(), Vec::new()));
        let machines: Vec<&Machine> = machines.iter().collect();
        let names = ["b2".to_owned()];
        let all = WithHead(DefaultRules(&machines));
        let rules = OnlyNamed { rules: &all, machines: &machines, names: &names };
        assert!(rules.accepts(1).is_ok() && rules.accepts(0).is_err() && rules.accepts(2).is_err());
        // So does this machine.
        let learned: LearnedSource = Arc::new(Arc::default);
        let head = |rules: &dyn Rules| rules.head(&MachineStatus::default(), &learned);
        assert!(head(&all).is_some() && head(&rules).is_none());
    }
}
