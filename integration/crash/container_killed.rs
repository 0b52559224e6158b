//! Attach and detach are killed, by hook and by command line: the next verb finishes or takes back, and no neighbour notices.

use super::{Neighbour, PORT, assert_not_steered, assert_steered};
use crate::lab::kill::{Steps, at_every_step, killed};
use crate::lab::still::assert_bare;
use crate::lab::wait::eventually;
use crate::lab::*;

const ATTACH: &Steps =
    &[("sendto", 1), ("bpf", 1), ("rename", 1), ("write", 1), ("setns", 1), ("flock", 1), ("exit_group", 1)];

fn attach_killed(name: &str, argv: impl Fn(&Ns) -> (Vec<String>, String)) {
    let host = Host::new(name);
    let neighbour = Neighbour::on(&host);
    let ns = std::cell::RefCell::new(Ns::net_only("killed"));
    let steps = at_every_step(
        ATTACH,
        |call, n| {
            let (argv, input) = argv(&ns.borrow());
            killed(&host, call, n, &argv.iter().map(String::as_str).collect::<Vec<_>>(), &input)
        },
        |what, kills| {
            // a runtime takes the container down with its failed hook; the command line's namespace lives on
            let dies = kills % 2 == 0;
            if dies {
                ns.replace(Ns::net_only(&format!("after: {what}")));
                let reclaimed = || {
                    host.portslice(["gc"]).ok();
                    host.ids() == ["neighbour"]
                };
                assert!(eventually(reclaimed), "{what}: gc leaves {:?}", host.ids());
                assert_not_steered(&host, &format!("{what}, gc"));
            } else if kills % 4 == 1 {
                host.portslice(["gc"]).ok();
            }
            let now = ns.borrow();
            let pid = now.pid().to_string();
            host.portslice(["attach", "x", "--pid", &pid, "--ports", &PORT.to_string()]).ok();
            assert_steered(&host, &now, &format!("{what}, attached again"));
            neighbour.check(&host, what);
            host.portslice(["detach", "x"]).ok();
            assert_bare(&format!("{what}, detached"), &now);
            assert_not_steered(&host, &format!("{what}, detached"));
            assert_eq!(host.ids(), ["neighbour"], "{what}: leases");
        },
    );
    assert!(steps > 30, "only {steps} steps were found: is strace's injection at work?");
    let ours = || host.links().iter().filter(|l| l.starts_with("portslice")).count() == 1;
    assert!(eventually(ours), "devices: {:?}", host.links());
}

#[test]
fn a_prestart_hook_killed_at_every_step() {
    attach_killed("crash-prestart", |ns| {
        let state = hook::creating("x", ns.pid(), &[("portslice/ports", &PORT.to_string())]);
        (vec!["portslice-prestart".into()], state)
    });
}

#[test]
fn an_attach_killed_at_every_step() {
    attach_killed("crash-attach", |ns| {
        let (pid, port) = (ns.pid().to_string(), PORT.to_string());
        (["portslice", "attach", "x", "--pid", &pid, "--ports", &port].map(String::from).into(), String::new())
    });
}

#[test]
fn a_poststop_hook_killed_at_every_step() {
    const DETACH: &Steps =
        &[("sendto", 1), ("bpf", 1), ("rename", 1), ("write", 1), ("unlink", 1), ("setns", 1), ("flock", 1)];
    let host = Host::new("crash-poststop");
    let neighbour = Neighbour::on(&host);
    let ns = Ns::net_only("killed");
    let attach = || host.prestart("x", ns.pid(), &[("portslice/ports", &PORT.to_string())]).ok();
    let steps = at_every_step(
        DETACH,
        |call, n| {
            attach();
            killed(&host, call, n, &["portslice-poststop"], &hook::stopped("x"))
        },
        |what, kills| {
            match kills % 3 {
                0 => {
                    host.poststop("x").ok();
                }
                1 => {
                    // whether it was killed before or after it began, gc leaves a whole container or none
                    host.portslice(["gc"]).ok();
                    if host.ids() == ["neighbour", "x"] {
                        assert_steered(&host, &ns, what);
                        host.poststop("x").ok();
                    }
                }
                _ => {
                    attach();
                    assert_steered(&host, &ns, &format!("{what}, attached again"));
                    host.poststop("x").ok();
                }
            }
            assert_eq!(host.ids(), ["neighbour"], "{what}: leases");
            assert_not_steered(&host, what);
            assert_bare(what, &ns);
            neighbour.check(&host, what);
        },
    );
    assert!(steps > 10, "only {steps} steps were found");
}
