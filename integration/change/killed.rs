//! Changes that are killed on the way: the next verb finds a container that is as its lease says.

use crate::lab::bundle::Bundle;
use crate::lab::kill::{Steps, at_every_step, killed};
use crate::lab::limit::{MBIT, bits, classes};
use crate::lab::probe::{assert_reaches, assert_refused};
use crate::lab::still::assert_bare;
use crate::lab::*;
use std::net::SocketAddr;

const STEPS: &Steps = &[
    ("sendto", 1),
    ("bpf", 1),
    ("rename", 1),
    ("write", 1),
    ("munmap", 1),
    ("setns", 1),
    ("flock", 1),
    ("exit_group", 1),
];

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(HOST4, port)
}

/// A container with a server on two ports, of which the lease says who may be asked.
struct Changed<'h> {
    host: &'h Host,
    container: Container,
    _servers: [Echo; 2],
}

impl<'h> Changed<'h> {
    fn on(host: &'h Host, args: &[&str]) -> Changed<'h> {
        let container = host.bare("c", args);
        let serve = |port| Echo::start(&container.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), port));
        let _servers = [serve(31_000), serve(31_001)];
        Changed { host, container, _servers }
    }

    /// The kernel does what the lease says: rates, ports, and nothing in between. Says what that is.
    #[track_caller]
    fn consistent(&self, what: &str) -> ([Option<u64>; 2], String) {
        let rates = self.container.in_force(what);
        let shown = self.container.show();
        assert_eq!(shown["stage"], "attached", "{what}: {shown}");
        let ports = shown["ports"].as_str().expect("ports").to_string();
        assert_reaches(what, &self.host.peer, Proto::Udp, at(31_000));
        match ports.as_str() {
            "31000" => assert_refused(what, &self.host.peer, Proto::Udp, at(31_001)),
            "31000-31001" => drop(assert_reaches(what, &self.host.peer, Proto::Udp, at(31_001))),
            other => panic!("{what}: ports {other}"),
        }
        (rates, ports)
    }
}

/// From one state to another and back, killed at every step of the way.
fn set_killed(name: &str, before: &[&str], after: &[&str], rates: [[Option<u64>; 2]; 2]) {
    let host = Host::new(name);
    let attach = [&["--ports", "31000"], before].concat();
    let changed = std::cell::RefCell::new(Changed::on(&host, &attach));
    let (forth, back) = ([after, &["--ports", "+31001"]].concat(), [before, &["--ports", "31000"]].concat());
    let states = [(rates[0], "31000".to_string()), (rates[1], "31000-31001".to_string())];
    let steps = at_every_step(
        STEPS,
        |call, n| {
            let argv = [&["portslice", "set", "c"], &forth[..]].concat();
            killed(&host, call, n, &argv, "")
        },
        |what, kills| {
            let mut changed = changed.borrow_mut();
            match kills % 3 {
                0 => {
                    // gc finishes it or takes it back
                    host.portslice(["gc"]).ok();
                    let found = host.portslice(["fsck"]);
                    assert_eq!((found.code, found.stdout.as_str()), (Some(0), ""), "{what}, gc: {found}");
                    let now = changed.consistent(&format!("{what}, gc"));
                    assert!(states.contains(&now), "{what}, gc: {now:?} is neither before nor after");
                }
                1 => {
                    // the same again
                    changed.container.set(&forth).ok();
                    assert_eq!(changed.consistent(&format!("{what}, set again")), states[1], "{what}, set again");
                }
                _ => {
                    // it ends here, and begins anew
                    changed.container.detach();
                    let what = format!("{what}, detached");
                    assert_bare(&what, &changed.container.ns);
                    let classes = limit::shaped(&host);
                    assert!(classes.is_empty(), "{what}: classes {classes:?}");
                    changed.container.kill();
                    assert_eq!(host.ids(), [""; 0], "{what}: leases");
                    *changed = Changed::on(&host, &attach);
                }
            }
            changed.container.set(&back).ok();
            assert_eq!(changed.consistent(&format!("{what}, set back")), states[0], "{what}, set back");
        },
    );
    assert!(steps > 10, "only {steps} steps were found");
}

#[test]
fn a_change_of_rates_killed_at_every_step() {
    set_killed(
        "change-killed",
        &["--egress-rate", "10mbit", "--ingress-rate", "10mbit"],
        &["--egress-rate", "20mbit", "--ingress-rate", "20mbit"],
        [[Some(10 * MBIT); 2], [Some(20 * MBIT); 2]],
    );
}

#[test]
fn a_first_limit_killed_at_every_step() {
    set_killed(
        "change-killed-first",
        &["--egress-rate", "0B", "--ingress-rate", "0B"],
        &["--egress-rate", "20mbit", "--ingress-rate", "20mbit"],
        [[None; 2], [Some(20 * MBIT); 2]],
    );
}

#[test]
fn a_last_limit_killed_at_every_step() {
    set_killed(
        "change-killed-last",
        &["--egress-rate", "20mbit", "--ingress-rate", "20mbit"],
        &["--egress-rate", "0B", "--ingress-rate", "0B"],
        [[Some(20 * MBIT); 2], [None; 2]],
    );
}

/// A port is the container's until its lease says that it is not: also when the change is killed between the two.
#[test]
fn a_port_given_back_killed_at_every_point_is_nobody_elses_too() {
    let host = Host::new("change-killed-ports");
    let c = host.bare("c", &["--ports", "31000-31001"]);
    let mut kills = 0;
    for point in 1.. {
        let mut command = host.command(["portslice", "set", "c", "--ports", "31000"]);
        let out = run::run(command.env("PORTSLICE_FAULT", point.to_string()), host::COMMAND_LIMIT);
        if out.code == Some(0) {
            break;
        }
        kills += 1;
        let other = Ns::net_only("other");
        let pid = other.pid().to_string();
        let taken = host.portslice(["attach", "other", "--pid", &pid, "--ports", "31001"]);
        host.portslice(["gc"]).ok();
        let found = host.portslice(["fsck"]);
        assert_eq!((found.code, found.stdout.as_str()), (Some(0), ""), "point {point}: {found}");
        let both = taken.code == Some(0) && c.show()["ports"] == "31000-31001";
        assert!(!both, "point {point}: 31001 belongs to both");
        host.portslice(["detach", "other"]).ok();
        drop(other);
        host.portslice(["set", "c", "--ports", "31000-31001"]).ok();
    }
    assert!(kills > 4, "only {kills} points were found");
}

/// The same where the limit sits inside the container.
#[test]
fn a_change_inside_killed_at_every_step() {
    let host = Host::new("change-killed-inside");
    let runtime = host.runtime("runc");
    let bundle = Bundle::new(&host, "c", &["sleep", "1000"]).sliced().annotation("portslice/egress-rate", "20mbit");
    let running = runtime.start(&bundle);
    let ns = running.ns();
    let set = |rate| host.portslice(["set", &running.id, "--egress-rate", rate]).ok();
    let consistent = |what: &str| {
        let shown = host.portslice(["show", &running.id, "--json"]).ok().json();
        assert_eq!(shown["egress_placed"], "inside", "{what}: {shown}");
        let (rate, class) = (bits(&shown["egress"]["rate"]), classes(&ns, "eth0").into_values().next());
        assert_eq!(rate, class, "{what}: the rate as `show` and as tc inside have it");
        rate
    };
    let steps = at_every_step(
        STEPS,
        |call, n| killed(&host, call, n, &["portslice", "set", &running.id, "--egress-rate", "30mbit"], ""),
        |what, kills| {
            if kills % 2 == 0 {
                host.portslice(["gc"]).ok();
                let now = consistent(&format!("{what}, gc"));
                assert!([Some(20 * MBIT), Some(30 * MBIT)].contains(&now), "{what}, gc: {now:?}");
            } else {
                set("30mbit");
                assert_eq!(consistent(&format!("{what}, set again")), Some(30 * MBIT));
            }
            set("20mbit");
            assert_eq!(consistent(&format!("{what}, set back")), Some(20 * MBIT));
        },
    );
    assert!(steps > 10, "only {steps} steps were found");
}

/// Attach and detach have more steps when there is a limit, too.
#[test]
fn a_limited_attach_killed_at_every_step() {
    let host = Host::new("limit-attach-killed");
    let ns = Ns::net_only("killed");
    let pid = ns.pid().to_string();
    let argv = ["portslice", "attach", "x", "--pid", &pid, "--egress-rate", "10mbit", "--ingress-rate", "10mbit"];
    let clean = |what: &str| {
        assert_eq!(host.ids(), [""; 0], "{what}: leases");
        assert_bare(what, &ns);
        let classes = limit::shaped(&host);
        assert!(classes.is_empty(), "{what}: classes {classes:?}");
    };
    let steps = at_every_step(
        STEPS,
        |call, n| {
            // the first limited container of a host makes what all of them share
            if n % 4 == 0 {
                host.portslice(["setup", "--undo"]).ok();
                host.portslice(["setup"]).ok();
            }
            killed(&host, call, n, &argv, "")
        },
        |what, kills| {
            if kills % 2 == 0 {
                host.portslice(&argv[1..]).ok();
                let shown = host.portslice(["show", "x", "--json"]).ok().json();
                let class = format!("1:{:x}", shown["slot"].as_u64().expect("slot"));
                let classes = limit::shaped(&host);
                assert_eq!(classes.get(&class), Some(&(10 * MBIT)), "{what}, attached again: {classes:?}");
            }
            host.portslice(["detach", "x"]).ok();
            clean(&format!("{what}, detached"));
        },
    );
    assert!(steps > 30, "only {steps} steps were found");
    // the way back
    let steps = at_every_step(
        STEPS,
        |call, n| {
            host.portslice(&argv[1..]).ok();
            killed(&host, call, n, &["portslice", "detach", "x"], "")
        },
        |what, _| {
            host.portslice(["detach", "x"]).ok();
            clean(what);
        },
    );
    assert!(steps > 10, "only {steps} steps were found");
}
