//! Verbs at the same time: one of them is first, and the host is as if they had come one after the other.

use super::{assert_not_steered, assert_steered};
use crate::lab::probe::assert_reaches;
use crate::lab::race::both;
use crate::lab::still::assert_bare;
use crate::lab::*;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

#[test]
fn two_attaches_of_one_id() {
    let host = Host::new("race-attach");
    let (one, two) = (Ns::net_only("one"), Ns::net_only("two"));
    for round in 0..30 {
        let other = if round % 2 == 0 { &one } else { &two };
        let (a, b) = both(
            || host.prestart("x", one.pid(), &[("portslice/ports", "31000")]),
            || host.prestart("x", other.pid(), &[("portslice/ports", "31000")]),
        );
        let codes = [a.code, b.code];
        let fine = match round % 2 {
            0 => [[Some(0), Some(0)], [Some(0), Some(7)], [Some(7), Some(0)]].contains(&codes),
            _ => [[Some(0), Some(7)], [Some(7), Some(0)]].contains(&codes),
        };
        assert!(fine, "round {round}: {a}\n{b}");
        assert_eq!(host.ids(), ["x"], "round {round}");
        let (winner, loser) = if a.code == Some(0) { (&one, other) } else { (other, &one) };
        assert_steered(&host, winner, &format!("round {round}"));
        assert_eq!(host.links().len(), 3, "round {round}: {:?}", host.links());
        if winner.pid() != loser.pid() {
            assert_bare(&format!("round {round}: who lost"), loser);
        }
        host.poststop("x").ok();
        assert_bare(&format!("round {round}: after detach"), winner);
    }
}

#[test]
fn attach_and_detach_of_one_id() {
    let host = Host::new("race-detach");
    let ns = Ns::net_only("raced");
    let attach = || host.prestart("x", ns.pid(), &[("portslice/ports", "31000")]);
    for round in 0..40 {
        // half of the time it is attached already
        if round % 2 == 0 {
            attach().ok();
        }
        let nap = Duration::from_micros(round * 150);
        let (a, d) = both(attach, || {
            std::thread::sleep(nap);
            host.poststop("x")
        });
        assert!(matches!((a.code, d.code), (Some(0 | 7), Some(0 | 7))), "round {round}: {a}\n{d}");
        if host.ids() == ["x"] {
            assert_steered(&host, &ns, &format!("round {round}: leased after {:?} {:?}", a.code, d.code));
            host.poststop("x").ok();
        }
        assert_not_steered(&host, &format!("round {round}"));
        assert_bare(&format!("round {round}"), &ns);
        assert_eq!((host.ids().len(), host.links().len()), (0, 2), "round {round}: {:?}", host.links());
    }
}

#[test]
fn gc_while_containers_come() {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 16\n";
    let host = Host::with("race-gc").config(config).build();
    let namespaces: Vec<Ns> = (0..60).map(|n| Ns::net_only(&format!("c{n}"))).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    let out = host.portslice(["gc"]);
                    assert!(out.code == Some(0) && !out.stdout.contains("removed"), "gc took a live container: {out}");
                }
            });
        }
        for (n, ns) in namespaces.iter().enumerate() {
            host.prestart(&format!("c{n}"), ns.pid(), &[("portslice/ports", "auto:1")]).ok();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert_eq!(host.ids().len(), namespaces.len(), "leases: {:?}", host.ids());
    assert_eq!(host.links().len(), namespaces.len() + 2, "devices");
    for (n, ns) in namespaces.iter().enumerate() {
        host.poststop(&format!("c{n}")).ok();
        assert_bare("after detach", ns);
    }
}

#[test]
fn setup_and_undo_while_containers_come() {
    let host = Host::new("race-setup");
    let ns = Ns::net_only("raced");
    for round in 0..40 {
        let nap = Duration::from_micros(round * 150);
        let (a, u) = both(
            || host.prestart("x", ns.pid(), &[("portslice/ports", "31000")]),
            || {
                std::thread::sleep(nap);
                host.portslice(["setup", "--undo"])
            },
        );
        // either the container was first, and undo says so, or undo was, and the container sets the host up again
        assert!(matches!(u.code, Some(0 | 7)), "round {round}: {u}");
        assert!(a.code.is_some_and(|c| c != 0) != (host.ids() == ["x"]), "round {round}: {a}\n{u}");
        if a.code == Some(0) {
            assert_steered(&host, &ns, &format!("round {round}: undo said {:?}", u.code));
        }
        host.poststop("x").ok();
        assert_bare(&format!("round {round}"), &ns);
        host.portslice(["setup"]).ok();
    }
    for file in ["/etc/sysctl.d/50-portslice.conf", "/etc/systemd/system/portslice-setup.service"] {
        assert!(!Path::new(file).exists(), "a simulated host changed the machine's {file}");
    }
}

#[test]
fn two_containers_want_one_port() {
    let host = Host::new("race-port");
    let (one, two) = (Ns::net_only("one"), Ns::net_only("two"));
    for round in 0..20 {
        let ask = |id: &str, ns: &Ns| host.prestart(id, ns.pid(), &[("portslice/ports", "31000")]);
        let (a, b) = both(|| ask("a", &one), || ask("b", &two));
        let mut codes = [a.code, b.code];
        codes.sort();
        assert_eq!(codes, [Some(0), Some(4)], "round {round}: {a}\n{b}");
        let (winner, id) = if a.code == Some(0) { (&one, "a") } else { (&two, "b") };
        assert_eq!(host.ids(), [id], "round {round}");
        assert_steered(&host, winner, &format!("round {round}"));
        host.poststop(id).ok();
    }
}

#[test]
fn the_first_containers_of_a_boot_come_together() {
    let host = Host::with("race-first").unprepared().build();
    let namespaces: Vec<Ns> = (0..8).map(|n| Ns::net_only(&format!("c{n}"))).collect();
    for round in 0..5 {
        std::thread::scope(|s| {
            for (n, ns) in namespaces.iter().enumerate() {
                let host = &host;
                s.spawn(move || host.prestart(&format!("c{n}"), ns.pid(), &[("portslice/ports", "auto:1")]).ok());
            }
        });
        assert_eq!(host.ids().len(), namespaces.len(), "round {round}: {:?}", host.ids());
        for lease in host.list() {
            let n: usize = lease["id"].as_str().unwrap()[1..].parse().unwrap();
            let port = container::ports_of(lease["ports"].as_str().unwrap())[0];
            let _echo = Echo::start(&namespaces[n], Proto::Udp, SocketAddr::new(probe::any(HOST4), port));
            assert_reaches(&format!("round {round}: c{n}"), &host.peer, Proto::Udp, SocketAddr::new(HOST4, port));
            host.poststop(&format!("c{n}")).ok();
        }
        host.portslice(["setup", "--undo"]).ok();
    }
}
