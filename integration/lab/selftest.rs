//! The lab tests itself: what it builds works before portslice is asked anything. None of these needs the product.

use super::bundle::{Bundle, Network};
use super::probe::{BOTH, assert_reaches, assert_refused};
use super::*;
use std::net::SocketAddr;
use std::time::Duration;

fn plain(name: &str) -> Host {
    Host::with(name).unprepared().build()
}

#[test]
fn lab_host_and_peer_reach_each_other() {
    let host = plain("lab-echo");
    for proto in BOTH {
        for (server, client, at) in [
            (&host.ns, &host.peer, HOST4),
            (&host.ns, &host.peer, HOST6),
            (&host.peer, &host.ns, PEER4),
            (&host.peer, &host.ns, PEER6),
            (&host.peer, &host.ns, FAR4),
            (&host.peer, &host.ns, FAR6),
        ] {
            let echo = Echo::start(server, proto, SocketAddr::new(at, 0));
            assert_reaches("lab", client, proto, echo.at);
            assert_refused("lab", client, proto, SocketAddr::new(at, 9));
        }
    }
}

#[test]
fn lab_ping_and_arp_are_answered_once() {
    let host = plain("lab-ping");
    let window = Duration::from_millis(200);
    for to in [HOST4, HOST6] {
        assert_eq!(icmp::ping(&host.peer, to, 3, window), [1, 1, 1], "ping {to}");
    }
    let (own, target) = ("10.77.0.1".parse().unwrap(), "10.77.0.2".parse().unwrap());
    assert_eq!(tap::arp_replies(&host.peer, "wire", own, target, window), 1);
}

#[test]
fn lab_capture_sees_injected_frames() {
    let host = plain("lab-frames");
    let marker = frame::marker();
    let (to, from) = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    let tap = tap::Tap::on(&host.ns, "eth0");
    let packet = frame::udp_packet((PEER4, 1234), (HOST4, 9), &marker);
    tap::inject(&host.peer, "wire", &frame::ethernet(to, from, frame::IPV4, &packet));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(tap.count(|s| !s.outgoing && frame::carries(&s.bytes, &marker)), 1);
}

#[test]
fn lab_narrow_hop_reaches_the_remote() {
    let host = Host::with("lab-narrow").narrow(1300).unprepared().build();
    for at in [REMOTE4, REMOTE6] {
        bulk::transfer(&host.ns, host.remote(), SocketAddr::new(at, 5001), 4 << 20, Duration::from_secs(5));
        bulk::transfer(
            host.remote(),
            &host.ns,
            SocketAddr::new(if at.is_ipv4() { HOST4 } else { HOST6 }, 5001),
            4 << 20,
            Duration::from_secs(5),
        );
    }
}

#[test]
fn lab_runtimes_run_on_the_host() {
    let host = plain("lab-runtime");
    for program in ["runc", "crun"] {
        let bundle = Bundle::new(&host, program, &["ip", "-o", "link"]);
        let out = host.runtime(program).run(&bundle).ok();
        assert!(out.stdout.contains("lo") && !out.stdout.contains("eth0"), "{program}: {out}");
        let out = host.runtime(program).run(&bundle.network(Network::Host)).ok();
        assert!(out.stdout.contains("eth0"), "{program}: {out}");
    }
}

#[test]
fn lab_notices_what_is_left_behind() {
    let host = plain("lab-leftovers");
    let before = leftovers::Baseline::of(&host.ns);
    host.ns.ip("link add stray type veth peer name yarts");
    host.ns.set_sysctl("ipv4/conf/lo/route_localnet", "1");
    assert!(host.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"]).code == Some(0));
    let problems = before.compare(&host.ns, &host.state_dir()).join("\n");
    for word in ["stray", "route_localnet", "clsact"] {
        assert!(problems.contains(word), "{word} not noticed in: {problems}");
    }
    host.ns.ip("link del stray");
    host.ns.set_sysctl("ipv4/conf/lo/route_localnet", "0");
    host.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"]).ok();
}

#[test]
fn lab_compares_settings_and_no_counters() {
    use settings::settings;
    for (printed, set) in [
        (
            "qdisc htb 5: root refcnt 2 r2q 10 default 0 direct_packets_stat 3 direct_qlen 1000\n",
            "qdisc htb 5: root r2q 10 default 0 direct_qlen 1000\n",
        ),
        (
            "qdisc fq_codel 0: parent 1:1 limit 10240p\n Sent 5 bytes 1 pkt (dropped 0, overlimits 0 requeues 0) \n \
             backlog 0b 0p requeues 0\n  maxpacket 0 drop_overlimit 0\n  new_flows_len 0 old_flows_len 0\n",
            "qdisc fq_codel 0: parent 1:1 limit 10240p\n",
        ),
        (
            "class htb 1:1 root prio 0 rate 20Mbit ceil 20Mbit\nclass fq_codel 1:2b3 parent 1: \n",
            "class htb 1:1 root prio 0 rate 20Mbit ceil 20Mbit\n",
        ),
        (
            "\taction order 1: gact action pass\n\t index 1 ref 1 bind 1 installed 3 sec used 1 sec\n\tAction statistics:\n",
            "action order 1: gact action pass\nindex 1\n",
        ),
        (
            "2: eth0 inet6 fd77::9/64 scope global tentative dynamic \\  valid_lft 86397sec preferred_lft forever\n",
            "2: eth0 inet6 fd77::9/64 scope global dynamic \\ preferred_lft forever\n",
        ),
        (
            "default via fe80::1 dev eth0 metric 1024 expires 1798sec hoplimit 64 pref medium\n",
            "default via fe80::1 dev eth0 metric 1024 hoplimit 64 pref medium\n",
        ),
        ("tcp dport 80 counter packets 12 bytes 720 accept\n", "tcp dport 80 counter accept\n"),
        (
            "link/ether 02:00:00:00:00:01 promiscuity 0 minmtu 68 qlen 1000\n",
            "link/ether 02:00:00:00:00:01 promiscuity 0 minmtu 68 qlen 1000\n",
        ),
    ] {
        assert_eq!(settings(printed), set);
    }
}

#[test]
fn lab_meters_agree_with_the_kernels_shaper() {
    const RATE: u64 = 20 * limit::MBIT;
    let host = plain("lab-meter");
    host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "1"]).ok();
    host.run(["tc", "class", "add", "dev", "eth0", "classid", "1:1", "htb", "rate", "20mbit", "burst", "25000b"]).ok();
    assert_eq!(limit::classes(&host.ns, "eth0"), [("1:1".to_string(), RATE)].into());
    for (n, carrier) in [Carrier::Tcp, Carrier::Udp, Carrier::UdpSegments].into_iter().enumerate() {
        let to = SocketAddr::new(PEER4, 20_000 + n as u16);
        let stream = flow::Plan::new(carrier, &host.ns, &host.peer, to).start();
        std::thread::sleep(Duration::from_millis(500));
        let share = stream.watch(Duration::from_secs(1)) / RATE as f64;
        println!("{carrier:?}: {share:.4} of what the shaper lets through");
        assert!((0.93..1.02).contains(&share), "{carrier:?}: {share:.4} of what the shaper lets through");
    }
    host.run(["tc", "qdisc", "del", "dev", "eth0", "root"]).ok();
}

#[test]
fn lab_engines_of_debian_13_are_what_they_are_called() {
    let Some(host) = Engines::Debian13.host("lab-debian13") else { return };
    for (program, version) in [("dockerd", " 26."), ("containerd", " 1.7."), ("podman", " 5.")] {
        let said = host.run([program, "--version"]).ok().stdout;
        assert!(said.contains(version), "{program}: {said}");
    }
}
