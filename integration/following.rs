//! Promise: what changes about the host changes for the containers that run, as it does for programs of the host: after one
//! `portslice sync` every path works, and the connections that the host's own would have kept go on.

mod random;
mod service;

pub use service::Service;

use crate::lab::probe::{BOTH, assert_reaches, assert_refused};
use crate::lab::scene::{Scene, scene};
use crate::lab::*;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A connection that is there before a change and is asked after it.
struct Talk {
    client: TcpStream,
    server: TcpStream,
}

impl Talk {
    fn between(client: &Ns, server: &Ns, at: SocketAddr) -> Talk {
        let listener = server.inside(move || TcpListener::bind(at).expect("bind"));
        let client = client.inside(move || TcpStream::connect_timeout(&at, Duration::from_secs(2)).expect("connect"));
        let (server, _) = listener.accept().expect("accept");
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
            end.set_nodelay(true).expect("nodelay");
        }
        Talk { client, server }
    }

    /// Bulk in both directions: more than one packet of any MTU.
    #[track_caller]
    fn assert_goes_on(&mut self, what: &str) {
        let sent: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
        let mut got = vec![0; sent.len()];
        self.client.write_all(&sent).unwrap_or_else(|e| panic!("{what}: send: {e}"));
        self.server.read_exact(&mut got).unwrap_or_else(|e| panic!("{what}: what the client sent: {e}"));
        assert!(got == sent, "{what}: other bytes arrived");
        self.server.write_all(&sent).unwrap_or_else(|e| panic!("{what}: answer: {e}"));
        self.client.read_exact(&mut got).unwrap_or_else(|e| panic!("{what}: what the server sent: {e}"));
    }
}

/// Connections in both directions, both families.
fn talks(scene: &Scene) -> Vec<Talk> {
    let (peer, a) = (&scene.host.peer, &scene.a.ns);
    let to = |ip, port| SocketAddr::new(ip, port);
    vec![
        Talk::between(peer, a, to(HOST4, 31_001)),
        Talk::between(peer, a, to(HOST6, 31_001)),
        Talk::between(a, peer, to(PEER4, 4001)),
        Talk::between(a, peer, to(FAR6, 4001)),
    ]
}

/// One sync, after which everything works, a second one has nothing to do and fsck finds nothing.
#[track_caller]
fn sync(host: &Host, what: &str) {
    host.portslice(["sync"]).ok();
    let again = host.portslice(["sync"]).ok();
    assert_eq!(again.stdout.trim(), "nothing to do", "{what}: a second sync: {again}");
    let found = host.portslice(["fsck"]);
    assert_eq!(found.code, Some(0), "{what}: {found}");
}

#[track_caller]
fn assert_follows(scene: &Scene, talks: &mut [Talk], what: &str) {
    sync(&scene.host, what);
    scene.assert_every_path(what);
    for (i, talk) in talks.iter_mut().enumerate() {
        talk.assert_goes_on(&format!("{what}: connection {i}"));
    }
}

#[test]
fn the_mtu_is_lowered_and_raised() {
    let scene = scene("follow-mtu");
    scene.host.altered();
    let mut talks = talks(&scene);
    for mtu in [1300, 1500, 1400] {
        for (ns, device) in [(&scene.host.peer, "wire"), (&scene.host.ns, "eth0")] {
            ns.ip(&format!("link set {device} mtu {mtu}"));
        }
        assert_follows(&scene, &mut talks, &format!("MTU {mtu}"));
        let routes = scene.a.ns.read("ip route; ip -6 route");
        assert!(
            routes.lines().filter(|l| l.contains("default")).all(|l| l.contains(&format!("mtu {mtu}"))),
            "{routes}"
        );
    }
    assert_eq!(scene.a.drops("oversize"), 0);
}

#[test]
fn a_datagram_that_no_longer_fits_is_refused_as_on_the_host() {
    let scene = scene("follow-too-large");
    scene.host.altered();
    let _service = Service::on(&scene.host);
    let large = [0; 1400];
    for to in [PEER4, PEER6] {
        let socket = scene.a.inside(|| {
            let socket = std::net::UdpSocket::bind(SocketAddr::new(probe::any(to), 0)).expect("a socket");
            socket.connect(SocketAddr::new(to, 4001)).expect("connected");
            socket
        });
        // include/uapi/linux/in.h, in6.h: MTU_DISCOVER, DO
        let (level, option) = if to.is_ipv4() { (libc::IPPROTO_IP, 10) } else { (libc::IPPROTO_IPV6, 23) };
        let socket = std::os::fd::OwnedFd::from(socket);
        sock::set(&socket, level, option, 2i32).expect("its packets are sent whole");
        let _server = Echo::start(&scene.host.peer, Proto::Udp, SocketAddr::new(probe::any(to), 4001));
        assert!(wait::eventually(|| sock::send(&socket, &large).is_ok()), "to {to}: it fits");
        for (ns, device) in [(&scene.host.peer, "wire"), (&scene.host.ns, "eth0")] {
            ns.ip(&format!("link set {device} mtu 1300"));
        }
        let refused = || sock::send(&socket, &large).is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE));
        assert!(wait::eventually(refused), "to {to}");
        // what it was told of the last one may still come to it
        assert!(wait::eventually(|| sock::send(&socket, &large[..1200]).is_ok()), "to {to}: it fits");
        for (ns, device) in [(&scene.host.peer, "wire"), (&scene.host.ns, "eth0")] {
            ns.ip(&format!("link set {device} mtu 1500"));
        }
    }
    scene.host.portslice(["sync"]).ok();
}

#[test]
fn the_mac_address_changes() {
    let scene = scene("follow-mac");
    scene.host.altered();
    let mut talks = talks(&scene);
    scene.host.ns.ip("link set eth0 address 02:aa:bb:cc:dd:ee");
    // as for any host: its neighbours learn the new address when they ask
    scene.host.peer.ip("neigh flush dev wire");
    assert_follows(&scene, &mut talks, "another MAC address");
    let link = scene.a.ns.read("ip -o link show dev eth0");
    assert!(link.contains("02:aa:bb:cc:dd:ee"), "{link}");
}

#[test]
fn an_address_comes_goes_and_moves_to_the_peer() {
    let scene = scene("follow-address");
    scene.host.altered();
    let (host, a) = (&scene.host, &scene.a);
    let mut talks = talks(&scene);
    let more: [IpAddr; 2] = [Ipv4Addr::new(10, 77, 0, 9).into(), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 9).into()];
    host.ns.ip("addr add 10.77.0.9/24 dev eth0\naddr add fd77::9/64 dev eth0 nodad");
    assert_follows(&scene, &mut talks, "addresses were added");
    for ip in more {
        for proto in BOTH {
            let at = SocketAddr::new(ip, 31_000);
            let _echo = Echo::start(&a.ns, proto, at);
            assert_reaches("P->A at the new address", &host.peer, proto, at);
            assert_reaches("B->A at the new address", &scene.b.ns, proto, at);
            assert_reaches("H->A at the new address", &host.ns, proto, at);
        }
    }
    host.ns.ip("addr del 10.77.0.9/24 dev eth0\naddr del fd77::9/64 dev eth0");
    host.peer.ip("addr add 10.77.0.9/24 dev wire\naddr add fd77::9/64 dev wire nodad");
    assert_follows(&scene, &mut talks, "addresses moved to the peer");
    for ip in more {
        for proto in BOTH {
            let at = SocketAddr::new(ip, 31_000);
            assert_refused("nobody listens there yet", &a.ns, proto, at);
            let _echo = Echo::start(&host.peer, proto, at);
            assert_reaches("A->P at the address that moved", &a.ns, proto, at);
            assert_reaches("H->P at the address that moved", &host.ns, proto, at);
        }
    }
}

#[test]
fn an_uplink_with_thousands_of_addresses() {
    let scene = scene("follow-thousands");
    scene.host.altered();
    let (host, a, b) = (&scene.host, &scene.a, &scene.b);
    let mut talks = talks(&scene);
    let many = |verb: &str| {
        let v4 = (0..1500).map(|n| format!("addr {verb} 10.99.{}.{}/32 dev eth0", n / 250, n % 250));
        // without DAD: it would end for some between the two looks of sync that are compared
        let nodad = if verb == "add" { " nodad" } else { "" };
        let v6 = (0..1500).map(|n| format!("addr {verb} fd99::{n:x}/128 dev eth0{nodad}"));
        host.ns.ip(&v4.chain(v6).collect::<Vec<_>>().join("\n"));
    };
    host.peer.ip(&format!("route add 10.99.0.0/16 via {HOST4}\nroute add fd99::/64 via {HOST6}"));
    many("add");
    assert_follows(&scene, &mut talks, "thousands of addresses");
    for family in ["-4", "-6"] {
        let carried = a.ns.read(&format!("ip {family} -o address show dev eth0")).lines().count();
        assert_eq!(carried, 128, "of {family} addresses A carries half of what it can carry");
    }
    for ip in ["10.99.0.1", "fd99::1"] {
        for proto in BOTH {
            let at = SocketAddr::new(ip.parse().unwrap(), 31_000);
            let _echo = Echo::start(&a.ns, proto, at);
            assert_reaches("P->A at an address that A carries", &host.peer, proto, at);
            assert_reaches("B->A at an address that A carries", &b.ns, proto, at);
        }
    }
    for ip in ["10.99.5.200", "fd99::5d0"] {
        for proto in BOTH {
            let at = SocketAddr::new(ip.parse().unwrap(), 4001);
            let _echo = Echo::start(&host.ns, proto, at);
            assert_reaches("P->H at an address that nobody carries", &host.peer, proto, at);
            assert_reaches("A->H at an address that nobody carries", &a.ns, proto, at);
        }
    }
    many("del");
    assert_follows(&scene, &mut talks, "two addresses again");
}

#[test]
fn the_default_gateway_changes() {
    let scene = scene("follow-gateway");
    scene.host.altered();
    let (host, mut talks) = (&scene.host, talks(&scene));
    host.peer.ip("addr add 10.77.0.7/24 dev wire\naddr add fd77::7/64 dev wire nodad");
    host.ns.ip("route replace default via 10.77.0.7 dev eth0\nroute replace default via fd77::7 dev eth0");
    assert_follows(&scene, &mut talks, "another gateway");
    host.ns.ip("route add 203.0.113.0/24 via 10.77.0.1 dev eth0 mtu 1280");
    host.peer.ip("addr add 203.0.113.1/32 dev lo");
    assert_follows(&scene, &mut talks, "a further route");
    let at = SocketAddr::new(Ipv4Addr::new(203, 0, 113, 1).into(), 4000);
    let _echo = Echo::start(&host.peer, Proto::Tcp, at);
    assert_reaches("A by the further route", &scene.a.ns, Proto::Tcp, at);
    assert!(scene.a.ns.read("ip route").contains("203.0.113.0/24"), "the container does not see the route");
    host.ns.ip("route del 203.0.113.0/24");
    assert_follows(&scene, &mut talks, "the route is gone");
    assert!(!scene.a.ns.read("ip route").contains("203.0.113.0/24"), "the container still sees the route");
}

/// Makes the uplink anew, under the same name with the same addresses.
fn recreate(host: &Host) {
    host.ns.ip("link del eth0");
    host.ns.ip(&format!("link add eth0 mtu 1500 type veth peer name wire mtu 1500 netns {}", host.peer.pid()));
    host.peer.ip("addr add 10.77.0.1/24 dev wire\naddr add fd77::1/64 dev wire nodad\nlink set wire up");
    host.ns.ip("addr add 10.77.0.2/24 dev eth0\naddr add fd77::2/64 dev eth0 nodad\nlink set eth0 up");
    host.ns.settle(&["eth0"]);
    host.peer.settle(&["wire"]);
    host.ns.ip("route add default via 10.77.0.1 dev eth0\nroute add default via fd77::1 dev eth0");
}

#[test]
fn the_uplink_is_made_anew() {
    let scene = scene("follow-anew");
    scene.host.altered();
    let mut talks = talks(&scene);
    for round in 0..2 {
        recreate(&scene.host);
        assert_follows(&scene, &mut talks, &format!("made anew, round {round}"));
    }
}

#[test]
fn the_uplink_is_renamed() {
    let scene = scene("follow-renamed");
    scene.host.altered();
    let mut talks = talks(&scene);
    scene.host.ns.ip("link set eth0 down\nlink set eth0 name wan0\nlink set wan0 up");
    scene.host.ns.settle(&["wan0"]);
    scene.host.ns.ip("addr replace fd77::2/64 dev wan0 nodad");
    scene.host.ns.ip("route replace default via 10.77.0.1 dev wan0\nroute replace default via fd77::1 dev wan0");
    assert_follows(&scene, &mut talks, "renamed");
    let late = scene.host.bare("late", &["--ports", "31050"]);
    let at = SocketAddr::new(HOST4, 31_050);
    let _echo = Echo::start(&late.ns, Proto::Tcp, at);
    assert_reaches("a container that came after the renaming", &scene.host.peer, Proto::Tcp, at);
}

#[test]
fn the_uplink_goes_down_and_up() {
    let scene = scene("follow-down");
    scene.host.altered();
    let mut talks = talks(&scene);
    scene.host.ns.ip("link set eth0 down");
    let told = scene.host.portslice(["sync"]);
    assert_eq!(told.code, Some(5), "{told}");
    scene.host.ns.ip("link set eth0 up");
    scene.host.ns.settle(&["eth0"]);
    scene.host.ns.ip("addr replace fd77::2/64 dev eth0 nodad");
    scene.host.ns.ip("route replace default via 10.77.0.1 dev eth0\nroute replace default via fd77::1 dev eth0");
    assert_follows(&scene, &mut talks, "down and up");
}

#[test]
fn an_address_under_duplicate_detection_is_carried_when_it_is_proved() {
    let host = Host::with("follow-dad").build();
    host.altered();
    host.ns.ip("addr del fd77::2/64 dev eth0");
    host.ns.set_sysctl("ipv6/conf/eth0/accept_dad", "1");
    host.ns.set_sysctl("ipv6/conf/eth0/dad_transmits", "3");
    host.ns.ip("addr add fd77::2/64 dev eth0");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    assert!(!a.ns.read("ip -6 addr show dev eth0").contains("fd77::2"), "it is carried before it is proved");
    assert!(wait::eventually(|| !host.ns.read("ip -6 addr show dev eth0").contains("tentative")));
    host.ns.ip("route replace default via fd77::1 dev eth0");
    let b = host.bare("b", &["--ports", "31010-31019"]);
    let scene = Scene { host, a, b };
    sync(&scene.host, "detection is over");
    scene.assert_every_path("detection is over");
}

#[test]
fn settings_of_lo_that_somebody_set_back() {
    let scene = scene("follow-lo");
    let mut talks = talks(&scene);
    for key in ["accept_local", "route_localnet"] {
        scene.host.ns.set_sysctl(&format!("ipv4.conf.lo.{key}"), "0");
    }
    assert_follows(&scene, &mut talks, "settings of lo");
}

#[test]
fn filters_that_somebody_removed() {
    let scene = scene("follow-filters");
    let mut talks = talks(&scene);
    let device = scene.a.device().expect("a device");
    for what in [format!("qdisc del dev {device} ingress"), format!("filter del dev {device} ingress pref 1")] {
        let done = scene.host.ns.command("tc").args(what.split(' ')).status().expect("tc");
        assert!(done.success(), "{what}");
        assert_follows(&scene, &mut talks, &what);
        let spoof = scene.host.ns.read(&format!("tc filter show dev {device} ingress"));
        assert!(spoof.contains("portslice_from_container"), "{what}: nothing checks what leaves: {spoof}");
    }
    scene.host.ns.ip(&format!("link set {device} down"));
    assert_follows(&scene, &mut talks, "the host's end was taken down");
}

#[test]
fn settings_that_the_operator_tunes_later() {
    let scene = scene("follow-settings");
    let (host, keepalive) = (&scene.host, "cat /proc/sys/net/ipv4/tcp_keepalive_time");
    scene.b.ns.set_sysctl("ipv4.tcp_keepalive_time", "99");
    for value in ["444", "555", "7200"] {
        host.ns.set_sysctl("ipv4.tcp_keepalive_time", value);
        host.portslice(["sync"]).ok();
        assert_eq!(host.portslice(["sync"]).ok().stdout.trim(), "nothing to do");
        assert_eq!(scene.a.ns.read(keepalive).trim(), value);
        assert_eq!(scene.b.ns.read(keepalive).trim(), "99", "what its root set stays");
    }
}

#[test]
fn what_the_containers_root_altered_stays() {
    let scene = scene("follow-root");
    scene.host.altered();
    let (host, a) = (&scene.host, &scene.a);
    a.ns.ip("route add 192.0.2.0/24 dev eth0\nroute del default\naddr add 10.99.0.1/32 dev lo");
    host.ns.ip("addr add 10.77.0.9/24 dev eth0\nlink set eth0 mtu 1400");
    host.portslice(["sync"]).ok();
    let (routes, addresses) = (a.ns.read("ip route"), a.ns.read("ip addr"));
    assert!(routes.contains("192.0.2.0/24") && !routes.contains("default"), "{routes}");
    assert!(addresses.contains("10.99.0.1/32") && addresses.contains("10.77.0.9/32"), "{addresses}");
    let told = host.portslice(["fsck"]);
    assert!(told.code == Some(1) && told.stdout.contains("it lacks the route 0.0.0.0/0"), "{told}");
    assert_eq!(host.portslice(["sync"]).ok().stdout.trim(), "nothing to do", "what its root altered is no work");
    a.ns.ip("route add default dev eth0 src 10.77.0.2 mtu 1400");
}

#[test]
fn an_attach_lets_the_others_follow() {
    let scene = scene("follow-attach");
    scene.host.altered();
    let mut talks = talks(&scene);
    scene.host.ns.ip("link set eth0 address 02:aa:bb:cc:dd:01\naddr add 10.77.0.9/24 dev eth0");
    scene.host.peer.ip("neigh flush dev wire");
    let late = scene.host.bare("late", &["--ports", "31050"]);
    assert!(late.ns.read("ip addr").contains("10.77.0.9/32"));
    assert_eq!(scene.host.portslice(["sync"]).ok().stdout.trim(), "nothing to do");
    assert_follows(&scene, &mut talks, "an attach");
}

#[test]
fn what_a_slice_was_given_is_looked_up_where_nobody_remembers_it() {
    let scene = scene("follow-forgotten");
    scene.host.altered();
    let (host, mut talks) = (&scene.host, talks(&scene));
    host.ns.ip("addr add 10.77.0.9/24 dev eth0\nroute add 203.0.113.0/24 via 10.77.0.1 dev eth0");
    sync(host, "an address and a route came");
    assert!(scene.a.ns.read("ip addr; ip route").contains("203.0.113.0/24"));
    let path = host.state_dir().join("host.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("record")).expect("JSON");
    let newest = record["given"].as_array_mut().and_then(|given| given.last_mut()).expect("what was given");
    newest["generation"] = (newest["generation"].as_u64().expect("a number") + 7).into();
    std::fs::write(&path, record.to_string()).expect("record");
    host.ns.ip("route del 203.0.113.0/24\naddr del 10.77.0.9/24 dev eth0\nlink set eth0 mtu 1400");
    assert_follows(&scene, &mut talks, "nobody remembers");
    let left = scene.a.ns.read("ip addr; ip route");
    assert!(!left.contains("203.0.113.0/24") && !left.contains("10.77.0.9"), "{left}");
}

#[test]
fn an_attach_that_stands_still_keeps_nobody_else_from_following() {
    let host = Host::new("follow-stuck");
    host.altered();
    let ns = Ns::net_only("stuck");
    let (pid, program) = (ns.pid().to_string(), host::binary("portslice".as_ref()));
    // It looks around in the namespace, decides, and stops when it enters the namespace to furnish it.
    let strace = "strace -f -qqq -o /dev/null -e trace=setns -e inject=setns:signal=SIGSTOP:when=3";
    let mut attach = host.command(strace.split(' '));
    attach.arg(program).args(["attach", "stuck", "--pid", &pid, "--ports", "31050"]);
    let mut attach = attach.spawn().expect("strace");
    let attaching = || host.list().iter().any(|lease| lease["id"] == "stuck" && lease["stage"] == "attaching");
    assert!(wait::eventually(attaching), "it is not attaching: {:?}", host.list());
    let children = format!("/proc/{0}/task/{0}/children", attach.id());
    let worker: i32 = std::fs::read_to_string(children).expect("children").trim().parse().expect("the attach");

    host.ns.ip("addr add 10.77.0.9/24 dev eth0");
    let start = std::time::Instant::now();
    let late = host.bare("late", &["--ports", "31060"]);
    assert!(late.ns.read("ip addr").contains("10.77.0.9/32"));
    assert!(start.elapsed() < Duration::from_secs(8), "an attach waited for {:?}", start.elapsed());
    let told = host.portslice(["sync"]).refused(1, "stuck does not follow the host: it is being worked on by ");
    assert!(told.stderr.contains(&worker.to_string()), "{told}");

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGCONT).expect("go on");
    assert!(attach.wait().expect("strace").success(), "the attach failed");
    sync(&host, "it went on");
    assert!(ns.read("ip addr").contains("10.77.0.9/32"), "it does not carry the new address");
}

#[test]
fn a_dry_run_says_what_a_sync_does() {
    let scene = scene("follow-dry");
    scene.host.altered();
    let host = &scene.host;
    assert_eq!(host.portslice(["sync", "--dry-run"]).ok().stdout, "nothing to do\n");
    host.ns.ip("addr add 10.77.0.9/24 dev eth0");
    host.ns.set_sysctl("ipv4.conf.lo.accept_local", "0");
    let dry = host.portslice(["sync", "--dry-run"]).ok().stdout;
    assert_eq!(dry.lines().count(), 4, "{dry}");
    let verbose = host.portslice(["-v", "sync"]).ok();
    for line in dry.lines() {
        let step = line.strip_prefix("would ").expect("what would be done");
        assert!(verbose.stderr.contains(step), "{step} is not in {verbose}");
    }
    host.portslice(["setup", "--undo"]).refused(7, "containers are attached");
    assert_eq!(host.portslice(["sync"]).ok().stdout.trim(), "nothing to do");
}

#[test]
fn a_host_that_is_not_prepared_has_nothing_to_follow() {
    let host = Host::with("follow-nothing").unprepared().build();
    let told = host.portslice(["sync"]).ok();
    assert!(told.stdout.contains("nothing is prepared"), "{told}");
}

/// What is done about the data path's knowledge of the host is said, and planned.
#[test]
fn what_the_data_path_is_told_is_said() {
    let host = Host::new("follow-told");
    host.altered();
    let address = host.ns.read("ip -o -6 addr show dev eth0 scope link");
    let address = address.split_whitespace().nth(3).expect("a link-local address").to_owned();
    host.ns.ip(&format!("addr del {address} dev eth0"));
    for (verb, said) in [(&["sync", "--dry-run"][..], "would tell the data path"), (&["sync"], "told the data path")] {
        let out = host.portslice(verb).ok();
        assert!(out.stdout.contains(said), "{verb:?}: {out}");
    }
    assert_eq!(host.portslice(["sync"]).ok().stdout, "nothing to do\n");
    host.ns.ip(&format!("addr add {address} dev eth0 nodad"));
    assert!(host.portslice(["sync"]).ok().stdout.contains("told the data path"));
}
