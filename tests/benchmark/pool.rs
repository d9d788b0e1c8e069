//! The pool for a work: two heads, which differ only in their hooks and share their build machines.

use std::path::Path;
use std::time::Duration;

use crate::lab::{Entry, Hook, Host, Lab, Proxy};
use crate::usage;

/// The properties of the build machines.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The slots of each.
    pub slots: &'static [u32],
    pub link: Link,
    /// Machines beside these which are faster and never answer.
    pub silent: usize,
}

/// What lies between the heads and the build machines.
#[derive(Clone, Copy)]
pub enum Link {
    Loopback,
    /// The time of a round trip, and the bytes that pass in a second, each way and connection.
    Far(Duration, Option<u64>),
}

/// Whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Upstream,
    Offload,
}

pub struct Pool {
    // Before the lab: the hosts are taken down first.
    heads: [Host; 2],
    machines: Vec<Host>,
    _proxies: Vec<Proxy>,
    _lab: Lab,
}

impl Pool {
    /// `against`: another build of `offload` replaces `guix offload`.
    pub fn start(shape: &Shape, against: Option<&Path>) -> Pool {
        let lab = Lab::with_substitutes();
        let (mut machines, mut proxies, mut entries) = (Vec::new(), Vec::new(), Vec::<Entry>::new());
        for (number, slots) in shape.slots.iter().enumerate() {
            let machine = lab.build_machine(&format!("b{number}")).max_jobs(*slots).start();
            let mut entry = machine.entry();
            if let Link::Far(round_trip, rate) = shape.link {
                let proxy = lab.proxy(&format!("far{number}"), machine.ssh_address());
                proxy.delay(round_trip / 2);
                proxy.throttle(rate);
                entry = entry.via(&proxy);
                proxies.push(proxy);
            }
            entries.push(entry);
            machines.push(machine);
        }
        for number in 0..shape.silent {
            let proxy = lab.proxy(&format!("silent{number}"), machines[0].ssh_address());
            proxy.say_nothing();
            entries.push(machines[0].entry().via(&proxy).set("speed", 10.0 - number as f64));
            proxies.push(proxy);
        }
        let upstream = match against {
            None => ("upstream", Hook::Upstream, "/usr/bin/guix"),
            Some(_) => ("upstream", Hook::Offload, "/opt/offload/guix"),
        };
        let heads = [upstream, ("offload", Hook::Offload, "/opt/offload/guix")].map(|(name, hook, program)| {
            let level = std::env::var("OFFLOAD_LOG").unwrap_or("error".to_owned());
            let mut head = lab.head().name(name).hook(hook).env("OFFLOAD_LOG", &level);
            for (name, value) in usage::environment(program) {
                head = head.env(name, &value);
            }
            let head = head.start();
            usage::install(&head);
            if let Some(other) = against.filter(|_| name == "upstream") {
                std::fs::copy(other, head.path("/opt/offload/offload")).unwrap();
            }
            head.write_machines(&entries);
            head
        });
        Pool { heads, machines, _proxies: proxies, _lab: lab }
    }

    pub fn head(&self, side: Side) -> &Host {
        &self.heads[side as usize]
    }

    pub fn machines(&self) -> &[Host] {
        &self.machines
    }

    /// The processor time of all hosts so far.
    pub fn processor_time(&self) -> Duration {
        self.heads.iter().chain(&self.machines).map(usage::processor_time).sum()
    }
}
