//! A head with a real systemd: Debian's unit of guix-daemon, without privileges, and a store that is read-only outside of
//! the daemon. The same with a daemon that runs as root, as before Guix 1.5.
//!
//! It boots once. The steps are those of the manual's pages: `quick_start` runs the commands of the page.

#[path = "../lab/mod.rs"]
mod lab;
#[path = "../documentation/page.rs"]
#[allow(dead_code)]
mod page;
#[path = "../documentation/transcript.rs"]
mod transcript;

mod package;
mod quick_start;
mod reaper;
mod restart;
mod root_daemon;
mod site;
mod terminal;

use site::Site;

#[test]
fn a_new_user_on_a_head_with_systemd() {
    let site = Site::new();
    site.stage("quick start", quick_start::follow);
    site.stage("restart of the daemon", restart::during_a_build);
    site.stage("timer", reaper::of_the_timer);
    site.stage("terminal", terminal::every_command);
    site.stage("uninstall", restart::uninstall);
    site.stage("package", package::life);
    site.stage("daemon as root", root_daemon::step_by_step);
}
