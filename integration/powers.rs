//! Promise: root in a container has power over its own network alone. One that has CAP_NET_ADMIN over the host's network, as
//! the kernel gives it without a user namespace, is named, and refused where that is forbidden.

mod across;

use crate::lab::bundle::{Bundle, Running};
use crate::lab::probe::{BOTH, assert_reaches, assert_refused};
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use across::{ADMIN, Asked, RAW, id_of_the_other_end};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// What `show` calls it.
const POWER: &str = "CAP_NET_ADMIN over the host's devices as well";
const SETTLED: Duration = Duration::from_millis(60);

fn sliced(host: &Host, name: &str, capabilities: &[&str]) -> Bundle {
    Bundle::new(host, name, &["sleep", "1000"]).sliced().capabilities(capabilities)
}

fn admin(host: &Host, name: &str) -> Bundle {
    sliced(host, name, &["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_KILL"])
}

/// Root of a user namespace of its own, who is nobody outside.
fn mapped(host: &Host, name: &str) -> Bundle {
    // this nobody has to get to its files
    std::fs::set_permissions(&host.dir, std::fs::Permissions::from_mode(0o711)).expect("mode");
    admin(host, name).edit(|c| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        c["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
    })
}

fn shown(host: &Host, id: &str) -> Value {
    host.portslice(["show", id, "--json"]).ok().json()
}

#[test]
fn root_with_power_over_the_hosts_devices_is_named() {
    let host = Host::new("powers-named");
    let runc = host.runtime("runc");
    let plain = runc.start(&sliced(&host, "plain", &["CAP_NET_RAW", "CAP_KILL"]));
    let told = |id: &str| host.portslice(["show", id]).ok().stdout.contains(POWER);
    assert!(!told(&plain.id), "it has no such power");
    assert!(!host.portslice(["doctor"]).stdout.contains("powers"), "nothing to tell is told");
    let admin = runc.start(&admin(&host, "admin"));
    let path = host.bare_named("path", &["--ports", "31000"]);
    assert!(told(&admin.id) && !told(&plain.id), "{}", host.portslice(["show", &admin.id]));
    assert!(told("path"), "a process that was never confined: {}", host.portslice(["show", "path"]));
    assert_eq!(
        (&shown(&host, &admin.id)["net_admin"], &shown(&host, &plain.id)["net_admin"]),
        (&json!(true), &json!(false))
    );
    let doctor = host.portslice(["doctor"]);
    let named = [format!("{}, path", admin.id), format!("path, {}", admin.id)];
    let named = named.map(|both| format!("{both} have {POWER}"));
    assert!(named.iter().any(|line| doctor.stdout.contains(line)), "{doctor}");
    drop(path);
    admin.delete().ok();
    plain.delete().ok();
}

#[test]
fn root_with_power_over_the_hosts_devices_is_refused_where_that_is_forbidden() {
    let host = Host::with("powers-refused").config("refuse_net_admin = true\n").build();
    for program in ["runc", "crun"] {
        let runtime = host.runtime(program);
        let refused = runtime.run(&admin(&host, &format!("{program}-admin")));
        assert_ne!(refused.code, Some(0), "{refused}");
        assert!(host.ids().is_empty(), "{program}: {:?}", host.ids());
        let mapped = runtime.start(&mapped(&host, &format!("{program}-mapped")));
        assert_eq!(host.ids(), [mapped.id.as_str()], "in a user namespace of its own it has its own network alone");
        assert_eq!(shown(&host, &mapped.id)["net_admin"], false, "{program}");
        mapped.delete().ok();
    }
    let _path = host.bare_named("path", &[]);
    let doctor = host.portslice(["doctor"]);
    assert!(doctor.stdout.contains("path has CAP_NET_ADMIN") && doctor.stdout.contains("refuse_net_admin"), "{doctor}");
}

/// What the kernel lets root do in the namespace of the other end of its device, which is the host's.
#[test]
fn the_hosts_devices_are_reached_with_net_admin_and_no_user_namespace_alone() {
    let host = Host::new("powers-across");
    let runc = host.runtime("runc");
    let raw = runc.start(&sliced(&host, "raw", &["CAP_NET_RAW", "CAP_KILL"]));
    let (admin, mapped) = (runc.start(&admin(&host, "admin")), runc.start(&mapped(&host, "mapped")));
    // a pair of devices that portslice has nothing to do with
    let other = Ns::net_only("other");
    host.ns.ip(&format!("link add plain type veth peer name eth0 netns {}", other.pid()));
    let of = |running: &Running| (running.pid, id_of_the_other_end(&running.ns(), "eth0"));
    for (who, (pid, id), powers, may) in [
        ("CAP_NET_RAW", of(&raw), RAW, false),
        ("CAP_NET_ADMIN in a user namespace", of(&mapped), ADMIN, false),
        ("CAP_NET_ADMIN without one", of(&admin), ADMIN, true),
        ("CAP_NET_ADMIN at any pair of devices", (other.pid(), id_of_the_other_end(&other, "eth0")), ADMIN, true),
    ] {
        host.ns.ip("link add victim type veth peer name victim2");
        for asked in Asked::there(id, "victim") {
            let errno = asked.by_root_of(pid, powers).err().map(|e| e.raw_os_error());
            let refused = matches!(errno, Some(Some(libc::EPERM | libc::EACCES)));
            assert!(if may { errno.is_none() } else { refused }, "{who}: {}: {errno:?}", asked.what);
        }
        let made = |name: &str| host.links().iter().any(|link| link == name);
        assert_eq!((made("victim"), made("intruder")), (!may, may), "{who}: {:?}", host.links());
        let rest = if may { "intruder" } else { "victim" };
        host.ns.ip(&format!("link del {rest}"));
    }
    Asked::here().by_root_of(mapped.pid, ADMIN).expect("its own network is its own");
    host.ns.ip("link del plain");
}

/// The walls are on the host's side, and are the same whatever root is inside.
#[test]
fn the_walls_are_the_same_with_and_without_a_user_namespace() {
    let host = Host::new("powers-walls");
    let runc = host.runtime("runc");
    let limited = |bundle: Bundle| {
        let bundle = bundle.annotation("portslice/ports", "auto:1");
        runc.start(&bundle.annotation("portslice/egress-rate", "10mbit"))
    };
    let host_mac = tap::mac_of(&host.ns, "eth0");
    for running in [limited(admin(&host, "admin")), limited(mapped(&host, "mapped"))] {
        let (ns, before) = (running.ns(), shown(&host, &running.id));
        assert_eq!(before["egress_placed"], "host", "root inside could take it away: {before}");
        let own = container::ports_of(before["ports"].as_str().expect("ports"))[0];
        let (mac, stranger) = (tap::mac_of(&ns, "eth0"), "10.77.0.99".parse().unwrap());
        for (what, from, reason) in [
            ("its own port", (HOST4, own), None),
            ("a port of the host", (HOST4, 20_000), Some("source_port")),
            ("an address of another machine", (stranger, own), Some("source_address")),
        ] {
            let (tap, marker) = (Tap::on(&host.peer, "wire"), frame::marker());
            let packet = frame::udp_packet(from, (PEER4, 9_000), &marker);
            tap::inject(&ns, "eth0", &frame::ethernet(host_mac, mac, frame::IPV4, &packet));
            std::thread::sleep(SETTLED);
            let seen = tap.count(|seen| !seen.outgoing && frame::carries(&seen.bytes, &marker));
            assert_eq!(seen, usize::from(reason.is_none()), "{}: from {what}", running.id);
            let Some(reason) = reason else { continue };
            let after = shown(&host, &running.id);
            let count = |shown: &Value| shown["drops"][reason].as_u64().unwrap_or(0);
            assert!(count(&after) > count(&before), "{}: from {what}: {}", running.id, after["drops"]);
        }
        running.delete().ok();
    }
}

/// Root inside owns its devices, addresses, routes and settings; who spoils them has no network, and nobody else notices.
#[test]
fn root_ends_nobodys_network_but_its_own() {
    let (host, a, b) = Host::with_two("powers-own");
    let _echoes = [(&b.ns, b.ports[0]), (&host.ns, 20_000)]
        .map(|(ns, port)| [HOST4, HOST6].map(|at| BOTH.map(|proto| Echo::start(ns, proto, SocketAddr::new(at, port)))));
    for line in [
        "ip addr flush dev eth0; ip -6 addr flush dev eth0; ip route flush table main",
        "ip link set lo down; tc qdisc del dev eth0 clsact; tc qdisc del dev lo clsact",
        "ip link add link eth0 name m type macvlan mode bridge; ip link set m address $(cat /sys/class/net/eth0/address)",
        "ip link set eth0 promisc on; ip link set eth0 down; ip link del eth0",
    ] {
        a.ns.command("sh").args(["-c", line]).output().expect("sh");
        for (address, proto) in [HOST4, HOST6].into_iter().flat_map(|address| BOTH.map(|proto| (address, proto))) {
            let (at_b, at_host) = (SocketAddr::new(address, b.ports[0]), SocketAddr::new(address, 20_000));
            for (who, ns) in [("P", &host.peer), ("H", &host.ns)] {
                assert_reaches(&format!("{who}->B after {line}"), ns, proto, at_b);
            }
            for (who, ns) in [("P", &host.peer), ("B", &b.ns)] {
                assert_reaches(&format!("{who}->H after {line}"), ns, proto, at_host);
            }
        }
    }
    assert_eq!(a.device(), None, "it deleted its device");
    let at_a = SocketAddr::new(HOST4, a.ports[0]);
    BOTH.iter().for_each(|proto| assert_refused("P->A, which is gone", &host.peer, *proto, at_a));
    a.detach().ok();
    let again = host.bare("again", &["--ports", "31000-31009"]);
    let _echo = Echo::start(&again.ns, Proto::Udp, SocketAddr::new(HOST4, again.ports[0]));
    assert_reaches("P->again", &host.peer, Proto::Udp, at_a);
}
