//! The function `on_event`.

use super::*;
use crate::events::pool::{PoolEvent, PoolEventKind};

fn site(on_event: &str) -> Site {
    Site::new(&format!(
        "local offload = require \"offload\"\nlocal file = \"$DIR/seen\"\nlocal function write(text)\n  \
         local out = assert(io.open(file, \"a\"))\n  out:write(text, \"\\n\")\n  out:close()\nend\n\
         return {{ build_machine {{ name = \"a\", $REST }}, limits = {{ on_event = 0.2 }},\n  on_event = {on_event} }}"
    ))
}

fn load_at(site: &Site) -> Result<Pool, Report> {
    let text = std::fs::read_to_string(site.path()).unwrap();
    std::fs::write(site.path(), text.replace("$DIR", site.directory.path().to_str().unwrap())).unwrap();
    site.load()
}

fn event() -> PoolEvent {
    let event = PoolEvent::of_machine(PoolEventKind::MachineStarted, 1_500, "a:2022".to_owned()).because("why");
    PoolEvent { seconds: Some(2.5), attempt: Some(3), ..event }
}

#[test]
fn on_event_gets_the_event_and_runs_programs() {
    let site = site(
        "function(event)\n    write(event.type .. \" \" .. event.machine .. \" \" .. event.time .. \" \" .. event.seconds \
         .. \" \" .. event.attempt .. \" \" .. event.text .. \" \" .. tostring(event.derivation))\n    \
         write((offload.exec { \"/bin/sh\", \"-c\", \"echo from a program\" }))\n  end",
    );
    let pool = load_at(&site).unwrap();
    assert!(pool.settings.has_on_event);
    assert_eq!(pool.call_on_event(&event()), Ok(()));
    let seen = std::fs::read_to_string(site.directory.path().join("seen")).unwrap();
    let expected = "machine_started a:2022 1.5 2.5 3 'a:2022' was started within 2 s: why nil\nfrom a program\n\n";
    assert_eq!(seen, expected);
}

#[test]
fn an_on_event_that_fails_or_hangs_is_an_error_with_its_place() {
    for (function, expected) in [
        ("function(event) error \"broken\" end", "machines.lua:9: on_event: broken"),
        (
            "function(event) return event.machin end",
            "machines.lua:9: on_event: event has no field 'machin'; did you mean 'machine'?",
        ),
        (
            "function() while true do end end",
            "machines.lua:9: on_event: it did not return within 0.2 s (limits.on_event)",
        ),
        (
            "function() offload.exec({ \"sleep\", \"60\" }, { timeout = 60 }) end",
            "machines.lua:9: on_event: it did not return within 0.2 s (limits.on_event)",
        ),
    ] {
        let site = site(function);
        let error = load_at(&site).unwrap().call_on_event(&event()).unwrap_err();
        assert_eq!(site.relative(error), expected, "{function}");
    }
    // Its memory is limited, too.
    let site = site("function() local text = \"x\" while true do text = text .. text end end");
    assert!(load_at(&site).unwrap().call_on_event(&event()).is_err());
}

#[test]
fn on_event_must_be_a_function_of_the_pool() {
    let error = load_at(&site("\"mail\"")).unwrap_err().to_string();
    assert!(error.contains("on_event: expected a function, found \"mail\""), "{error}");
    let own = "return { build_machine { name = \"a\", $REST, on_event = function() end } }";
    assert!(Site::new(own).load().unwrap_err().to_string().contains("unknown field 'on_event'"));
    let without = Site::new("return { build_machine { name = \"a\", $REST } }").load().unwrap();
    assert_eq!(without.call_on_event(&event()), Ok(()));
    assert!(!without.settings.has_on_event);
}
