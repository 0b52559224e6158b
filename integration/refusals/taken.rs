//! Namespaces, ids and state directories that are somebody's already.

use super::{refused, spare};
use crate::lab::probe::assert_reaches;
use crate::lab::still::{Still, devices};
use crate::lab::*;
use std::net::SocketAddr;

#[test]
fn the_hosts_own_namespace() {
    let host = Host::new("refuse-own");
    let still = Still::of(&host);
    let pid = host.ns.pid();
    let says = "network namespace of its own";
    let path = host.ns.path();
    refused("by hook", &host.prestart("x", pid, &[]), 5, &[says, "x"]);
    refused("by pid", &host.portslice(["attach", "x", "--pid", &pid.to_string()]), 5, &[says]);
    refused("by path", &host.portslice(["attach", "x", "--netns", &path.to_string_lossy()]), 5, &[says]);
    for path in ["/nonexistent", "/etc/passwd", "/tmp", "/dev/zero"] {
        let out = host.portslice(["attach", "x", "--netns", path]);
        refused(path, &out, 6, &[path]);
    }
    // process 1 here is in the machine's namespace, which is not this host's: nothing may be done to it either, but only
    // the hook of that namespace can tell
    still.check_all("after all");
}

#[test]
fn the_state_of_another_namespace() {
    let (host, other) = (Host::new("refuse-state"), Host::new("refuse-state-other"));
    let _one = host.bare("one", &["--ports", "31000"]);
    let (still, unchanged) = (Still::of(&host), Still::of(&other));
    let spare = spare();
    let (state, pid) = (host.state_dir(), spare.pid().to_string());
    let state = state.to_string_lossy();
    for args in [
        vec!["attach", "x", "--pid", &pid],
        vec!["attach", "one", "--pid", &pid],
        vec!["detach", "one"],
        vec!["gc"],
        vec!["setup"],
        vec!["setup", "--undo"],
    ] {
        let out = other.portslice([&["--state-dir", &state], &args[..]].concat());
        let code = if args.contains(&"--undo") { out.code.unwrap_or(0) } else { 5 };
        assert_ne!(code, 0, "{args:?} with another host's state: {out}");
        refused(
            &args.join(" "),
            &out,
            code,
            if code == 5 { &["another network namespace", "--state-dir"] } else { &[] },
        );
        still.check(&args.join(" "));
    }
    still.check_all("the host whose state it is");
    unchanged.check_all("the other host");
}

#[test]
fn the_same_id_again() {
    let host = Host::new("refuse-same");
    let one = host.bare("one", &["--ports", "31000", "--ephemeral-ports", "512"]);
    let (still, spare) = (Still::of(&host), spare());
    let pid = one.ns.pid().to_string();
    let path = one.ns.path();
    for args in [
        vec!["attach", "one", "--pid", &pid, "--ports", "31000", "--ephemeral-ports", "512"],
        vec!["attach", "one", "--pid", &pid, "--ports", "31000"],
        vec!["attach", "one", "--netns", path.to_str().unwrap(), "--ports", "31000"],
    ] {
        host.portslice(&args).ok();
        still.check(&args.join(" "));
    }
    let other = spare.pid().to_string();
    let rows: [(&str, Vec<&str>, &[&str]); 5] = [
        ("another namespace", vec!["attach", "one", "--pid", &other], &["one", "attached already"]),
        ("other ports", vec!["attach", "one", "--pid", &pid, "--ports", "31001"], &["one", "31000"]),
        ("more ports", vec!["attach", "one", "--pid", &pid, "--ports", "31000,auto:1"], &["one", "31000"]),
        ("another size", vec!["attach", "one", "--pid", &pid, "--ephemeral-ports", "1024"], &["one"]),
        (
            "another setting",
            vec!["attach", "one", "--pid", &pid, "--ports", "31000", "--host-loopback", "false"],
            &["one"],
        ),
    ];
    for (what, args, says) in rows {
        refused(what, &host.portslice(&args), 7, says);
        still.check(what);
    }
    still.check_all("after all");
    let _echo = Echo::start(&one.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches("P->one", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
}

#[test]
fn a_second_member_with_other_terms_than_its_slice() {
    let host = Host::new("refuse-second");
    let one = host.bare("one", &["--ports", "31000"]);
    let still = Still::of(&host);
    let pid = one.ns.pid().to_string();
    for (key, value) in
        [("ephemeral-ports", "2048"), ("host-loopback", "false"), ("egress-rate", "20mbit"), ("ingress-rate", "20mbit")]
    {
        let option = format!("--{key}");
        let out = host.portslice(["attach", "two", "--pid", &pid, &option, value]);
        refused(&format!("a second member with {key}"), &out, 7, &["container one", "other terms"]);
    }
    let _echo = Echo::start(&one.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches("P->one", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    still.check_all("after the refusal");
}

#[test]
fn a_namespace_that_has_a_device_of_that_name() {
    let host = Host::new("refuse-eth0");
    let ns = spare();
    ns.ip("link add eth0 type veth peer name other");
    let leases = host.list();
    let pid = ns.pid().to_string();
    refused("a namespace with eth0", &host.portslice(["attach", "x", "--pid", &pid]), 7, &["eth0", "--network none"]);
    assert_eq!(host.list(), leases);
    assert_eq!(devices(&ns), ["eth0", "lo", "other"], "devices of the namespace that was refused");
    assert_eq!(host.links(), ["eth0", "lo"], "devices of the host");
    ns.ip("link del eth0");
    host.portslice(["attach", "x", "--pid", &pid, "--ports", "31000"]).ok();
    host.portslice(["detach", "x"]).ok();
}
