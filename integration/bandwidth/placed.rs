//! Where a limit sits, and that nothing of it stays when it is over.

use super::*;
use crate::lab::bundle::{Bundle, Network};
use crate::lab::limit::{MBIT, SHAPER, bits, classes, shaped, tc};
use crate::lab::still::assert_bare;
use crate::lab::wait::eventually;

const RATE: u64 = 10 * MBIT;
const WINDOW: Duration = Duration::from_secs(2);

/// Without CAP_NET_ADMIN over a namespace of its own, a container is limited where that costs least; with it, where it
/// cannot reach.
#[test]
fn a_limit_sits_where_the_container_cannot_loosen_it() {
    let host = Host::new("limit-placed");
    let (runc, crun) = (host.runtime("runc"), host.runtime("crun"));
    let prepared = ["runc", "crun"].map(|program| Ns::net_only(&format!("{program}, prepared beforehand")));
    let mut running = Vec::new();
    for (n, (program, runtime)) in [("runc", &runc), ("crun", &crun)].into_iter().enumerate() {
        let bundle = |name: &str| {
            let bundle = Bundle::new(&host, &format!("{program}-{name}"), &["sleep", "1000"]).sliced();
            let limited = ["egress-rate", "ingress-rate"].map(|key| format!("portslice/{key}"));
            let bundle = limited.iter().fold(bundle, |bundle, key| bundle.annotation(key, "10mbit"));
            bundle.annotation("portslice/ports", "auto:1")
        };
        let rows = [
            (bundle("plain"), "inside"),
            (bundle("admin").capabilities(&["CAP_NET_ADMIN", "CAP_KILL"]), "host"),
            // somebody else has the namespace too, and may be anybody
            (bundle("given").network(Network::Path(&prepared[n].path())), "host"),
            // what stays on the host is told apart on the host only
            (bundle("spared").annotation("portslice/limit-local", "false"), "host"),
        ];
        running.extend(rows.map(|(bundle, placed)| (runtime.start(&bundle), placed)));
    }
    let mut streams = Vec::new();
    for (n, (container, placed)) in running.iter().enumerate() {
        let (ns, what) = (container.ns(), &container.id);
        let shown = host.portslice(["show", &container.id, "--json"]).ok().json();
        assert_eq!(shown["egress_placed"], *placed, "{what}: {shown}");
        assert_eq!(bits(&shown["egress"]["rate"]), Some(RATE), "{what}: {shown}");
        let class = format!("1:{:x}", shown["slot"].as_u64().expect("slot"));
        let inside = classes(&ns, "eth0").into_values().next();
        let outside = shaped(&host).get(&class).copied();
        let expected = if *placed == "inside" { (Some(RATE), None) } else { (None, Some(RATE)) };
        assert_eq!((inside, outside), expected, "{what}: the class on its own device, and {class} on the host");
        let port_inside = container::ports_of(shown["ports"].as_str().expect("ports"))[0];
        let (out, back) = (SocketAddr::new(PEER4, port(n)), SocketAddr::new(HOST4, port_inside));
        streams.push((flow::Plan::new(Carrier::Udp, &ns, &host.peer, out).start(), RATE));
        streams.push((flow::Plan::new(Carrier::Tcp, &host.peer, &ns, back).start(), RATE));
    }
    std::thread::sleep(Duration::from_secs(1));
    // a window may begin or end with 64 KB that are about to come
    assert_shares(&streams, WINDOW, 0.9);
    drop(streams);
    for (container, placed) in running {
        let drops = host.portslice(["show", &container.id, "--json"]).ok().json()["drops"]["egress_limit"].clone();
        assert_eq!(drops, 0, "{}: one socket that waits, limited {placed}", container.id);
        container.delete().ok();
    }
    // a slice lives as long as the namespace that somebody else has too, or until an operator ends it
    let left = host.ids();
    assert_eq!(left.len(), prepared.len(), "{left:?}");
    left.iter().for_each(|id| drop(host.portslice(["detach", id]).ok()));
    for ns in &prepared {
        assert_bare("deleted", ns);
        assert!(!tc(ns, &["qdisc"]).contains("htb"), "{}: {}", ns.name, tc(ns, &["qdisc"]));
    }
}

/// A limit inside follows `set` and comes off again; where a new one is put then, `show` says.
#[test]
fn a_limit_inside_is_changed_inside() {
    let host = Host::new("limit-inside");
    let runtime = host.runtime("runc");
    let bundle = Bundle::new(&host, "c", &["sleep", "1000"]).sliced().annotation("portslice/egress-rate", "20mbit");
    let running = runtime.start(&bundle);
    let ns = running.ns();
    let mut inside = Some("inside");
    for (n, (rate, expected)) in
        [("10mbit", Some(RATE)), ("30mbit", Some(3 * RATE)), ("0B", None), ("10mbit", Some(RATE))]
            .into_iter()
            .enumerate()
    {
        let lease = host.portslice(["set", &running.id, "--egress-rate", rate, "--json"]).ok().json();
        assert_eq!(bits(&lease["egress"]["rate"]), expected, "{rate}: {lease}");
        // a queue that lets everything through at once is none
        let own = classes(&ns, "eth0").into_values().next().filter(|rate| *rate < 30_000 * MBIT);
        let others = shaped(&host).into_values().next();
        let placed = lease["egress_placed"].as_str().filter(|_| expected.is_some());
        if let Some(expected) = inside.filter(|_| expected.is_some()) {
            assert_eq!(placed, Some(expected), "{rate}: {lease}");
        }
        let found = if placed == Some("inside") { (own, others) } else { (others, own) };
        assert_eq!(found, (expected, None), "{rate}: the class where it should be, and elsewhere: {lease}");
        if expected.is_none() {
            inside = None;
        }
        let to = SocketAddr::new(PEER4, port(n));
        let stream = flow::Plan::new(Carrier::Udp, &ns, &host.peer, to).start();
        std::thread::sleep(Duration::from_millis(300));
        let seen = stream.watch(Duration::from_millis(700));
        println!("{placed:?}, {rate}: {seen:.0} bit/s");
        match expected {
            Some(most) => {
                let share = seen / most as f64;
                assert!((0.85..1.1).contains(&share), "{rate}: {share:.3} of it");
            }
            None => assert!(seen > 10.0 * RATE as f64, "{rate}: {seen:.0} bit/s"),
        }
    }
}

#[test]
fn a_limit_leaves_no_trace() {
    let host = Host::new("limit-trace");
    let limited = ["--egress-rate", "10mbit", "--ingress-rate", "10mbit"];
    let (one, two) = (host.bare("one", &limited), host.bare("two", &limited));
    let free = host.bare("free", &[]);
    let expected = |of: &[&Container]| of.iter().map(|c| (c.class(), RATE)).collect();
    assert_eq!(shaped(&host), expected(&[&one, &two]), "classes with two limited containers");
    let leaves = || tc(&host.ns, &["qdisc", "show", "dev", SHAPER]).lines().filter(|l| !l.contains(" root ")).count();
    let with_two = leaves();
    assert_eq!(one.shaped_ingress(), Some(RATE));
    one.detach();
    assert_bare("detached", &one.ns);
    assert_eq!(shaped(&host), expected(&[&two]), "classes after one was detached");
    assert_eq!(leaves(), with_two - 1, "leaves: {}", tc(&host.ns, &["qdisc", "show", "dev", SHAPER]));
    // a namespace that dies by itself, and gc
    two.kill();
    host.portslice(["gc"]).ok();
    assert_eq!(shaped(&host), expected(&[]), "classes after gc");
    // a limit taken off
    for (args, rates) in
        [(&limited[..], [Some(RATE); 2]), (&["--egress-rate", "0B", "--ingress-rate", "0B"], [None; 2])]
    {
        free.set(args).ok();
        assert_eq!(free.shown(), rates, "set {args:?}");
        assert_eq!(free.shaped_ingress(), rates[1], "set {args:?}");
        assert_eq!(free.shaped_egress(), rates[0], "set {args:?}");
    }
    free.detach();
    host.portslice(["setup", "--undo"]).ok();
    let gone = || !host.links().iter().any(|l| l.starts_with("portslice"));
    assert!(eventually(gone), "devices after setup --undo: {:?}", host.links());
}

/// Somebody removed what limits were made of: the next verb makes it anew or says what to do, and nothing runs unlimited.
#[test]
fn setup_mends_what_was_removed() {
    let host = Host::new("limit-mended");
    let limited = host.bare("limited", &["--egress-rate", "10mbit"]);
    host.ns.ip(&format!("link del {SHAPER}"));
    host.portslice(["setup"]).ok();
    let next = host.bare("next", &["--egress-rate", "10mbit"]);
    for (n, container) in [&limited, &next].into_iter().enumerate() {
        assert_eq!(container.in_force("after setup")[0], Some(RATE), "{}", container.id);
        let to = SocketAddr::new(PEER4, port(n));
        let stream = flow::Plan::new(Carrier::Udp, &container.ns, &host.peer, to).start();
        let began = stream.began();
        std::thread::sleep(Duration::from_millis(1100));
        let share = assert_within(&stream, RATE, began, Duration::from_secs(1)) / RATE as f64;
        assert!(share > 0.8, "{}: only {share:.3} of its limit", container.id);
    }
}
