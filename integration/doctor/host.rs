//! What can befall the host itself.

use super::{assert_clean, findings, found, is_mended, is_synced, mend};
use crate::lab::*;

#[test]
fn a_host_that_is_not_prepared() {
    let host = Host::with("doctor-unprepared").unprepared().build();
    is_mended(&host, "host", "warn", &["is not prepared"]);
}

#[test]
fn a_pool_in_the_hosts_own_range_is_reserved_by_setup() {
    let host = Host::with("doctor-pool").port_range("32768 60999").unprepared().build();
    let all = findings(&host);
    let pool = all.iter().find(|finding| finding["check"] == "pool").unwrap_or_else(|| panic!("{all:#?}"));
    assert!(pool["seen"].as_str().is_some_and(|seen| seen.contains("overlaps")), "{pool:#}");
    mend(&host, pool);
    assert_clean(&host);
    let out = host.portslice(["doctor"]).ok();
    assert!(!out.stdout.contains("apart"), "ranges that overlap and are reserved are not apart: {out}");
}

#[test]
fn settings_of_lo_that_were_set_back() {
    let host = Host::new("doctor-lo");
    for key in ["accept_local", "route_localnet"] {
        host.ns.set_sysctl(&format!("ipv4/conf/lo/{key}"), "0");
        is_mended(&host, "host", "fail", &[&format!("net.ipv4.conf.lo.{key} is not 1")]);
        assert_eq!(host.ns.sysctl(&format!("ipv4/conf/lo/{key}")), "1");
    }
}

#[test]
fn a_reservation_that_somebody_overwrote() {
    let host = Host::new("doctor-reservation");
    host.ns.set_sysctl("ipv4.ip_local_reserved_ports", "8080");
    is_mended(&host, "host", "fail", &["31000-31999,32768-57343", "reserved"]);
    assert!(host.ns.sysctl("ipv4.ip_local_reserved_ports").contains("8080"), "what somebody else reserved is kept");
    host.portslice(["setup", "--undo"]).ok();
    host.ns.set_sysctl("ipv4.ip_local_reserved_ports", "\n");
}

#[test]
fn programs_that_were_taken_off() {
    let host = Host::new("doctor-hooks");
    for (program, device) in [("from_wire", "eth0"), ("from_lo", "lo")] {
        unhook(&host, program, device);
        is_mended(&host, "host", "fail", &[&format!("program {program} on {device} is missing")]);
    }
}

/// Through tcx a program stays on its hook as long as its link is pinned; before Linux 6.6 it is a filter.
fn unhook(host: &Host, program: &str, device: &str) {
    let link = host.state_dir().join(format!("bpf/link_{program}"));
    if host.ns.inside_mounts(|| std::fs::remove_file(&link)).is_err() {
        host.run(["tc", "filter", "del", "dev", device, "ingress"]).ok();
    }
}

#[test]
fn facts_that_changed_since() {
    let host = Host::new("doctor-facts");
    let changed = ["the data path knows the host as it was"];
    host.ns.ip("addr add 10.77.0.9/24 dev eth0");
    is_mended(&host, "host", "fail", &changed);
    host.ns.ip("addr del 10.77.0.9/24 dev eth0");
    is_mended(&host, "host", "fail", &changed);
    host.ns.ip("link set eth0 mtu 1400");
    is_mended(&host, "host", "fail", &changed);
    host.ns.ip("link set eth0 mtu 1500");
    is_mended(&host, "host", "fail", &changed);
}

#[test]
fn an_uplink_that_is_down() {
    let host = Host::with("doctor-down").config("ports = \"31000-31999\"\nuplink = \"eth0\"\n").build();
    host.ns.ip("link set eth0 down");
    let finding = found(&host, "uplink", "fail", &["eth0 is down"]);
    mend(&host, &finding);
    host.ns.ip("addr replace fd77::2/64 dev eth0 nodad\nroute replace default via 10.77.0.1 dev eth0\nroute replace default via fd77::1 dev eth0");
    host.ns.settle(&["eth0"]);
    assert_clean(&host);
}

#[test]
fn a_host_without_an_uplink() {
    let host = Host::new("doctor-no-uplink");
    host.ns.ip("route del default via 10.77.0.1 dev eth0\nroute del default via fd77::1 dev eth0");
    let finding = found(&host, "uplink", "fail", &["no default route"]);
    assert!(finding["why"].as_str().is_some_and(|why| why.contains("config key uplink")), "{finding:#}");
    host.ns.ip("route add default via 10.77.0.1 dev eth0\nroute add default via fd77::1 dev eth0");
    assert_clean(&host);
}

#[test]
fn another_installation_on_the_same_host() {
    let host = Host::new("doctor-two");
    let own = host.state_dir();
    let other = host.dir.join("other");
    let look = || {
        let out = host.portslice(["--state-dir", other.to_str().unwrap(), "doctor", "--json"]);
        let all = out.json().as_array().expect("an array").clone();
        all.into_iter().filter(|finding| finding["check"] == "host").collect::<Vec<_>>()
    };
    let found = look();
    let [finding] = found.as_slice() else { panic!("{found:#?}") };
    let seen = finding["seen"].as_str().unwrap_or_default();
    assert!(finding["verdict"] == "fail" && seen.contains(own.to_str().unwrap()), "{finding:#}");
    mend(&host, finding);
    let left = look();
    assert!(left.iter().all(|finding| finding["verdict"] == "warn"), "only that it is not prepared: {left:#?}");
    // a command that doctor prints means the installation that it was asked about
    let remedy = left[0]["remedy"].as_str().unwrap_or_default();
    assert_eq!(remedy, format!("portslice --state-dir {} setup", other.display()));
}

#[test]
fn a_record_that_is_lost_or_damaged() {
    let host = Host::new("doctor-record");
    let _container = host.bare("c", &["--ports", "31000"]);
    let record = host.state_dir().join("host.json");
    std::fs::write(&record, "{\"boot\":").expect("host.json");
    let all = findings(&host);
    assert!(
        all.iter().any(|f| f["seen"].as_str().is_some_and(|seen| seen.contains("host.json is damaged"))),
        "{all:#?}"
    );
    mend(&host, &all[0]);
    assert_clean(&host);
    std::fs::remove_file(&record).expect("host.json");
    let all = findings(&host);
    assert!(all.iter().any(|f| f["seen"].as_str().is_some_and(|seen| seen.contains("record is lost"))), "{all:#?}");
    mend(&host, &all[0]);
    assert_clean(&host);
}

#[test]
fn a_bpf_file_system_that_was_unmounted() {
    let host = Host::new("doctor-bpffs");
    let _container = host.bare("c", &["--ports", "31000"]);
    let bpf = host.state_dir().join("bpf");
    host.run(["umount", bpf.to_str().unwrap()]).ok();
    is_mended(&host, "host", "fail", &["BPF file system", "is not there"]);
    host.bare("d", &["--ports", "31001"]);
}

#[test]
fn pins_that_were_removed() {
    let host = Host::new("doctor-pins");
    let _container = host.bare("c", &["--ports", "31000"]);
    for (pin, seen) in [("prog_from_container", "programs of version"), ("ports", "/bpf/ports")] {
        let path = host.state_dir().join("bpf").join(pin);
        host.ns.inside_mounts(|| std::fs::remove_file(&path)).expect(pin);
        is_synced(&host, &[seen]);
    }
    host.bare("d", &["--ports", "31001"]);
}

#[test]
fn a_rule_that_does_not_count_for_containers() {
    let host = Host::with("doctor-rules").build();
    host.altered();
    host.ns.ip("rule add pref 100 lookup main suppress_prefixlength 0");
    host.portslice(["sync"]).ok();
    assert_clean(&host);
    host.ns.read("ip -6 rule add pref 100 lookup main suppress_prefixlength 0");
    host.portslice(["sync"]).ok();
    is_mended(&host, "rules", "warn", &["suppress_prefixlength", "does not heed"]);
}

#[test]
fn very_many_addresses() {
    let addresses: Vec<String> = (0..260).map(|n| format!("10.77.{}.{}/32", 100 + n / 200, 1 + n % 200)).collect();
    let plan = addresses.iter().fold(Host::with("doctor-addresses"), |plan, address| plan.secondary(address));
    let host = plan.build();
    is_mended(&host, "addresses", "warn", &["eth0 carries 262 addresses, containers the first 256"]);
    let out = host.portslice(["doctor"]).ok();
    assert!(out.stdout.contains(" and 252 more, MTU 1500"), "{out}");
}
