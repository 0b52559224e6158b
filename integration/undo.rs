//! Promise: `setup --undo` leaves the host byte for byte as it was, and what the host has of its own goes on working.

use crate::lab::leftovers::Baseline;
use crate::lab::probe::{BOTH, assert_reaches, assert_refused};
use crate::lab::settings::settings;
use crate::lab::still::{Still, files, released};
use crate::lab::*;
use std::net::SocketAddr;

/// What no other baseline looks at: qdiscs, filters and details of the devices, and mounts.
fn details(host: &Host) -> String {
    let mut all = String::new();
    for device in ["lo", "eth0"] {
        for what in [
            vec!["tc", "qdisc", "show", "dev", device],
            vec!["tc", "filter", "show", "dev", device, "ingress"],
            vec!["tc", "filter", "show", "dev", device, "egress"],
            vec!["ip", "-d", "link", "show", "dev", device],
        ] {
            all += &format!("{what:?}\n{}", settings(&host.run(&what).stdout));
        }
    }
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", host.ns.pid())).expect("mounts");
    all + &mounts
}

/// Works, as far as the host itself goes.
#[track_caller]
fn assert_host_works(host: &Host, what: &str) {
    for proto in BOTH {
        for (server, client, at) in [
            (&host.ns, &host.peer, HOST4),
            (&host.ns, &host.peer, HOST6),
            (&host.ns, &host.ns, LO4),
            (&host.ns, &host.ns, LO6),
            (&host.ns, &host.ns, HOST4),
            (&host.peer, &host.ns, PEER4),
            (&host.peer, &host.ns, FAR6),
        ] {
            for port in [20_000, 31_000, 33_000] {
                let to = SocketAddr::new(at, port);
                assert_refused(what, client, proto, to);
                let echo = Echo::start(server, proto, to);
                assert_reaches(what, client, proto, to);
                drop(echo);
                released(server, port);
            }
        }
    }
}

/// Attaches, is reached, detaches.
#[track_caller]
fn a_container_lives(host: &Host, id: &str) {
    let container = host.bare(id, &["--ports", "31000"]);
    let _echo = Echo::start(&container.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches(id, &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    container.detach();
}

fn comes_back(
    name: &str,
    plan: impl FnOnce(host::Plan) -> host::Plan,
    prepare: impl FnOnce(&Host),
    undo: impl FnOnce(&Host),
) {
    let host = plan(Host::with(name).unprepared()).build();
    prepare(&host);
    let (before, details_before) = (Baseline::of(&host.ns), details(&host));
    for round in ["setup", "setup twice", "a container without setup"] {
        if round.starts_with("setup") {
            host.portslice(["setup"]).ok();
        }
        if round.ends_with("twice") {
            let still = Still::of(&host);
            host.portslice(["setup"]).ok();
            still.check_all("setup twice");
        }
        let reserve = round.starts_with("setup") || host.ns.sysctl("ipv4.ip_local_port_range") == "57344\t60999";
        if reserve {
            a_container_lives(&host, round.split(' ').next_back().unwrap());
        }
        host.portslice(["setup", "--undo"]).ok();
        let left = before.compare(&host.ns, &host.state_dir());
        let left: Vec<_> = left.into_iter().filter(|l| !l.contains("still has")).collect();
        assert!(left.is_empty(), "{round}, undone: {}", left.join("\n  "));
        assert_eq!(details(&host), details_before, "{round}, undone: qdiscs, filters, links and mounts");
        assert!(!host.state_dir().exists(), "{round}, undone: {:?} is there: {:?}", host.state_dir(), files(&host));
        host.portslice(["setup", "--undo"]).ok();
    }
    undo(&host);
}

#[test]
fn a_plain_host() {
    comes_back("undo-plain", |p| p, |_| {}, |_| {});
}

#[test]
fn a_host_with_reservations_of_its_own() {
    comes_back(
        "undo-reserved",
        |p| p.port_range("32768 60999"),
        |host| {
            host.ns.set_sysctl("ipv4.ip_local_reserved_ports", "20000,40000-40010,60001");
            host.ns.set_sysctl("ipv4/conf/lo/accept_local", "1");
        },
        |host| {
            assert_eq!(host.ns.sysctl("ipv4.ip_local_reserved_ports"), "20000,40000-40010,60001");
            host.ns.set_sysctl("ipv4.ip_local_reserved_ports", "\n");
            host.ns.set_sysctl("ipv4/conf/lo/accept_local", "0");
        },
    );
}

#[test]
fn a_host_with_filters_of_somebody_else() {
    comes_back(
        "undo-filters",
        |p| p,
        |host| {
            for device in ["lo", "eth0"] {
                host.run(["tc", "qdisc", "add", "dev", device, "clsact"]).ok();
                for (direction, port) in [("ingress", "9999"), ("egress", "9998")] {
                    let filter = format!(
                        "tc filter add dev {device} {direction} protocol ip pref 7 u32 match ip dport {port} 0xffff classid 1:1"
                    );
                    host.run(filter.split(' ')).ok();
                }
            }
        },
        |host| {
            for device in ["lo", "eth0"] {
                host.run(["tc", "qdisc", "del", "dev", device, "clsact"]).ok();
            }
        },
    );
}

#[test]
fn somebody_elses_files_stay() {
    let host = Host::with("undo-files").unprepared().build();
    std::fs::create_dir(host.state_dir()).expect("state directory");
    let note = host.state_dir().join("note");
    std::fs::write(&note, "mine").expect("note");
    host.portslice(["setup"]).ok();
    a_container_lives(&host, "x");
    host.portslice(["setup", "--undo"]).ok();
    assert_eq!(std::fs::read_to_string(&note).expect("the note is still there"), "mine");
    let left: Vec<_> = std::fs::read_dir(host.state_dir()).unwrap().flatten().map(|e| e.path()).collect();
    assert_eq!(left, [note], "the state directory after undo");
    std::fs::remove_dir_all(host.state_dir()).expect("state directory");
}

#[test]
fn a_setting_changed_meanwhile_is_kept() {
    let host = Host::with("undo-changed").unprepared().build();
    host.portslice(["setup"]).ok();
    // the operator reserves one more port while containers run
    let reserved = format!("{},20000", host.ns.sysctl("ipv4.ip_local_reserved_ports"));
    host.ns.set_sysctl("ipv4.ip_local_reserved_ports", &reserved);
    host.portslice(["setup", "--undo"]).ok();
    let after = host.ns.sysctl("ipv4.ip_local_reserved_ports");
    host.ns.set_sysctl("ipv4.ip_local_reserved_ports", "\n");
    assert_eq!(after, "20000", "net.ipv4.ip_local_reserved_ports after undo");
}

#[test]
fn undo_while_containers_are_attached() {
    let host = Host::new("undo-busy");
    let container = host.bare("busy-1", &["--ports", "31000"]);
    let echo = Echo::start(&container.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    let still = Still::of(&host);
    for _ in 0..2 {
        host.portslice(["setup", "--undo"]).refused(7, "busy-1");
        still.check_all("undo refused");
        assert_reaches("still attached", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    }
    host.portslice(["setup"]).ok();
    still.check_all("setup with a container");
    assert_reaches("still attached", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    drop(echo);
    // one that is gone, and nobody said so, is no reason
    container.kill();
    assert!(wait::eventually(|| host.links() == ["eth0", "lo"]));
    host.portslice(["setup", "--undo"]).ok();
    assert!(!host.state_dir().exists(), "{:?}", files(&host));
}

#[test]
fn a_dry_run_changes_nothing() {
    let host = Host::with("undo-dry").unprepared().build();
    let (before, details_before) = (Baseline::of(&host.ns), details(&host));
    let out = host.portslice(["setup", "--dry-run"]).ok();
    assert!(out.stdout.contains("eth0") && out.stdout.contains("31000-31999,32768-57343"), "{out}");
    assert_eq!(before.compare(&host.ns, &host.state_dir()), [""; 0]);
    assert_eq!(details(&host), details_before);
    host.portslice(["setup"]).ok();
    let still = Still::of(&host);
    host.portslice(["setup", "--undo", "--dry-run"]).ok();
    still.check_all("undo --dry-run");
}

#[test]
fn the_programs_stay_and_pass_everything() {
    let host = Host::new("undo-stay");
    assert_host_works(&host, "prepared, nothing attached");
    a_container_lives(&host, "x");
    let details_between = details(&host);
    assert_host_works(&host, "after the last detach");
    a_container_lives(&host, "y");
    assert_eq!(details(&host), details_between, "qdiscs and filters after one more container");
    host.portslice(["setup", "--undo"]).ok();
    assert_host_works(&host, "after undo");
}

#[test]
fn an_uplink_renamed() {
    let host = Host::new("undo-rename");
    let old = host.bare("old", &["--ports", "31000"]);
    let _echo = Echo::start(&old.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    let peer = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
    let rename = |from: &str, to: &str| {
        // IPv6 addresses leave with the device going down
        host.ns.ip(&format!(
            "link set {from} down\nlink set {from} name {to}\nlink set {to} up\n\
             addr replace fd77::2/64 dev {to} nodad\nroute replace default via 10.77.0.1 dev {to}\n\
             route replace default via fd77::1 dev {to}"
        ));
        host.ns.settle(&[to]);
    };
    rename("eth0", "wan0");
    assert_reaches("P->old", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    assert_reaches("old->P", &old.ns, Proto::Tcp, peer.at);
    let new = host.bare("new", &["--ports", "31001"]);
    let _second = Echo::start(&new.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_001));
    for (what, ns, to) in [
        ("P->new", &host.peer, SocketAddr::new(HOST4, 31_001)),
        ("P->old", &host.peer, SocketAddr::new(HOST4, 31_000)),
        ("old->new", &old.ns, SocketAddr::new(HOST4, 31_001)),
        ("new->old", &new.ns, SocketAddr::new(LO4, 31_000)),
        ("new->P", &new.ns, peer.at),
        ("old->P", &old.ns, peer.at),
    ] {
        assert_reaches(what, ns, Proto::Tcp, to);
    }
    old.detach();
    new.detach();
    rename("wan0", "eth0");
}

/// What would be refused is refused when it is only planned, too.
#[test]
fn a_plan_of_an_undo_knows_of_containers() {
    let host = Host::new("undo-planned");
    let a = host.bare("a", &[]);
    for args in [&["setup", "--undo"][..], &["setup", "--undo", "--dry-run"]] {
        host.portslice(args).refused(7, "container a is attached: detach it first");
    }
    a.kill();
    assert!(wait::eventually(|| host.links() == ["eth0", "lo"]), "{:?}", host.links());
    let plan = host.portslice(["setup", "--undo", "--dry-run"]).ok().stdout;
    assert!(plan.contains("would remove"), "{plan}");
}
