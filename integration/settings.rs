//! Promise: settings of the host that programs notice are inside as well, and none inside keeps a container from its own ports.

use crate::lab::icmp::Icmp;
use crate::lab::{sock, *};
use portslice::host::sysctl::COPIED;
use serde_json::json;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Settings with two values each that no namespace has by itself.
const TUNED: [(&str, [&str; 2]); 29] = [
    ("core/somaxconn", ["1234", "99"]),
    ("ipv4/tcp_ecn", ["1", "0"]),
    ("ipv4/tcp_ecn_fallback", ["0", "0"]),
    ("ipv4/tcp_keepalive_time", ["600", "601"]),
    ("ipv4/tcp_keepalive_intvl", ["20", "21"]),
    ("ipv4/tcp_keepalive_probes", ["5", "6"]),
    ("ipv4/tcp_max_syn_backlog", ["4321", "4322"]),
    ("ipv4/tcp_rmem", ["4096\t99999\t999999", "4096\t88888\t888888"]),
    ("ipv4/tcp_wmem", ["4096\t77777\t777777", "4096\t66666\t666666"]),
    ("ipv4/tcp_retries2", ["7", "9"]),
    ("ipv4/tcp_synack_retries", ["2", "3"]),
    ("ipv4/ping_group_range", ["0\t2147483647", "5\t6"]),
    ("ipv4/ip_unprivileged_port_start", ["80", "0"]),
    ("ipv4/ip_default_ttl", ["77", "99"]),
    ("ipv4/tcp_fastopen", ["3", "0"]),
    ("ipv4/tcp_fin_timeout", ["15", "16"]),
    ("ipv4/tcp_mtu_probing", ["1", "2"]),
    ("ipv4/tcp_notsent_lowat", ["131072", "131073"]),
    ("ipv4/tcp_slow_start_after_idle", ["0", "0"]),
    ("ipv4/tcp_syn_retries", ["3", "4"]),
    ("ipv4/tcp_timestamps", ["0", "2"]),
    ("ipv6/bindv6only", ["1", "1"]),
    ("unix/max_dgram_qlen", ["512", "513"]),
    ("ipv4/icmp_ratelimit", ["248", "500"]),
    ("ipv4/icmp_ratemask", ["6169", "8"]),
    ("ipv4/icmp_msgs_per_sec", ["900", "1100"]),
    ("ipv4/icmp_msgs_burst", ["60", "70"]),
    ("ipv6/icmp/ratelimit", ["248", "500"]),
    ("ipv6/icmp/ratemask", ["0-1,3-127,129-255", "1"]),
];

/// Settings that on older kernels only the machine's own namespace has.
const OF_THE_MACHINE: [&str; 2] = ["ipv4/icmp_msgs_per_sec", "ipv4/icmp_msgs_burst"];

fn has(ns: &Ns, path: &str) -> bool {
    ns.inside(|| Path::new("/proc/sys/net").join(path).exists())
}

#[test]
fn what_the_operator_tuned_is_inside_as_well() {
    assert_eq!(TUNED.map(|(path, _)| path), COPIED, "all are tried");
    let host = Host::with("settings-tuned").unprepared().build();
    let tuned: Vec<_> =
        TUNED.iter().filter(|(path, _)| !OF_THE_MACHINE.contains(path) || has(&host.ns, path)).collect();
    let before: Vec<_> = tuned.iter().map(|(path, _)| (path, host.ns.sysctl(path))).collect();
    let tune = |round: usize| tuned.iter().for_each(|(path, values)| host.ns.set_sysctl(path, values[round]));
    tune(0);
    host.portslice(["setup"]).ok();
    let a = host.bare("a", &[]);
    let inside = |container: &Container, round: usize| {
        let differs: Vec<_> = tuned
            .iter()
            .map(|(path, values)| (path, container.ns.sysctl(path), values[round]))
            .filter(|(_, there, wanted)| there != wanted)
            .collect();
        assert!(differs.is_empty(), "round {round}: {differs:?}");
    };
    inside(&a, 0);
    tune(1);
    host.portslice(["sync"]).ok();
    inside(&a, 1);
    inside(&host.bare("b", &[]), 1);
    before.iter().for_each(|(path, value)| host.ns.set_sysctl(path, value));
}

/// Limits of ICMP errors, and by how many the errors of a container and of a plain host may differ.
type Limits = (&'static [(&'static str, &'static str)], usize);

const LIMITS: [Limits; 3] = [
    (&[("ipv4/icmp_ratelimit", "500"), ("ipv6/icmp/ratelimit", "500")], 2),
    (&[("ipv4/icmp_ratelimit", "1000"), ("ipv6/icmp/ratelimit", "1000")], 2),
    // The limit for all peers counts a message as none, one or two, at random (`icmp_global_allow`, net/ipv4/icmp.c).
    (
        &[
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv6/icmp/ratelimit", "0"),
            ("ipv4/icmp_msgs_per_sec", "30"),
            ("ipv4/icmp_msgs_burst", "10"),
        ],
        40,
    ),
];

/// Sends each host 200 datagrams to a closed port over each family and returns how many errors came back. The hosts and the
/// families take turns, so that the limits of all refill over the same time.
fn errors(hosts: [&Host; 2]) -> [[usize; 2]; 2] {
    const CLOSED: u16 = 31_000;
    let ways = hosts.map(|host| {
        [HOST4, HOST6].map(|to| {
            let socket = host.peer.inside(|| probe::open(Proto::Udp, to)).expect("socket");
            (Icmp::open(&host.peer, to), socket, SocketAddr::new(to, CLOSED))
        })
    });
    for _ in 0..200 {
        for (_, socket, to) in ways.iter().flatten() {
            sock::send_to(socket, b"to nobody", *to).expect("send");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let unreachable = |to: &SocketAddr| if to.is_ipv4() { (3, 3) } else { (1, 4) };
    ways.map(|ways| {
        ways.map(|(ears, _, to)| ears.during(Duration::from_millis(200), |m| m.kind() == unreachable(&to)).len())
    })
}

/// The kernel limits how many ICMP errors it sends, to each peer and to all. Those limits hold for a container's closed ports.
#[test]
fn a_container_sends_a_peer_no_more_errors_than_a_host_does() {
    let plain = Host::with("settings-plain").unprepared().build();
    let host = Host::with("settings-errors").unprepared().build();
    let known = |limits: &[(&str, &str)]| limits.iter().all(|(path, _)| has(&host.ns, path));
    let tune = |limits: &[(&str, &str)]| {
        for ns in [&plain.ns, &host.ns] {
            limits.iter().for_each(|(path, value)| ns.set_sysctl(path, value));
        }
    };
    let rounds = || LIMITS.into_iter().filter(|(limits, _)| known(limits));
    let before: Vec<_> =
        rounds().flat_map(|(limits, _)| limits).map(|(path, _)| (path, host.ns.sysctl(path))).collect();
    tune(LIMITS[0].0);
    host.portslice(["setup"]).ok();
    let _a = host.bare("a", &["--ports", "31000"]);
    for (limits, tolerance) in rounds() {
        tune(limits);
        host.portslice(["sync"]).ok();
        let [plains, containers] = errors([&plain, &host]);
        for (hosts, container) in plains.into_iter().zip(containers) {
            let told = format!("{limits:?}: errors of IPv4 and IPv6: host {plains:?}, container {containers:?}");
            assert!((1..100).contains(&hosts), "the plain host has no limit, or never answers: {told}");
            assert!(container.abs_diff(hosts) <= tolerance && container > 0, "{told}");
        }
    }
    for ns in [&plain.ns, &host.ns] {
        before.iter().for_each(|(path, value)| ns.set_sysctl(path, value));
    }
}

/// The kernel has no ephemeral ports below the first unprivileged one, and the block comes first.
#[test]
fn a_block_of_privileged_ports_is_a_block() {
    let host = Host::with("settings-privileged").unprepared().build();
    host.ns.set_sysctl("ipv4.ip_unprivileged_port_start", "50000");
    host.portslice(["setup"]).ok();
    let a = host.bare("a", &[]);
    assert_eq!(a.ns.sysctl("ipv4.ip_unprivileged_port_start"), a.block.start().to_string());
    assert_eq!(a.ns.sysctl("ipv4.ip_local_port_range"), format!("{}\t{}", a.block.start(), a.block.end()));
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
    host.ns.set_sysctl("ipv4.ip_unprivileged_port_start", "1024");
}

#[test]
fn reserved_ports_that_leave_none_to_connections_are_refused() {
    let host = Host::new("settings-reserved");
    let why = "net.ipv4.ip_local_reserved_ports of the container: it reserves all of ";
    let ns = Ns::net_only("reserved");
    let pid = ns.pid().to_string();
    for all in ["1024-65535", "0-65535"] {
        ns.set_sysctl("ipv4.ip_local_reserved_ports", all);
        host.portslice(["attach", "a", "--pid", &pid]).refused(2, why);
        assert_eq!(host.ids(), [""; 0]);
    }
    // Where ports are left, connections get those.
    ns.set_sysctl("ipv4.ip_local_reserved_ports", "0,1024-33000,33002-65535");
    host.portslice(["attach", "a", "--pid", &pid]).ok();
    let _echo = probe::Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 7000));
    let from = ns.inside(|| TcpStream::connect((PEER4, 7000)).expect("connect").local_addr().expect("an address"));
    assert_eq!(from.port(), 33001);
}

/// Some runtimes write what the bundle says only after our hook.
#[test]
fn a_bundle_that_reserves_them_is_refused() {
    let host = Host::new("settings-bundle");
    let ns = Ns::net_only("bundle");
    let attach = |reserved: &str| {
        let spec = json!({"ociVersion": "1.0.2", "linux": {"sysctl": {"net.ipv4.ip_local_reserved_ports": reserved}}});
        std::fs::write(host.dir.join("config.json"), spec.to_string()).expect("a bundle");
        let state = json!({"ociVersion": "1.0.2", "id": "a", "status": "creating", "pid": ns.pid(), "bundle": host.dir,
            "annotations": {"portslice/ephemeral-ports": "1024"}});
        host.hook("portslice-prestart", state.to_string())
    };
    attach("8,1024-65535")
        .refused(2, "net.ipv4.ip_local_reserved_ports of the container: it reserves all of 32768-33791");
    assert_eq!(host.ids(), [""; 0]);
    attach("8,1024-33000").ok();
    assert_eq!(host.ids(), ["a"]);
}
