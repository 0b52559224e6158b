//! Promise: who looks sees what a container may claim and what it has claimed, and who asks for open ports where nobody can claim is
//! refused.

use crate::lab::*;
use serde_json::json;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// A socket that listens, with SO_REUSEADDR as servers have it.
fn listening(ns: &Ns, port: u16) -> OwnedFd {
    ns.inside(|| {
        let fd = probe::open(Proto::Tcp, HOST4).expect("socket");
        sock::reuse(&fd).expect("SO_REUSEADDR");
        sock::bind(&fd, SocketAddr::new(probe::any(HOST4), port)).expect("bind");
        sock::listen(&fd).expect("listen");
        fd
    })
}

/// A bound socket of UDP.
fn bound(ns: &Ns, port: u16) -> OwnedFd {
    ns.inside(|| {
        let fd = probe::open(Proto::Udp, HOST4).expect("socket");
        sock::bind(&fd, SocketAddr::new(probe::any(HOST4), port)).expect("bind");
        fd
    })
}

#[test]
fn claims_are_told_wherever_one_looks() {
    let config = "ports = \"31000-31999\"\nopen_ports_per_container = 9\n";
    let host = Host::with("open-told").judged("require").config(config).build();
    let a = host.bare("a", &["--open-ports", "80+8000-8099"]);
    let none = host.bare("none", &[]);
    let said = |args: &[&str]| host.portslice(args).ok().stdout;
    assert_eq!((&a.show()["claims"], none.show().get("claims")), (&json!([]), None));
    assert!(said(&["show", "none"]).contains("open ports     none"), "{}", said(&["show", "none"]));

    let (tcp, udp) = (listening(&a.ns, 8080), bound(&a.ns, 8053));
    let both = json!([
        {"port": 8080, "protocol": "tcp", "sockets": 1},
        {"port": 8053, "protocol": "udp", "sockets": 1},
    ]);
    let shown = a.show();
    assert_eq!(shown["claims"], both, "{shown}");
    assert_eq!(shown["open_ports"], json!({"asked": "80,8000-8099", "ports": "80,8000-8099", "limit": 9}), "{shown}");
    let text = said(&["show", "a"]);
    assert!(text.contains("80,8000-8099; 2 of 9 claimed"), "{text}");
    assert!(text.contains("8080/tcp by 1 socket; 8053/udp by 1 socket"), "{text}");

    let listed = host.list();
    let of = |id: &str| listed.iter().find(|one| one["id"] == id).expect("listed").get("claims").cloned();
    assert_eq!((of("a"), of("none")), (Some(both), None));
    let text = said(&["list"]);
    assert!(text.lines().next().unwrap_or_default().contains("PORTS  CLAIMED"), "{text}");
    assert!(text.contains("8080/tcp,8053/udp"), "{text}");

    let statistics = host.portslice(["stats", "--json"]).ok().json();
    let net = |id: &str| {
        let all = statistics.as_array().expect("an array");
        all.iter().find(|one| one["container_id"] == id).expect("its statistics")["statistics"].clone()
    };
    assert_eq!((&net("a")["net_open_ports_claimed"], &net("a")["net_open_ports_limit"]), (&json!(2), &json!(9)));
    assert_eq!(net("none").get("net_open_ports_claimed"), None);
    assert!(said(&["stats", "--all", "a"]).contains("net_open_ports_claimed"));

    let text = said(&["explain", "8080"]);
    assert!(text.starts_with("port 8080 of TCP: claimed by a (slot "), "{text}");
    assert!(text.contains("), 1 socket\n") && text.contains("into a: its sockets have claimed port 8080"), "{text}");
    let text = said(&["explain", "udp 10.77.0.1:5000 > :8053"]);
    assert!(text.starts_with("port 8053 of UDP: claimed by a (slot "), "{text}");
    let text = said(&["explain", "a"]);
    assert!(text.contains("a: has claimed 8080/tcp by 1 socket; 8053/udp by 1 socket"), "{text}");
    assert!(said(&["explain", "8081"]).starts_with("port 8081: no container's"));

    drop((tcp, udp));
    assert_eq!(a.show()["claims"], json!([]));
    let text = said(&["explain", "8080"]);
    assert!(text.starts_with("port 8080: free; what still comes there goes to a (slot "), "{text}");
    drop(listening(&host.ns, 8080));
    assert!(said(&["explain", "8080"]).starts_with("port 8080: no container's"));
}

#[test]
fn a_port_that_rests_says_so() {
    let host = Host::with("open-rests").judged("require").build();
    let a = host.bare("a", &["--open-ports", "8000-8099"]);
    let server = listening(&a.ns, 8080);
    let client = host.peer.inside(|| {
        let fd = probe::open(Proto::Tcp, HOST4).expect("socket");
        sock::connect(&fd, SocketAddr::new(HOST4, 8080)).map(|()| fd).expect("connect")
    });
    let (accepted, _) = sock::accept(&server).expect("accept");
    // the server ends first, so that TIME_WAIT is its own
    drop((server, accepted));
    drop(client);
    let rests = || a.show()["claims"][0]["rests_seconds"].as_u64().is_some_and(|left| (1..=130).contains(&left));
    assert!(wait::eventually(rests), "{}", a.show()["claims"]);
    let text = host.portslice(["explain", "8080"]).ok().stdout;
    assert!(text.contains("resting for ") && text.contains("TIME_WAIT"), "{text}");
}

#[test]
fn open_ports_change_while_a_container_runs() {
    let host = Host::with("open-set").judged("require").build();
    let a = host.bare("a", &["--open-ports", "8000-8099"]);
    let kept = listening(&a.ns, 8080);
    let set = |value: &str| host.portslice(["set", "a", "--open-ports", value]);
    let asked = || a.show()["open_ports"]["asked"].clone();
    set("+9000,-8000-8099").ok();
    assert_eq!(asked(), "9000");
    // what it has claimed stays until it is closed
    assert_eq!(a.show()["claims"][0]["port"], 8080);
    drop(kept);
    // a child of another test may have a copy for a moment
    assert!(wait::eventually(|| a.show()["claims"] == json!([])), "{}", a.show()["claims"]);
    set("-8080").refused(2, "open-ports: 8080 cannot be removed; the container has 9000");
    assert_eq!(asked(), "9000");
    set("all").ok();
    let shown = a.show();
    let offered: portslice::ports::PortSet =
        shown["open_ports"]["ports"].as_str().expect("a set").parse().expect("ports");
    assert!(offered.contains(8080) && !offered.contains(80), "{shown}");
    assert!(!offered.contains(40_000), "the pool is no container's to claim: {shown}");
    set("default").ok();
    assert_eq!(a.show().get("open_ports"), None);
}

#[test]
fn where_nobody_can_claim_open_ports_are_refused() {
    let host = Host::with("open-off").config("socket_rules = \"off\"\nports = \"31000-31999\"\n").build();
    let before = host.links();
    let ids = host.ids();
    let refusal = host.try_bare("a", &["--open-ports", "8080"]).err().expect("refused");
    assert_eq!(refusal.code, Some(5), "{refusal}");
    assert!(
        refusal
            .stderr
            .contains("container a asks for open ports, which are claimed by bind(), but socket_rules is \"off\"")
    );
    assert_eq!((host.links(), host.ids()), (before, ids));
    let b = host.bare("b", &["--open-ports", "none"]);
    host.portslice(["set", "b", "--open-ports", "all"]).refused(5, "which are claimed by bind()");
    assert_eq!(b.show().get("open_ports"), None);
}

#[test]
fn open_ports_are_the_slices() {
    let host = Host::with("open-pod").judged("require").build();
    let a = host.bare("a", &["--open-ports", "8000-8099"]);
    let pid = a.ns.pid().to_string();
    let join = |id: &str, more: &[&str]| host.portslice([&["attach", id, "--pid", &pid], more].concat());
    join("same", &["--open-ports", "8000-8099"]).ok();
    join("silent", &[]).ok();
    join("other", &["--open-ports", "all"]).refused(7, "asks for open-ports");
}
