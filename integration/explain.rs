//! Promise: `portslice explain` says of a packet what the data path then does with it.

use crate::groups::members::Ear;
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};

/// How often a program's counter stands in the answer's last step.
fn counted(answer: &serde_json::Value, name: &str) -> u64 {
    let steps = answer["packets"][0]["steps"].as_array().expect("steps");
    let counters = steps.iter().flat_map(|step| step["counters"].as_array().expect("counters"));
    counters.filter(|counter| counter["name"] == name).filter_map(|counter| counter["more"].as_u64()).sum()
}

#[test]
fn what_it_says_happens() {
    let host = Host::new("explain");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019", "--host-loopback", "false"]);
    let explain = |args: &[&str]| host.portslice([&["explain"], args, &["--json"]].concat()).ok().json();

    let said = explain(&["tcp 10.77.0.1:1234 > :31000"]);
    let step = &said["packets"][0]["steps"][0];
    assert_eq!(
        (&step["program"], &step["device"], &step["lease"]),
        (&"from_wire".into(), &"eth0".into(), &a.id.as_str().into()),
        "{said}"
    );

    let shouted = explain(&["TCP 10.77.0.1:1234 > :31000"]);
    assert_eq!(shouted["packets"][0]["steps"][0]["lease"], step["lease"], "{shouted}");

    // a port of B's that it may not send from: the wall that it names is the one that counts
    let said = explain(&["udp :31000 > 198.51.100.1:53", "--from", &b.id]);
    assert_eq!(counted(&said, "net_dropped_reasons.source_port"), 1, "{said}");
    let before = b.drops("source_port");
    let udp = frame::udp((HOST4, 31_000), (FAR4, 53), b"?");
    let (IpAddr::V4(from), IpAddr::V4(to)) = (HOST4, FAR4) else { unreachable!() };
    let packet = frame::V4::new(from, to, frame::UDP, &udp).bytes();
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&b.ns, "eth0"));
    tap::inject(&b.ns, "eth0", &frame::ethernet(macs.0, macs.1, frame::IPV4, &packet));
    assert!(wait::eventually(|| b.drops("source_port") == before + 1), "{}", b.show()["drops"]);

    // a port that a socket inside waits at does not leave; without one it is the host's, which B may not reach
    let port = 8_080;
    let packet = format!("tcp > 127.0.0.1:{port}");
    let ends = |from: &str| {
        explain(&[&packet, "--from", from])["packets"][0]["steps"].as_array().unwrap().last().unwrap()["verdict"]
            .clone()
    };
    assert_eq!((ends(&a.id), ends(&b.id)), ("host".into(), "stack".into()));
    let server = Echo::start(&a.ns, Proto::Tcp, SocketAddr::new(LO4, port));
    assert_eq!(ends(&a.id), "stack", "{}", explain(&[&packet, "--from", &a.id]));
    drop(server);

    let text = host.portslice(["explain", "31012"]).ok();
    assert!(text.stdout.starts_with(&format!("port 31012: {} (slot ", b.id)), "{text}");
    let text = host.portslice(["explain", &a.id]).ok();
    assert!(text.stdout.contains("from_wire on eth0: into") && text.stdout.contains("out of eth0"), "{text}");
    for (asked, code) in [("tcp nonsense", 2), ("gre > :1", 2), ("nobody", 6)] {
        let refused = host.portslice(["explain", asked]);
        assert_eq!(refused.code, Some(code), "{refused}");
    }
}

/// Programs inside know a port by its name, and what is said of a container that ended is that.
#[test]
fn names_are_followed_and_the_ended_send_nothing() {
    let host = Host::with("explain-names").judged("require").build();
    let a = host.bare("a", &["--ports", "31000:80"]);
    let said = host.portslice(["explain", "tcp > 127.0.0.1:80", "--from", "a"]).ok().stdout;
    assert!(said.contains("a: programs inside reach port 31000 as 80") && said.contains("127.0.0.1:31000"), "{said}");
    let outside = host.portslice(["explain", "tcp > 10.77.0.1:80", "--from", "a"]).ok().stdout;
    assert!(!outside.contains("31000 as 80"), "{outside}");
    a.kill();
    assert!(wait::eventually(|| host.links() == ["eth0", "lo"]), "{:?}", host.links());
    let said = host.portslice(["explain", "a"]).ok().stdout;
    assert!(said.contains("its device is gone") && !said.contains("out of eth0"), "{said}");
    host.portslice(["explain", "tcp > 10.77.0.1:80", "--from", "a"]).refused(6, "its device is gone");
    for asked in ["70000", "31000-31005", "tcp"] {
        host.portslice(["explain", asked]).refused(6, "is no port (1-65535), no container that is attached");
    }
    host.portslice(["gc"]).ok();
}

#[test]
fn of_what_is_for_a_group_it_names_who_gets_a_copy() {
    let (host, a, b) = Host::with_two("explain-group");
    let group: SocketAddr = "224.0.0.251:5353".parse().unwrap();
    let first = |args: &[&str]| {
        host.portslice([&["explain"], args, &["--json"]].concat()).ok().json()["packets"][0]["steps"][0].clone()
    };
    let question = "udp 10.77.0.1:5353 > 224.0.0.251:5353";
    assert_eq!(first(&[question])["verdict"], "stack");
    let ear = Ear::joined(&a.ns, "eth0", group);
    let step = first(&[question]);
    assert_eq!(step["verdict"], "copies", "{step}");
    let copies = |id: &str| format!("a copy to each of {id}, and to the host's own stack");
    assert!(step["text"].as_str().unwrap().starts_with(&copies(&a.id)), "{step}");
    let (peer, marker) = (Ear::at(&host.peer, "wire", false, 5353), frame::marker());
    peer.say(group, &marker);
    assert!(ear.hears(&marker).is_some());
    // what another container says to it, and what is for everybody
    let packet = format!("udp :{} > {group}", b.ports[0]);
    let step = first(&[&packet, "--from", &b.id]);
    assert_eq!(step["verdict"], "group", "{step}");
    assert!(step["text"].as_str().unwrap().ends_with(&format!("a copy to each of {}", a.id)), "{step}");
    let step = first(&[&format!("udp 10.77.0.1:9 > 10.77.0.255:{}", b.ports[0])]);
    assert!(step["text"].as_str().unwrap().starts_with(&copies(&b.id)), "{step}");
}

#[test]
fn on_a_host_with_two_cards_it_says_by_which_one() {
    let two = crate::multihomed::two("explain-two", "route add prohibit 10.99.0.0/16");
    let (host, a) = (&two.scene.host, &two.scene.a);
    let ends = |packet: &str, from: Option<&str>| {
        let from = from.map_or(Vec::new(), |from| vec!["--from", from]);
        let said = host.portslice([&["explain", packet, "--json"], &from[..]].concat()).ok().json();
        let packet = &said["packets"][0];
        let last = packet["steps"].as_array().expect("steps").last().expect("a step").clone();
        (packet["packet"].as_str().expect("a packet").to_owned(), last)
    };
    let (packet, last) = ends("udp > 10.88.0.1:53", Some(&a.id));
    assert!(packet.starts_with("udp 10.88.0.2:"), "the source that a program gets: {packet}");
    assert!(last["text"].as_str().unwrap().starts_with("out of eth1"), "{last}");
    let (packet, last) = ends("udp > 198.51.100.1:53", Some(&a.id));
    assert!(packet.starts_with(&format!("udp {HOST4}:")), "{packet}");
    assert!(last["text"].as_str().unwrap().starts_with("out of eth0"), "{last}");
    let (_, last) = ends("udp > 10.99.0.1:53", Some(&a.id));
    assert_eq!(
        (&last["verdict"], &last["counters"][0]["name"]),
        (&"answered".into(), &"net_dropped_reasons.unreachable".into()),
        "{last}"
    );
    let (_, last) = ends(&format!("tcp 10.88.0.1:5 > 10.88.0.2:{}", a.ports[0]), None);
    assert_eq!(
        (&last["program"], &last["device"], &last["lease"]),
        (&"from_wire".into(), &"eth1".into(), &a.id.as_str().into()),
        "{last}"
    );
}
