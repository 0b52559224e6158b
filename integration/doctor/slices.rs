//! What can befall slices.

use super::{assert_clean, is_mended, is_synced};
use crate::lab::*;
use crate::upgrade::Build;

#[test]
fn containers_that_ended_and_nobody_told() {
    let host = Host::new("doctor-gone");
    let (a, b) = (host.bare("a", &["--ports", "31000"]), host.bare("b", &["--ports", "31001"]));
    let _c = host.bare("c", &[]);
    a.kill();
    b.kill();
    is_mended(&host, "containers", "warn", &["a, b: its container is gone"]);
    assert_eq!(host.ids(), ["c"]);
}

#[test]
fn a_lease_that_cannot_be_read() {
    let host = Host::new("doctor-lease");
    let _c = host.bare("c", &["--ports", "31000"]);
    let lease = host.state_dir().join("leases/c");
    std::fs::write(&lease, "{\"format\":").expect("lease");
    is_mended(&host, "containers", "fail", &["c", "cannot be read"]);
    std::fs::remove_file(&lease).expect("lease");
    is_mended(&host, "containers", "fail", &["c", "its lease is lost"]);
    assert_eq!(host.ids(), ["c"]);
}

#[test]
fn addresses_that_came_and_went() {
    let host = Host::new("doctor-stale-address");
    let (_a, _b) = (host.bare("a", &["--ports", "31000"]), host.bare("b", &[]));
    host.ns.ip("addr add 10.77.0.9/24 dev eth0\naddr add fd77::9/64 dev eth0 nodad");
    is_synced(&host, &["a, b: ", "10.77.0.9", "fd77::9"]);
    host.ns.ip("addr del 10.77.0.9/24 dev eth0\naddr del fd77::9/64 dev eth0");
    is_synced(&host, &["a, b: ", "10.77.0.9", "fd77::9"]);
}

#[test]
fn a_mac_an_mtu_and_a_route_that_changed() {
    let host = Host::new("doctor-stale-link");
    let _a = host.bare("a", &["--ports", "31000"]);
    let mac = tap::mac_of(&host.ns, "eth0");
    host.ns.ip("link set eth0 address 02:12:34:56:78:9a");
    is_synced(&host, &["a: ", "02:12:34:56:78:9a"]);
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    host.ns.ip(&format!("link set eth0 address {}", mac.join(":")));
    is_synced(&host, &[&mac.join(":")]);
    host.ns.ip("link set eth0 mtu 1400");
    is_synced(&host, &["a: ", "1400"]);
    host.ns.ip("link set eth0 mtu 1500");
    is_synced(&host, &["1500"]);
    host.ns.ip("route add 192.0.2.0/24 via 10.77.0.1 dev eth0");
    is_synced(&host, &["a: ", "192.0.2.0/24"]);
    host.ns.ip("route del 192.0.2.0/24 via 10.77.0.1 dev eth0");
    is_synced(&host, &["a: ", "192.0.2.0/24"]);
}

#[test]
fn a_pair_that_somebody_touched() {
    let host = Host::new("doctor-stale-pair");
    let a = host.bare("a", &["--ports", "31000"]);
    let pair = a.device().expect("a host end");
    host.run(["tc", "filter", "del", "dev", pair.as_str(), "ingress"]).ok();
    is_synced(&host, &[&format!("a: {pair} has no filter from_container")]);
    host.run(["tc", "qdisc", "del", "dev", pair.as_str(), "ingress"]).ok();
    is_synced(&host, &[&format!("a: {pair} has no filter from_container")]);
    host.ns.ip(&format!("link set {pair} down"));
    is_synced(&host, &[&format!("device {pair} is down")]);
}

#[test]
fn programs_of_another_version() {
    let host = Host::with("doctor-version").unprepared().build();
    let (other, ns) = (Build::other(), Ns::net_only("doctor-version (c)"));
    other.run(&host, &["setup"]).ok();
    other.run(&host, &["attach", "c", "--pid", &ns.pid().to_string(), "--ports", "31000"]).ok();
    is_mended(&host, "host", "warn", &["programs of version", "this is version"]);
    let fsck = host.portslice(["fsck"]).ok();
    assert_eq!(fsck.stdout, "", "{fsck}");
}

#[test]
fn what_a_container_altered_itself_is_its_own_affair() {
    let host = Host::new("doctor-altered");
    let a = host.bare("a", &["--ports", "31000"]);
    a.ns.set_sysctl("ipv4.tcp_tw_reuse", "0");
    a.ns.ip("addr add 192.0.2.7/32 dev eth0");
    assert_clean(&host);
    let altered = "its net.ipv4.tcp_tw_reuse is 0 instead of 1";
    let out = host.portslice(["doctor", "-v"]).ok();
    assert!(out.stdout.contains(altered) && out.stdout.contains("192.0.2.7"), "{out}");
    // also of a container that is behind the host
    host.ns.ip("addr add 10.77.0.9/24 dev eth0");
    let out = host.portslice(["doctor"]);
    assert!(out.stdout.contains("a: its eth0 lacks the address 10.77.0.9") && !out.stdout.contains(altered), "{out}");
    is_synced(&host, &["10.77.0.9"]);
    assert_eq!(a.ns.sysctl("ipv4.tcp_tw_reuse"), "0");
    let fsck = host.portslice(["fsck"]);
    assert!(fsck.code == Some(1) && fsck.stdout.contains(altered), "{fsck}");
    host.ns.ip("addr del 10.77.0.9/24 dev eth0");
}

#[test]
fn a_setting_of_the_host_that_was_tuned() {
    let host = Host::new("doctor-tuned");
    let a = host.bare("a", &[]);
    let before = host.ns.sysctl("ipv4.tcp_keepalive_time");
    for value in ["600", &before] {
        host.ns.set_sysctl("ipv4.tcp_keepalive_time", value);
        is_synced(&host, &["a: its net.ipv4.tcp_keepalive_time is"]);
        assert_eq!(a.ns.sysctl("ipv4.tcp_keepalive_time"), *value);
    }
}
