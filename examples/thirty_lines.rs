//! Builds the derivations whose file names come on standard input, all at the same time, on the machines of
//! `/etc/guix/machines.lua`. A machine file for it may call `slots "big"`.
//!
//! The front page of the library's documentation shows it.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, stdin};
use std::sync::{Arc, Mutex};
use std::thread;

use offload::{BuildError, Cancel, Engine, Query};

fn main() -> Result<(), Box<dyn Error>> {
    let slots = Arc::new(Mutex::new(HashMap::from([("big".to_owned(), 8u32)])));
    let engine = Engine::builder() // the system's daemon, its directories, its system type
        .function("slots", move |class: String| slots.lock().unwrap().get(&class).copied().ok_or("no such class"))
        .build()?;
    let pool = engine.load("/etc/guix/machines.lua")?;
    println!("{}", pool.explain(&Query::system("x86_64-linux").feature("kvm")));
    thread::scope(|scope| {
        for drv in stdin().lines().map_while(Result::ok) {
            let (cancel, pool) = (Cancel::default(), &pool); // Cancel: Send + Sync + Clone; cancel.cancel() from anywhere
            #[rustfmt::skip]
            scope.spawn(move || match pool.build(&drv).cancel(&cancel).log(io::stderr()).on_event(|event| println!("{event}")).run() {
                Ok(built) => println!("{drv} on {}: {:?}, {} B sent, {} B fetched", built.machine, built.building, built.sent, built.fetched),
                Err(BuildError::Cancelled) => println!("{drv}: cancelled"),
                Err(error) => println!("{drv}: {error}"),
            });
        }
    });
    Ok(())
}
