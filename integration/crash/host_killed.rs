//! Setup and its undoing are killed: another setup, another undo and the first container find a host they can go on with.

use super::{PORT, assert_steered};
use crate::lab::kill::{Steps, at_every_step, killed};
use crate::lab::leftovers::Baseline;
use crate::lab::*;

/// The calls that a setup may be killed at, each so many of them. Most of those to bpf only look at whose what is.
fn prepare() -> Vec<(&'static str, usize)> {
    let bpf = ("bpf", if long() { 3 } else { 11 });
    let each = ["rename", "write", "mkdir", "mount", "flock", "unlink"].map(|call| (call, 1));
    [("sendto", 3), bpf].into_iter().chain(each).collect()
}

/// The host works: a container is attached, reached, and detached.
#[track_caller]
fn assert_works(host: &Host, ns: &Ns, what: &str) {
    host.prestart("x", ns.pid(), &[("portslice/ports", &PORT.to_string())]).ok();
    assert_steered(host, ns, what);
    host.poststop("x").ok();
}

#[track_caller]
fn assert_as_before(host: &Host, before: &Baseline, what: &str) {
    let left = before.compare(&host.ns, &host.state_dir());
    assert!(left.is_empty(), "{what}: left behind:\n  {}", left.join("\n  "));
    assert!(!host.state_dir().exists(), "{what}: {:?} is still there", host.state_dir());
}

#[test]
fn a_setup_killed_at_every_step() {
    let host = Host::with("crash-setup").unprepared().build();
    let before = Baseline::of(&host.ns);
    let ns = Ns::net_only("after a killed setup");
    let steps = at_every_step(
        &prepare(),
        |call, n| killed(&host, call, n, &["portslice", "setup"], ""),
        |what, kills| {
            match kills % 3 {
                0 => {
                    host.portslice(["setup"]).ok();
                    assert_works(&host, &ns, what);
                }
                // the first attach prepares the host as well
                1 => assert_works(&host, &ns, what),
                _ => {}
            }
            host.portslice(["setup", "--undo"]).ok();
            assert_as_before(&host, &before, what);
        },
    );
    assert!(steps > 20, "only {steps} steps were found");
}

#[test]
fn an_undo_killed_at_every_step() {
    // a pin of each program and map, one like the other
    let pins = if long() { 1 } else { 5 };
    let undo: &Steps =
        &[("unlink", pins), ("write", 1), ("rename", 1), ("umount2", 1), ("rmdir", 1), ("unlinkat", 1), ("flock", 1)];
    let host = Host::with("crash-undo").unprepared().build();
    let before = Baseline::of(&host.ns);
    let ns = Ns::net_only("after a killed undo");
    let steps = at_every_step(
        undo,
        |call, n| {
            host.portslice(["setup"]).ok();
            killed(&host, call, n, &["portslice", "setup", "--undo"], "")
        },
        |what, kills| {
            match kills % 3 {
                0 => {}
                // somebody changes their mind
                1 => {
                    host.portslice(["setup"]).ok();
                    assert_works(&host, &ns, &format!("{what}, set up again"));
                }
                // or a container comes first
                _ => assert_works(&host, &ns, &format!("{what}, attached again")),
            }
            host.portslice(["setup", "--undo"]).ok();
            assert_as_before(&host, &before, what);
        },
    );
    assert!(steps > 6, "only {steps} steps were found");
}
