//! What can befall slices.

use super::{assert_clean, findings, is_mended, mend};
use crate::lab::*;

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

/// Doctor names it of the container, and one command mends the host and every container.
#[track_caller]
fn is_synced(host: &Host, seen: &[&str]) {
    let all = findings(host);
    let of_containers = |f: &&serde_json::Value| f["check"] == "containers" && f["verdict"] == "fail";
    let said: Vec<&str> = all.iter().filter(of_containers).filter_map(|f| f["seen"].as_str()).collect();
    assert!(seen.iter().all(|part| said.iter().any(|said| said.contains(part))), "{seen:?} are expected in {all:#?}");
    assert!(all.iter().all(|finding| finding["remedy"] == "portslice sync"), "one command for all: {all:#?}");
    mend(host, &all[0]);
    assert_clean(host);
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
