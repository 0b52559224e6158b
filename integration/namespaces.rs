//! Promise: a namespace that others have shaped is taken as it is or refused, and one that lives on after its slice is left
//! as it was. One that only unsent data keeps alive keeps nothing of ours on the host.

use crate::lab::leftovers::Baseline;
use crate::lab::probe::{BOTH, assert_reaches, assert_unreached};
use crate::lab::settings::told;
use crate::lab::still::{Still, devices};
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::json;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Serves and is reached, by both families.
#[track_caller]
fn assert_serves(host: &Host, ns: &Ns, what: &str) {
    for address in [HOST4, HOST6] {
        for proto in BOTH {
            let _echo = Echo::start(ns, proto, SocketAddr::new(probe::any(address), 31_000));
            assert_reaches(what, &host.peer, proto, SocketAddr::new(address, 31_000));
        }
    }
}

/// The qdiscs and filters of lo.
fn filters(ns: &Ns) -> String {
    let show = |args: &[&str]| told(ns.command("tc").args(args));
    let directions = ["ingress", "egress"].map(|way| show(&["filter", "show", "dev", "lo", way]));
    show(&["qdisc", "show", "dev", "lo"]) + &directions.concat()
}

/// Everything that differs in a namespace, but for filters.
fn changes(before: &Baseline, ns: &Ns) -> Vec<String> {
    let all = before.compare(ns, std::path::Path::new("/nonexistent"));
    all.into_iter().filter(|line| !line.contains(" still has ") && !line.starts_with("bpf program")).collect()
}

/// Looking for a way back to each source costs a route lookup a packet, and there is one way only.
#[test]
fn sources_are_looked_at_only_where_all_is_strict() {
    let host = Host::new("ns-sources");
    for (all, on_device) in [("0", "0"), ("1", "2"), ("2", "2")] {
        let ns = Ns::net_only(&format!("all {all}"));
        ns.set_sysctl("ipv4/conf/all/rp_filter", all);
        ns.set_sysctl("ipv4/conf/default/rp_filter", "1");
        host.portslice(["attach", "a", "--netns", &ns.path().to_string_lossy(), "--ports", "31000"]).ok();
        assert_eq!(ns.sysctl("ipv4/conf/eth0/rp_filter"), on_device, "with {all} for all");
        assert_serves(&host, &ns, &format!("with {all} for all"));
        for proto in BOTH {
            let _inside = Echo::start(&ns, proto, SocketAddr::new(LO4, 31_000));
            assert_reaches("from the host", &host.ns, proto, SocketAddr::new(LO4, 31_000));
            let _outside = Echo::start(&host.ns, proto, SocketAddr::new(LO4, 20_000));
            assert_reaches("the host", &ns, proto, SocketAddr::new(LO4, 20_000));
        }
        assert_eq!(ns.sysctl("ipv4/conf/all/rp_filter"), all, "what it chose");
        host.portslice(["detach", "a"]).ok();
    }
}

/// Whoever lost its device, by its own root or by anybody, keeps nothing else of the slice.
#[test]
fn a_namespace_that_lost_its_device_is_left_as_it_was() {
    let host = Host::new("ns-no-device");
    let ns = Ns::net_only("lost its device");
    let (before, filters_before) = (Baseline::of(&ns), filters(&ns));
    for verb in [&["gc"][..], &["detach", "a"]] {
        host.portslice(["attach", "a", "--netns", &ns.path().to_string_lossy(), "--ports", "31000"]).ok();
        ns.ip("link del eth0");
        assert!(eventually(|| host.links() == ["eth0", "lo"]), "{:?}", host.links());
        host.portslice(verb).ok();
        assert_eq!((changes(&before, &ns), filters(&ns)), (Vec::new(), filters_before.clone()), "{verb:?}");
        assert!(host.ids().is_empty());
    }
}

/// As Docker restarts a container whose network another one shares: the other stays in the old namespace, and its slice bears the
/// id of who made it.
#[test]
fn a_container_starts_anew_elsewhere_while_others_live_on_in_its_namespace() {
    let host = Host::new("ns-anew");
    let [old, anew] = ["old", "new"].map(Ns::net_only);
    let attach = |id: &str, ns: &Ns, ports: &str, more: &[&str]| {
        let path = ns.path();
        host.portslice([&["attach", id, "--netns", &path.to_string_lossy(), "--ports", ports], more].concat())
    };
    attach("web", &old, "31000", &[]).ok();
    attach("side", &old, "31001", &[]).ok();
    host.portslice(["detach", "web"]).ok();
    attach("thief", &anew, "31000", &[]).refused(4, "port 31000 is leased to container web");
    attach("web", &anew, "31001", &[]).refused(4, "port 31001 is leased to container web");
    let planned = attach("web", &anew, "31000", &["--dry-run"]).ok().stdout;
    assert!(planned.contains("31000"), "{planned}");
    attach("web", &anew, "31000", &[]).ok();
    for (ns, port) in [(&anew, 31_000), (&old, 31_001)] {
        for (own, outside) in [(HOST4, FAR4), (HOST6, FAR6)] {
            let _echo = Echo::start(ns, Proto::Tcp, SocketAddr::new(own, port));
            assert_reaches("anew", &host.peer, Proto::Tcp, SocketAddr::new(own, port));
            let _outside = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(outside, 20_000));
            assert_reaches("anew", ns, Proto::Tcp, SocketAddr::new(outside, 20_000));
        }
    }
    let members = |id: &str| host.portslice(["show", id, "--json"]).ok().json()["members"][0]["ports"].clone();
    assert_eq!((members("web"), members("side")), ("31000".into(), "31001".into()));
    host.portslice(["fsck"]).ok();
    host.portslice(["detach", "side"]).ok();
    host.portslice(["detach", "web"]).ok();
    assert_eq!(host.ids(), [""; 0]);
}

#[test]
fn a_namespace_that_lives_on_is_left_as_it_was() {
    let host = Host::with("ns-left").unprepared().build();
    // settings that containers are given, because this host's are not the kernel's
    host.ns.set_sysctl("ipv4.tcp_keepalive_time", "333");
    host.ns.set_sysctl("ipv4.tcp_syn_retries", "3");
    host.portslice(["setup"]).ok();
    for qdisc in ["clsact", "ingress", "none"] {
        let ns = Ns::net_only(qdisc);
        ns.set_sysctl("ipv4.ip_local_port_range", "40000 50000");
        ns.set_sysctl("ipv4.tcp_tw_reuse", "0");
        ns.set_sysctl("ipv4.tcp_fin_timeout", "44");
        if qdisc != "none" {
            let script = format!(
                "tc qdisc add dev lo {qdisc} && tc filter add dev lo ingress protocol ip pref 7 u32 match ip dport 9999 \
                 0xffff classid 1:1"
            );
            assert!(ns.command("sh").args(["-c", &script]).status().expect("tc").success(), "{script}");
        }
        let (before, filters_before) = (Baseline::of(&ns), filters(&ns));
        for round in 0..2 {
            let what = format!("{qdisc}, round {round}");
            host.portslice(["attach", "x", "--pid", &ns.pid().to_string(), "--ports", "31000"]).ok();
            assert_serves(&host, &ns, &what);
            host.portslice(["detach", "x"]).ok();
            assert_eq!(devices(&ns), ["lo"], "{what}");
            assert_eq!(filters(&ns), filters_before, "{what}: qdiscs and filters of lo");
            let left = changes(&before, &ns);
            assert!(left.is_empty(), "{what}: changed:\n  {}", left.join("\n  "));
        }
    }
    host.portslice(["setup", "--undo"]).ok();
    host.ns.set_sysctl("ipv4.tcp_keepalive_time", "7200");
    host.ns.set_sysctl("ipv4.tcp_syn_retries", "6");
}

#[test]
fn an_attach_killed_between_any_two_writes_leaves_the_owners_qdisc_on_lo() {
    let host = Host::new("ns-killed");
    let ns = Ns::net_only("killed");
    assert!(ns.command("tc").args(["qdisc", "add", "dev", "lo", "clsact"]).status().expect("tc").success());
    let (before, pid) = (filters(&ns), ns.pid().to_string());
    for point in 1..100 {
        let mut attach = host.command(["portslice", "attach", "x", "--pid", &pid]);
        let out = run::run(attach.env("PORTSLICE_FAULT", point.to_string()), host::COMMAND_LIMIT);
        host.portslice(["detach", "x"]).ok();
        assert_eq!(filters(&ns), before, "killed at point {point}");
        if out.code.is_some() {
            assert!(point > 8, "only {point} points were found: {out}");
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn what_the_owner_changed_meanwhile_is_kept() {
    let host = Host::new("ns-changed");
    let ns = Ns::net_only("changed");
    ns.set_sysctl("ipv4.tcp_tw_reuse", "0");
    host.portslice(["attach", "x", "--pid", &ns.pid().to_string()]).ok();
    ns.set_sysctl("ipv4.ip_local_port_range", "41000 42000");
    host.portslice(["detach", "x"]).ok();
    assert_eq!(ns.sysctl("ipv4.ip_local_port_range"), "41000\t42000");
    assert_eq!(ns.sysctl("ipv4.tcp_tw_reuse"), "0");
}

/// Turns IPv6 off as Docker's none network does.
fn without_ipv6(name: &str) -> Ns {
    let ns = Ns::net_only(name);
    for device in ["all", "default", "lo"] {
        ns.set_sysctl(&format!("ipv6/conf/{device}/disable_ipv6"), "1");
    }
    ns
}

#[test]
fn a_container_whose_engine_turned_ipv6_off_has_it_all_the_same() {
    let host = Host::new("ns-ipv6");
    let ns = without_ipv6("docker");
    let far = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(FAR6, 20_000));
    host.prestart("x", ns.pid(), &[("portslice/ports", "31000")]).ok();
    assert_serves(&host, &ns, "IPv6 was off");
    assert_reaches("IPv6 was off", &ns, Proto::Tcp, far.at);
    let own = Echo::start(&ns, Proto::Tcp, SocketAddr::new(LO6, 31_000));
    assert_reaches("its own ::1", &ns, Proto::Tcp, own.at);
    drop(own);
    host.portslice(["detach", "x"]).ok();
    for device in ["all", "default", "lo"] {
        assert_eq!(ns.sysctl(&format!("ipv6/conf/{device}/disable_ipv6")), "1", "{device}, detached");
    }
}

#[test]
fn a_bundle_that_turns_ipv6_off_has_ipv4_alone() {
    let host = Host::new("ns-ipv4");
    let dir = host.dir.join("bundle");
    std::fs::create_dir(&dir).expect("bundle");
    for key in ["all", "default"] {
        let spec = json!({"linux": {"sysctl": {format!("net.ipv6.conf.{key}.disable_ipv6"): "1"}}});
        std::fs::write(dir.join("config.json"), spec.to_string()).expect("config.json");
        let ns = without_ipv6(key);
        let state = json!({
            "ociVersion": "1.0.2", "id": "x", "status": "creating", "pid": ns.pid(), "bundle": dir,
            "annotations": {"portslice/ports": "31000"},
        });
        host.hook("portslice-prestart", state.to_string()).ok();
        let _echo = Echo::start(&ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
        assert_reaches(key, &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
        assert_unreached(key, &host.peer, Proto::Tcp, SocketAddr::new(HOST6, 31_000));
        assert_eq!(told(ns.command("ip").args(["-6", "-o", "addr"])), "", "{key}: IPv6 addresses");
        assert_eq!(ns.sysctl("ipv6/conf/lo/disable_ipv6"), "1", "{key}");
        host.portslice(["detach", "x"]).ok();
    }
}

#[test]
fn a_namespace_with_another_network_is_refused() {
    let host = Host::new("ns-other");
    for (device, make) in [("net1", "link add net1 type veth peer name far"), ("br0", "link add br0 type bridge")] {
        let ns = Ns::net_only(device);
        ns.ip(&format!("{make}\naddr add 10.88.0.5/24 dev {device}\nlink set {device} up"));
        let (before, still) = (devices(&ns), Still::of(&host));
        for round in 0..2 {
            let out = host.portslice(["attach", "x", "--pid", &ns.pid().to_string(), "--ports", "31000"]);
            assert_eq!(out.code, Some(7), "{device}: {out}");
            assert_eq!(out.stderr.lines().count(), 1, "{device}: {out}");
            assert!(out.stderr.contains(device), "{device}: should be named: {out}");
            assert_eq!(devices(&ns), before, "{device}: round {round}");
            still.check(device);
        }
        still.check_all(device);
        // down, it is nobody's network
        ns.ip(&format!("link set {device} down"));
        host.portslice(["attach", "x", "--pid", &ns.pid().to_string(), "--ports", "31000"]).ok();
        assert_serves(&host, &ns, &format!("{device} is down"));
        host.portslice(["detach", "x"]).ok();
        assert_eq!(devices(&ns), before, "{device}: detached");
    }
}

/// A connection with data that never gets an answer; closed, it keeps its namespace alive for minutes.
fn unsent(host: &Host, ns: &Ns) -> OwnedFd {
    let to = SocketAddr::new(PEER4, 20_000);
    let _echo = Echo::start(&host.peer, Proto::Tcp, to);
    let fd = ns.inside(|| {
        let fd = probe::open(Proto::Tcp, to.ip()).expect("socket");
        sock::limit(&fd, Duration::from_millis(300));
        sock::connect(&fd, to).expect("connect");
        // what is unread when a socket is closed ends its connection at once
        sock::send_all(&fd, b"x").expect("send");
        while sock::recv(&fd, &mut [0; 256]).is_ok_and(|n| n > 0) {}
        fd
    });
    host.peer.ip("route add blackhole 10.77.0.2/32");
    let _ = sock::send_all(&fd, &[7; 16_384]);
    fd
}

fn ours(host: &Host) -> Vec<String> {
    host.links().into_iter().filter(|name| name.starts_with("portslice")).collect()
}

/// The container dies with unsent data, `end` is done, and then nothing of ours is on the host.
fn dies_with_unsent_data(name: &str, end: impl Fn(&Host)) {
    let host = Host::new(name);
    let ns = Ns::net_only("dying");
    host.prestart("x", ns.pid(), &[("portslice/ports", "31000")]).ok();
    let fd = unsent(&host, &ns);
    ns.kill();
    drop(fd);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!ours(&host).is_empty(), "the data should have kept the namespace alive: nothing is tested");
    end(&host);
    assert!(eventually(|| ours(&host).is_empty()), "left on the host: {:?}", ours(&host));
    host.peer.ip("route del blackhole 10.77.0.2/32");
    if host.state_dir().exists() {
        assert_eq!(host.ids(), [""; 0], "leases");
        host.portslice(["setup", "--undo"]).ok();
    }
    assert!(!host.state_dir().exists(), "setup --undo");
}

#[test]
fn a_container_that_dies_with_unsent_data_leaves_nothing_at_poststop() {
    dies_with_unsent_data("ns-unsent-stop", |host| {
        host.poststop("x").ok();
    });
}

#[test]
fn a_container_that_dies_with_unsent_data_leaves_nothing_at_detach() {
    dies_with_unsent_data("ns-unsent-detach", |host| {
        host.portslice(["detach", "x"]).ok();
    });
}

#[test]
fn a_container_that_dies_with_unsent_data_leaves_nothing_at_gc() {
    dies_with_unsent_data("ns-unsent-gc", |host| {
        host.portslice(["gc"]).ok();
    });
}

#[test]
fn a_container_that_dies_with_unsent_data_does_not_keep_the_host_prepared() {
    dies_with_unsent_data("ns-unsent-undo", |host| {
        host.portslice(["setup", "--undo"]).ok();
    });
}
