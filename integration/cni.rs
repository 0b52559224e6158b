//! Promise: a container that a runtime attaches by CNI has a slice like any other, and CNI's own rules hold.

mod ended;
mod hooked;
mod recorded;
mod tampered;

use crate::lab::cni::Attachment;
use crate::lab::probe::{BOTH, Stranger, assert_reaches, assert_refused};
use crate::lab::*;
use serde_json::{Value, json};
use std::net::SocketAddr;

const PORTS: [(&str, &str); 1] = [("portslice/ports", "31000-31001")];

/// A peer reaches a server in `ns`, and the server's namespace reaches the peer, by both families and protocols.
#[track_caller]
fn assert_works(what: &str, host: &Host, ns: &Ns, port: u16) {
    for (own, outside) in [(HOST4, FAR4), (HOST6, FAR6)] {
        for proto in BOTH {
            let _echo = Echo::start(ns, proto, SocketAddr::new(own, port));
            assert_reaches(what, &host.peer, proto, SocketAddr::new(own, port));
            let _outside = Echo::start(&host.peer, proto, SocketAddr::new(outside, 20_000));
            assert_reaches(what, ns, proto, SocketAddr::new(outside, 20_000));
        }
    }
}

fn mac(ns: &Ns, device: &str) -> String {
    tap::mac_of(ns, device).map(|byte| format!("{byte:02x}")).join(":")
}

/// Under the name that the runtime chose, which is not the uplink's, and with what the kernel shows.
#[test]
fn an_attached_container_works_and_is_told_truly() {
    let host = Host::new("cni-works");
    let ns = Ns::net_only("container");
    let attachment = Attachment { device: "net7".into(), ..Attachment::new("web", &ns.path()).annotated(&PORTS) };
    let result = attachment.add(&host);
    let slot = host.list()[0]["slot"].as_u64().expect("slot");
    let outer = format!("portslice{slot}");
    let sandbox = ns.path();
    let wanted = json!({
        "interfaces": [
            {"name": outer, "mac": mac(&host.ns, &outer), "mtu": 65535},
            {"name": "net7", "mac": mac(&ns, "net7"), "sandbox": sandbox, "mtu": 65535},
        ],
        "ips": [
            {"address": "10.77.0.2/32", "interface": 1},
            {"address": "fd77::2/128", "interface": 1},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "mtu": 1500},
            {"dst": "10.77.0.0/24", "mtu": 1500},
            {"dst": "fd77::/64", "mtu": 1500, "priority": 256},
            {"dst": "::/0", "mtu": 1500, "priority": 1024},
        ],
        "cniVersion": "1.1.0",
    });
    assert_eq!(result, wanted);
    assert_eq!(mac(&ns, "net7"), mac(&host.ns, "eth0"), "the container's device is the uplink to programs");
    assert_works("attached as net7", &host, &ns, 31_000);
    attachment.check(&host, &result).ok();
    attachment.clone().with("prevResult", result).del(&host);
    assert_eq!(host.ids(), [""; 0]);
    for proto in BOTH {
        assert_refused("after DEL", &host.peer, proto, SocketAddr::new(HOST4, 31_000));
    }
}

/// The same attachment again is the same slice; another of the same container is refused, and its end is nothing to the first.
#[test]
fn an_attachment_is_made_once() {
    let host = Host::new("cni-once");
    let ns = Ns::net_only("container");
    let attachment = Attachment::new("web", &ns.path()).annotated(&PORTS);
    let result = attachment.add(&host);
    let lease = host.list();
    assert_eq!(attachment.add(&host), result);
    for other in [
        Attachment { device: "eth1".into(), ..attachment.clone() },
        attachment.clone().with("name", json!("other")),
        attachment.clone().annotated(&[("portslice/ports", "31000")]),
    ] {
        other.call(&host, "ADD").failed(11, "container web is attached already, with other settings");
    }
    Attachment { device: "eth1".into(), ..attachment.clone() }.del(&host);
    attachment.clone().with("name", json!("other")).del(&host);
    assert_eq!(host.list(), lease);
    assert_works("after what was refused", &host, &ns, 31_000);
    attachment.check(&host, &result).ok();
    Attachment { device: "eth1".into(), ..attachment.clone() }
        .check(&host, &result)
        .failed(3, "container web is not attached to network portslice as eth1");
    attachment.del(&host);
    assert_eq!(host.ids(), [""; 0]);
}

#[test]
fn fifty_at_a_time() {
    let host = Host::new("cni-fifty");
    let all: Vec<Ns> = (0..50).map(|n| Ns::net_only(&format!("container {n}"))).collect();
    let attachment = |n: usize| {
        let ports = (31_000 + n).to_string();
        let asked = [("portslice/ports", ports.as_str()), ("portslice/ephemeral-ports", "256")];
        Attachment::new(&format!("c{n}"), &all[n].path()).annotated(&asked)
    };
    std::thread::scope(|scope| {
        for n in 0..50 {
            let (host, attachment) = (&host, &attachment);
            scope.spawn(move || attachment(n).add(host));
        }
    });
    let leases = host.list();
    let distinct = |key: fn(&Value) -> String| leases.iter().map(key).collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(distinct(|lease| lease["slot"].to_string()), 50);
    assert_eq!(distinct(|lease| lease["block"].to_string()), 50);
    for n in [0, 17, 49] {
        assert_works(&format!("one of fifty, {n}"), &host, &all[n], 31_000 + n as u16);
    }
    std::thread::scope(|scope| {
        for n in 0..50 {
            let (host, attachment) = (&host, &attachment);
            scope.spawn(move || attachment(n).del(host));
        }
    });
    assert_eq!(host.ids(), [""; 0]);
}

/// The runtime is told to come again, and the kubelet that the node takes no more.
#[test]
fn a_full_pool_is_a_reason_to_come_again() {
    let host = Host::with("cni-full").config("ephemeral_ports = \"32768-34815\"\nports = \"31000-31999\"\n").build();
    let all: Vec<Ns> = (0..3).map(|n| Ns::net_only(&format!("container {n}"))).collect();
    let attachment = |n: usize| Attachment::new(&format!("c{n}"), &all[n].path());
    attachment(0).call(&host, "STATUS").ok();
    attachment(0).add(&host);
    attachment(1).add(&host);
    let full = "pool 32768-34815 has no free block of 1024 ports: it holds 2, leased to c0, c1";
    attachment(2).call(&host, "ADD").failed(11, full);
    attachment(2).call(&host, "STATUS").failed(50, full);
    attachment(2).del(&host);
    attachment(0).del(&host);
    attachment(2).call(&host, "STATUS").ok();
    attachment(2).add(&host);
    assert_eq!(host.ids(), ["c1", "c2"]);
    // A container whose end nobody told of is in nobody's way.
    all[1].kill();
    assert!(wait::eventually(|| attachment(0).call(&host, "STATUS").code == Some(0)), "{:?}", host.list());
}

#[test]
fn a_host_without_its_uplink_has_limited_connectivity() {
    let host = Host::new("cni-status");
    let ns = Ns::net_only("container");
    let attachment = Attachment::new("web", &ns.path());
    attachment.add(&host);
    host.ns.ip("link set eth0 down");
    host.altered();
    let out = attachment.call(&host, "STATUS");
    attachment.del(&host);
    let alone = attachment.call(&host, "STATUS");
    host.ns.ip("link set eth0 up\naddr add fd77::2/64 dev eth0 nodad\nroute add default via 10.77.0.1 dev eth0");
    host.ns.settle(&["eth0"]);
    host.ns.ip("route add default via fd77::1 dev eth0");
    out.failed(51, "uplink");
    alone.failed(50, "uplink");
}

/// What is refused changes nothing, and says what it is.
#[test]
fn what_cannot_be_attached_is_refused_in_one_line() {
    let host = Host::new("cni-refused");
    let ns = Ns::net_only("container");
    let attachment = Attachment::new("web", &ns.path());
    let mapped = |host: u64, container: u64, ip: &str| {
        let mapping = json!({"hostPort": host, "containerPort": container, "protocol": "tcp", "hostIP": ip});
        attachment.clone().with("runtimeConfig", json!({"portMappings": [mapping]}))
    };
    let _taken = Stranger::at(&host.ns, 31_005);
    mapped(31_005, 31_005, "").call(&host, "ADD").failed(104, "port 31005 is in use by process");
    mapped(31_000, 0, "").call(&host, "ADD").failed(7, "host port 31000 for container port 0");
    mapped(31_000, 31_000, "10.77.0.9").call(&host, "ADD").failed(7, "hostIP 10.77.0.9");
    mapped(8080, 8080, "").call(&host, "ADD").failed(7, "ports 8080 cannot be assigned");
    let other = Ns::net_only("other");
    let _other = Attachment::new("other", &other.path()).annotated(&PORTS).add(&host);
    mapped(31_000, 31_000, "").call(&host, "ADD").failed(104, "port 31000 is leased to container other");
    Attachment { netns: "/run/netns/none".into(), ..attachment.clone() }
        .call(&host, "ADD")
        .failed(3, "there is no network namespace /run/netns/none");
    Attachment { netns: host.ns.path(), ..attachment.clone() }
        .call(&host, "ADD")
        .failed(105, "container web has no network namespace of its own");
    Attachment { args: "portslice.prots=31000".into(), ..attachment.clone() }
        .call(&host, "ADD")
        .failed(4, "CNI_ARGS portslice.prots: unknown key; did you mean ports?");
    assert_eq!(host.ids(), ["other"]);
    mapped(31_003, 31_003, "10.77.0.2").add(&host);
    assert_works("published at the host's address", &host, &ns, 31_003);
}

/// Behind another plugin: what that came to is kept.
#[test]
fn a_plugin_of_a_chain() {
    let host = Host::new("cni-chain");
    let ns = Ns::net_only("container");
    let before = json!({
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": ns.path(), "socketPath": "/x"}],
        "ips": [{"version": "4", "address": "127.0.0.1/8", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.1"]},
    });
    let mut attachment = Attachment::new("web", &ns.path()).annotated(&PORTS);
    attachment.network["cniVersion"] = json!("0.4.0");
    let result = attachment.clone().with("prevResult", before.clone()).add(&host);
    assert_eq!(result["interfaces"][0], before["interfaces"][0]);
    assert_eq!(result["ips"][0], before["ips"][0]);
    assert_eq!(result["ips"][1], json!({"version": "4", "address": "10.77.0.2/32", "interface": 2}));
    assert_eq!(result["dns"], before["dns"]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    attachment.check(&host, &result).ok();
    a_plugin_behind(&host, &ns, &attachment, result);
}

/// What a plugin behind ours made, and told in its result, is no damage; what nobody told, or somebody took away since, is.
#[track_caller]
fn a_plugin_behind(host: &Host, ns: &Ns, attachment: &Attachment, result: Value) {
    let shell = |line: &str| {
        let out = ns.command("sh").args(["-c", line]).output().expect("sh");
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let mut all = result;
    for (makes, tells) in [
        // as the plugin `tuning` does
        ("ip link set eth0 address 02:00:00:00:00:99", "/interfaces/2/mac"),
        ("ip addr add 192.0.2.1/32 dev eth0", "/ips"),
        ("ip route add 198.51.100.0/24 dev eth0", "/routes"),
    ] {
        shell(makes);
        attachment.check(host, &all).failed(110, "container web: it");
        match all.pointer_mut(tells).expect("a part of the result") {
            Value::Array(list) if tells == "/ips" => {
                list.push(json!({"version": "4", "address": "192.0.2.1/32", "interface": 2}));
            }
            Value::Array(list) => list.push(json!({"dst": "198.51.100.0/24"})),
            mac => *mac = json!("02:00:00:00:00:99"),
        }
        attachment.check(host, &all).ok();
    }
    shell("ip link set eth0 address 02:00:00:00:00:98");
    attachment.check(host, &all).failed(110, "has the MAC address 02:00:00:00:00:98");
    shell("ip link set eth0 address 02:00:00:00:00:99; ip addr del 192.0.2.1/32 dev eth0");
    attachment.check(host, &all).failed(110, "it was given 192.0.2.1");
    shell("ip addr del 10.77.0.2/32 dev eth0");
    attachment.check(host, &all).failed(110, "lacks the address 10.77.0.2");
}
