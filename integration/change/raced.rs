//! Changes that come at the same time, and with the end.

use crate::lab::limit::MBIT;
use crate::lab::probe::assert_reaches;
use crate::lab::race::both;
use crate::lab::still::{assert_bare, released};
use crate::lab::*;
use std::net::SocketAddr;
use std::time::Duration;

#[test]
fn two_changes_end_in_one_of_their_orders() {
    let host = Host::new("change-race");
    let container = host.bare("c", &["--ports", "31000"]);
    let mut seen = [0, 0];
    for round in 0..30 {
        let set = |rate: &str, ports: &str| {
            let out = container.set(&["--egress-rate", rate, "--ingress-rate", rate, "--ports", ports]);
            assert!(matches!(out.code, Some(0 | 7)), "round {round}: {out}");
            out.code == Some(0)
        };
        let (a, b) = both(|| set("10mbit", "31000-31010"), || set("20mbit", "31000,31020-31030"));
        assert!(a || b, "round {round}: both were refused");
        let rates = container.in_force(&format!("round {round}"));
        let shown = container.show();
        let ports = shown["ports"].as_str().expect("ports");
        let whose = match (rates, ports) {
            ([Some(e), Some(i)], "31000-31010") if (e, i) == (10 * MBIT, 10 * MBIT) => 0,
            ([Some(e), Some(i)], "31000,31020-31030") if (e, i) == (20 * MBIT, 20 * MBIT) => 1,
            _ => panic!("round {round}: {rates:?} and {ports} are nobody's change"),
        };
        assert!([a, b][whose], "round {round}: the change that was refused is in effect");
        seen[whose] += 1;
        let (open, shut) = [(31_010, 31_030), (31_030, 31_010)][whose];
        let _servers =
            [open, shut].map(|port| Echo::start(&container.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), port)));
        assert_reaches(&format!("round {round}"), &host.peer, Proto::Udp, SocketAddr::new(HOST4, open));
        probe::assert_refused(&format!("round {round}"), &host.peer, Proto::Udp, SocketAddr::new(HOST4, shut));
    }
    println!("who came last: {seen:?}");
}

#[test]
fn a_change_and_the_end_of_a_container() {
    let host = Host::new("change-race-detach");
    let ns = Ns::net_only("raced");
    let pid = ns.pid().to_string();
    for round in 0..24u64 {
        let args =
            ["attach", "c", "--pid", &pid, "--ports", "31000", "--egress-rate", "5mbit", "--ingress-rate", "5mbit"];
        host.portslice(if round % 2 == 0 { &args[..] } else { &args[..6] }).ok();
        let (s, d) = both(
            || {
                let change = ["--egress-rate", "10mbit", "--ingress-rate", "10mbit", "--ports", "+31001"];
                host.portslice([&["set", "c"], &change[..]].concat())
            },
            || {
                std::thread::sleep(Duration::from_micros(round * 250));
                host.portslice(["detach", "c"])
            },
        );
        assert!(matches!((s.code, d.code), (Some(0 | 6 | 7), Some(0 | 7))), "round {round}: {s}\n{d}");
        if d.code != Some(0) {
            host.portslice(["detach", "c"]).ok();
        }
        assert_eq!(host.ids(), [""; 0], "round {round}: leases");
        assert_bare(&format!("round {round}"), &ns);
        let classes = limit::shaped(&host);
        assert!(classes.is_empty(), "round {round}: classes {classes:?} after {:?} {:?}", s.code, d.code);
        for port in [31_000, 31_001] {
            let echo = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), port));
            let what = format!("round {round}: the host's own {port}");
            assert_reaches(&what, &host.peer, Proto::Udp, SocketAddr::new(HOST4, port));
            drop(echo);
            released(&host.ns, port);
        }
    }
}

/// Many changes of many containers at once: each ends with its own.
#[test]
fn changes_of_many_at_once() {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 128\n";
    let host = Host::with("change-many").config(config).build();
    let containers: Vec<Container> = (0..8).map(|n| host.bare(&format!("c{n}"), &["--egress-rate", "1mbit"])).collect();
    std::thread::scope(|s| {
        for (n, container) in containers.iter().enumerate() {
            s.spawn(move || {
                for round in 0..12 {
                    let rate = format!("{}mbit", 10 * (n + 1) + round);
                    container
                        .set(&["--egress-rate", &rate, "--ingress-rate", if round % 2 == 0 { "0B" } else { &rate }])
                        .ok();
                }
            });
        }
    });
    for (n, container) in containers.iter().enumerate() {
        let last = Some((10 * (n as u64 + 1) + 11) * MBIT);
        assert_eq!(container.in_force("after many changes"), [last; 2], "{}", container.id);
    }
}
