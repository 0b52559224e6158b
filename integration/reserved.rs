//! Promise: the ports of containers are reserved beside what others reserve, and what is released is exactly what was added.
//! The host keeps ephemeral ports of its own.

use crate::lab::leftovers::Baseline;
use crate::lab::probe::assert_reaches;
use crate::lab::still::Still;
use crate::lab::*;
use std::net::SocketAddr;

const KEY: &str = "ipv4.ip_local_reserved_ports";
const RANGE: &str = "32768 60999";
const OTHERS: &str = "20000,40000-40010,60001";

fn host(name: &str, config: &str) -> Host {
    Host::with(name).port_range(RANGE).config(config).unprepared().build()
}

fn configure(host: &Host, config: &str) {
    std::fs::write(host.config_file(), config).expect("config");
}

/// What others reserved is theirs to take back.
fn free(host: &Host) {
    host.ns.set_sysctl(KEY, "\n");
}

#[track_caller]
fn said(out: &run::Output, line: &str) {
    assert!(out.stdout.lines().any(|said| said.starts_with(line)), "should say {line:?}: {out}");
}

#[test]
fn what_others_reserved_stays() {
    let host = host("reserve-merge", "ports = \"31000-31999\"\n");
    host.ns.set_sysctl(KEY, OTHERS);
    let out = host.portslice(["setup"]).ok();
    said(&out, "reserved ports 31000-31999,32768-57343 ");
    // 57344-60999 without 60001
    assert!(out.stdout.contains("; the host keeps 3655 ephemeral ports of its own\n"), "{out}");
    assert_eq!(host.ns.sysctl(KEY), "20000,31000-31999,32768-57343,60001");
    host.ns.set_sysctl(KEY, "443,20000,31000-31999,32768-57343,60001");
    let out = host.portslice(["setup", "--undo"]).ok();
    said(&out, "released ports 31000-31999,32768-39999,40011-57343 ");
    assert_eq!(host.ns.sysctl(KEY), format!("443,{OTHERS}"), "reserved before and meanwhile by others");
    free(&host);
}

/// The kernel gives such a list to one read only, and only as much of it as that has room for.
#[test]
fn a_long_list_of_others_stays_whole() {
    let host = host("reserve-long", "");
    let others: Vec<String> = (0..2000).map(|n| (10_000 + 2 * n).to_string()).collect();
    let others = others.join(",");
    host.ns.set_sysctl(KEY, &others);
    host.portslice(["setup"]).ok();
    assert_eq!(host.ns.sysctl(KEY), format!("{others},32768-57343"));
    host.bare("works", &[]).detach();
    host.portslice(["setup", "--undo"]).ok();
    assert_eq!(host.ns.sysctl(KEY), others);
    free(&host);
}

/// Another file of sysctl.d, say, is read again: it sets the whole of it.
#[test]
fn a_value_that_somebody_wrote_over_it_is_his() {
    let host = host("reserve-over", "");
    host.portslice(["setup"]).ok();
    host.ns.set_sysctl(KEY, OTHERS);
    let out = host.portslice(["setup"]).ok();
    said(&out, "reserved ports 32768-57343 ");
    assert_eq!(host.ns.sysctl(KEY), "20000,32768-57343,60001");
    host.bare("works", &[]).detach();
    host.portslice(["setup", "--undo"]).ok();
    assert_eq!(host.ns.sysctl(KEY), OTHERS);
    free(&host);
}

#[test]
fn a_smaller_pool_releases_what_it_loses() {
    let host = host("reserve-narrow", "");
    host.ns.set_sysctl(KEY, OTHERS);
    host.portslice(["setup"]).ok();
    let first = host.bare("first", &[]);
    assert_eq!(first.block, 32_768..=33_791);
    let echo = Echo::start(&first.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 33_000));
    configure(&host, "ephemeral_ports = \"36864-45055\"\n");
    let dry = host.portslice(["setup", "--dry-run"]).ok();
    assert_eq!(dry.stdout, "would release ports 33792-36863,45056-57343 (net.ipv4.ip_local_reserved_ports)\n");
    let out = host.portslice(["setup"]).ok();
    said(&out, "released ports 33792-36863,45056-57343 ");
    assert_eq!(host.ns.sysctl(KEY), "20000,32768-33791,36864-45055,60001", "a container keeps its block");
    assert_reaches("its block", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 33_000));
    drop(echo);
    first.detach();
    said(&host.portslice(["setup"]).ok(), "released ports 32768-33791 ");
    assert_eq!(host.ns.sysctl(KEY), "20000,36864-45055,60001");
    said(&host.portslice(["setup"]).ok(), "nothing to do");
    // and larger again
    configure(&host, "ephemeral_ports = \"36864-47103\"\n");
    said(&host.portslice(["setup"]).ok(), "reserved ports 36864-47103 ");
    host.portslice(["setup", "--undo"]).ok();
    assert_eq!(host.ns.sysctl(KEY), OTHERS);
    free(&host);
}

#[test]
fn at_boot_ports_are_reserved_before_there_is_an_uplink() {
    let host = host("reserve-boot", "ports = \"31000\"\n");
    host.ns.set_sysctl(KEY, OTHERS);
    let before = Baseline::of(&host.ns);
    host.ns.ip("route del default via 10.77.0.1 dev eth0\nroute del default via fd77::1 dev eth0");
    let out = host.portslice(["setup", "--at-boot"]).ok();
    said(&out, "reserved ports 31000,32768-57343 ");
    said(&out, "no uplink yet (the host has no default route");
    assert_eq!(host.ns.sysctl(KEY), "20000,31000,32768-57343,60001");
    said(&host.portslice(["setup", "--at-boot"]).ok(), "nothing to do");
    host.portslice(["setup"]).refused(5, "default route");
    host.ns.ip("route add default via 10.77.0.1 dev eth0\nroute add default via fd77::1 dev eth0");
    // the first container does the rest
    let container = host.bare("first", &["--ports", "31000"]);
    let echo = Echo::start(&container.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches("the first container", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    drop(echo);
    container.detach();
    host.portslice(["setup", "--undo"]).ok();
    assert_eq!(before.compare(&host.ns, &host.state_dir()), [""; 0]);
    // with an uplink it does all of it
    let out = host.portslice(["setup", "--at-boot"]).ok();
    said(&out, "reserved ports 31000,32768-57343 ");
    said(&out, "ready on eth0 ");
    host.portslice(["setup", "--undo"]).ok();
    assert_eq!(host.ns.sysctl(KEY), OTHERS);
    free(&host);
}

/// After a boot, what stands was reserved by whoever reserves at boot, whatever the last boot's record tells.
#[test]
fn a_record_of_another_boot_releases_nothing() {
    let host = host("reserve-reboot", "");
    host.ns.ip("link set eth0 down");
    host.portslice(["setup", "--at-boot"]).ok();
    let path = host.state_dir().join("host.json");
    let record = std::fs::read_to_string(&path).expect("the record");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot_id");
    assert!(record.contains(boot.trim()) && record.contains("32768-57343"), "{record}");
    std::fs::write(&path, record.replace(boot.trim(), "4f53cda1-8c2b-4d0e-9d3a-0e02b2c3d479")).expect("the record");
    host.ns.set_sysctl(KEY, OTHERS);
    said(&host.portslice(["setup", "--undo", "--dry-run"]).ok(), "nothing to do");
    said(&host.portslice(["setup", "--at-boot"]).ok(), "reserved ports 32768-57343 ");
    assert_eq!(host.ns.sysctl(KEY), "20000,32768-57343,60001");
    said(&host.portslice(["setup", "--undo"]).ok(), "released ports 32768-39999,40011-57343 ");
    assert_eq!(host.ns.sysctl(KEY), OTHERS);
    free(&host);
    host.ns.ip("link set eth0 up\naddr replace fd77::2/64 dev eth0 nodad\n\
                route replace default via 10.77.0.1 dev eth0\nroute replace default via fd77::1 dev eth0");
    host.ns.settle(&["eth0"]);
}

#[test]
fn the_host_keeps_ports_of_its_own() {
    let host = host("reserve-floor", "ephemeral_ports = \"32768-61439\"\n");
    let spare = Ns::net_only("spare");
    let pid = spare.pid().to_string();
    let still = Still::of(&host);
    let says = "ephemeral_ports 32768-61439 would leave the host 0 ephemeral ports of its own (32768-60999), \
                fewer than host_ports_min (1024): ";
    for args in [&["setup"][..], &["setup", "--dry-run"], &["setup", "--at-boot"]] {
        host.portslice(args).refused(5, says);
        still.check_all(&format!("{args:?} refused"));
        assert!(!host.state_dir().exists(), "{args:?}: a refusal made {:?}", host.state_dir());
    }
    // an attach sets up where somebody has reserved the ports already
    host.ns.set_sysctl(KEY, "32768-61439");
    host.portslice(["attach", "x", "--pid", &pid]).refused(5, says);
    host.prestart("x", spare.pid(), &[]).refused(5, says);
    assert!(!host.state_dir().exists(), "a refused attach made {:?}", host.state_dir());
    free(&host);
    configure(&host, "ephemeral_ports = \"32768-59391\"\nports = \"59392-59999\"\nhost_ports_min = 1001\n");
    host.portslice(["setup"]).refused(5, " and ports 59392-59999 would leave the host 1000 ephemeral ports of its own");
    configure(&host, "ephemeral_ports = \"32768-59391\"\nports = \"59392-59999\"\nhost_ports_min = 1000\n");
    let out = host.portslice(["setup"]).ok();
    assert!(out.stdout.contains("; the host keeps 1000 ephemeral ports of its own\n"), "{out}");
    host.bare("x", &["--ports", "59392"]).detach();
    // a pool that was too large is mended by a smaller one
    configure(&host, "ephemeral_ports = \"32768-60415\"\nhost_ports_min = 0\n");
    host.portslice(["setup"]).ok();
    configure(&host, "ephemeral_ports = \"32768-57343\"\n");
    let out = host.portslice(["setup"]).ok();
    assert!(out.stdout.contains("; the host keeps 3656 ephemeral ports of its own\n"), "{out}");
    let echo = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
    let local = assert_reaches("the host's own", &host.ns, Proto::Tcp, echo.at);
    assert!((57_344..=60_999).contains(&local.port()), "the host's own connection came from {local}");
}
