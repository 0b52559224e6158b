//! An attach that was killed between any two of its writes: whoever comes next may get what it had begun to take, and what is
//! then done about the first one is nothing to the second.

use super::Living;
use crate::lab::kill::{Steps, at_every_step, killed};
use crate::lab::run::Output;
use crate::lab::wait::eventually;
use crate::lab::*;

const WRITES: &Steps = &[("rename", 1), ("bpf", 1), ("sendto", 1), ("flock", 1), ("write", 2)];

/// After a killed attach of `x`: another container comes, then somebody ends the first one in every way there is.
#[track_caller]
fn the_next_one_lives(host: &Host, first: &Ns, what: &str, kills: usize) {
    let next = Living::on(host, "next", 31_001);
    let end = |args: &[&str]| {
        host.portslice(args).ok();
        next.unharmed(host, &format!("{what}, then {}", args.join(" ")));
    };
    match kills % 3 {
        0 => end(&["gc"]),
        1 => end(&["detach", "x"]),
        _ => {
            host.poststop("x").ok();
            next.unharmed(host, &format!("{what}, then poststop"));
        }
    }
    end(&["gc"]);
    end(&["detach", "x"]);
    still::assert_bare(what, first);
    host.portslice(["detach", "next"]).ok();
    assert_eq!(host.ids(), [""; 0], "{what}");
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "{what}: {:?}", host.links());
}

fn attach(ns: &Ns) -> Vec<String> {
    ["portslice", "attach", "x", "--pid", &ns.pid().to_string(), "--ports", "31000"].map(String::from).into()
}

#[test]
fn what_follows_an_attach_killed_at_any_call_is_unharmed() {
    let host = Host::new("own-killed-calls");
    let first = Ns::net_only("killed");
    let argv = attach(&first);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let steps = at_every_step(
        WRITES,
        |call, n| killed(&host, call, n, &argv, ""),
        |what, kills| the_next_one_lives(&host, &first, what, kills),
    );
    assert!(steps > 20, "only {steps} steps were found: is strace's injection at work?");
}

#[test]
fn what_follows_an_attach_killed_between_any_two_writes_is_unharmed() {
    let host = Host::new("own-killed-writes");
    let first = Ns::net_only("killed");
    let argv = attach(&first);
    let run = |point: usize| -> Output {
        let mut command = host.command(&argv);
        run::run(command.env("PORTSLICE_FAULT", point.to_string()), host::COMMAND_LIMIT)
    };
    let mut kills = 0;
    loop {
        let out = run(kills + 1);
        assert!(matches!(out.code, None | Some(0)), "killed at point {}: {out}", kills + 1);
        if out.code.is_some() {
            break;
        }
        the_next_one_lives(&host, &first, &format!("killed at point {}", kills + 1), kills);
        kills += 1;
        assert!(kills < 100, "it never ends");
    }
    assert!(kills >= 8, "only {kills} points were found");
}
