//! Ports that somebody has: a process of the host, another container, or the host's own ephemeral range.

use super::{attach_refused, refused, spare};
use crate::lab::probe::assert_reaches;
use crate::lab::still::{Still, released};
use crate::lab::wait::eventually;
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

#[test]
fn a_pool_in_the_hosts_ephemeral_range() {
    let host = Host::with("refuse-overlap").port_range("32768 60999").unprepared().build();
    let still = Still::of(&host);
    let spare = spare();
    let says = ["32768-57343", "32768-60999", "portslice setup"];
    attach_refused(&host, &spare, "an unreserved pool", &[], 5, &says);
    refused("an unreserved pool, by hook", &host.prestart("x", spare.pid(), &[]), 5, &says);
    still.check_all("after the refusal");
    assert!(!host.state_dir().exists(), "a refusal on a host that was never prepared made {:?}", host.state_dir());
    host.portslice(["setup"]).ok();
    host.bare("after-setup", &[]);
    // the host's own connections avoid what is reserved
    let echo = Echo::start(&host.peer, Proto::Udp, SocketAddr::new(PEER4, 20_000));
    for _ in 0..50 {
        let local = assert_reaches("the host's own", &host.ns, Proto::Udp, echo.at);
        assert!(!(32768..=57343).contains(&local.port()), "the host's own connection came from {local}");
    }
}

#[test]
fn a_reservation_taken_back_is_noticed() {
    let host = Host::with("refuse-unreserved").port_range("32768 60999").build();
    let reserved = host.ns.sysctl("ipv4.ip_local_reserved_ports");
    host.ns.set_sysctl("ipv4.ip_local_reserved_ports", "\n");
    let still = Still::of(&host);
    attach_refused(&host, &spare(), "a pool no longer reserved", &[], 5, &["portslice setup"]);
    still.check_all("after the refusal");
    host.ns.set_sysctl("ipv4.ip_local_reserved_ports", &reserved);
}

/// A socket of the host that holds `port`; connected ones talk to the peer.
fn hold(host: &Host, proto: Proto, by: IpAddr, port: u16, connected: bool) -> OwnedFd {
    host.inside(|| {
        let fd = probe::open(proto, by).expect("socket");
        sock::bind(&fd, SocketAddr::new(if connected { by } else { probe::any(by) }, port)).expect("bind");
        match (connected, proto.connects()) {
            (true, _) => {
                let peer = if by.is_ipv4() { PEER4 } else { PEER6 };
                sock::connect(&fd, SocketAddr::new(peer, 20_000)).expect("connect");
            }
            (false, true) => sock::listen(&fd).expect("listen"),
            (false, false) => {}
        }
        fd
    })
}

#[test]
fn a_port_that_a_process_of_the_host_has() {
    let host = Host::new("refuse-process");
    let _servers = [PEER4, PEER6].map(|at| Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(at, 20_000)));
    let own = std::fs::read_to_string("/proc/self/comm").expect("comm");
    let pid = std::process::id().to_string();
    let (still, spare) = (Still::of(&host), spare());
    for proto in probe::BOTH {
        for by in [HOST4, HOST6] {
            for connected in [false, true] {
                let what = format!("31005 held through {proto:?}, {by}, connected: {connected}");
                let held = hold(&host, proto, by, 31_005, connected);
                let says = ["31005", &pid, own.trim_end(), if proto == Proto::Tcp { "TCP" } else { "UDP" }];
                // a child of ours that is about to be another program shares our sockets for a moment
                let named = || {
                    let pid = spare.pid().to_string();
                    let out = host.portslice(["attach", "x", "--pid", &pid, "--ports", "31000-31009"]);
                    says.iter().all(|text| out.stderr.contains(text))
                };
                attach_refused(&host, &spare, &what, &["--ports", "31000-31009"], 4, &says[..1]);
                assert!(eventually(named), "{what}: should say {says:?}");
                // and one that the host picks is another
                let free = host.bare("auto", &["--ports", "auto:10"]);
                assert!(!free.ports.contains(&31_005), "{what}: auto:10 took {:?}", free.ports);
                free.detach();
                free.kill();
                drop(held);
                released(&host.ns, 31_005);
            }
        }
    }
    assert_eq!(host.ids(), [""; 0]);
    let mut files = still::files(&host);
    files.retain(|name, _| name.contains("/leases/"));
    assert!(files.is_empty(), "leases left: {files:?}");
    drop(still);
}

#[test]
fn a_block_in_which_the_host_has_a_socket_is_skipped() {
    let host = Host::with("refuse-block-used").config("ephemeral_ports = \"32768-34815\"\n").build();
    let held = hold(&host, Proto::Udp, HOST4, 33_000, false);
    let one = host.bare("one", &[]);
    assert_eq!(one.block, 33_792..=34_815, "the block without a socket of the host");
    let still = Still::of(&host);
    attach_refused(&host, &spare(), "only a block with a socket is left", &[], 3, &["32768-34815", "one"]);
    still.check_all("after the refusal");
    drop(held);
    released(&host.ns, 33_000);
    assert_eq!(host.bare("two", &[]).block, 32_768..=33_791);
}

#[test]
fn a_port_that_is_leased_or_not_assignable() {
    let host = Host::new("refuse-leased");
    let _one = host.bare("holder-1", &["--ports", "31000-31009,31100"]);
    let (still, spare) = (Still::of(&host), spare());
    let rows: [(&str, i32, &[&str]); 10] = [
        ("31000", 4, &["31000", "holder-1"]),
        ("30999-31000", 2, &["30999"]),
        ("31009-31010", 4, &["31009", "holder-1"]),
        ("31050-31150", 4, &["31100", "holder-1"]),
        ("80", 2, &["80", "31000-31999"]),
        ("32000", 2, &["32000", "31000-31999"]),
        ("33000", 2, &["33000", "32768-57343"]),
        ("31010-31005", 2, &["31010"]),
        ("auto:990", 3, &["auto:990", "989"]),
        ("31200,auto:0", 2, &["auto:0"]),
    ];
    for (ports, code, says) in rows {
        attach_refused(&host, &spare, ports, &["--ports", ports], code, says);
        still.check(ports);
        let out = host.prestart("refused", spare.pid(), &[("portslice/ports", ports)]);
        refused(&format!("{ports} by annotation"), &out, code, says);
        still.check(ports);
    }
    still.check_all("after all refusals");
}
