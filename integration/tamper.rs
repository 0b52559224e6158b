//! Promise: whatever root does inside its container, the container stays within its limits, and the host's own is left alone.

use crate::lab::limit::MBIT;
use crate::lab::*;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(5);

/// What root tries on its own devices, one after the other; `$routes` is a file with the routes there were.
const TRICKS: [&str; 9] = [
    "tc qdisc del dev eth0 root",
    "tc qdisc replace dev eth0 root pfifo limit 100000",
    "tc qdisc replace dev eth0 root handle 1: htb default 1; tc class replace dev eth0 classid 1:1 htb rate 40gbit",
    "tc qdisc del dev eth0 root; tc qdisc del dev eth0 clsact; tc qdisc del dev eth0 ingress",
    "ip link set dev eth0 txqueuelen 100000; ip link set dev eth0 txqueuelen 0",
    "ip link set dev eth0 gso_max_size 65536; ip link set dev eth0 mtu 60000; ip link set dev eth0 mtu 65535",
    "tc qdisc del dev lo clsact; ip link set dev lo down; ip link set dev lo up",
    "ip link set dev eth0 down; ip link set dev eth0 up; while read -r route; do ip route replace $route; done < \"$routes\"",
    "tc qdisc replace dev eth0 root bfifo limit 100000000; ip link add link eth0 name second type macvlan mode bridge; \
     ip link set second up",
];

/// Marks and priorities that mean something to somebody: the shaper itself, its classes, lo's own packets.
fn disguise(fd: &OwnedFd, number: usize) {
    let priorities: [u32; 8] = [0x1_0000, 0x1_0001, 0x1_0002, 0x1_000a, 0x1_ffff, 0xffff_ffff, 0x2_0001, 7];
    let marks: [u32; 4] = [0, 0x7073_6c6f, 0xffff_ffff, 1];
    sock::set(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, priorities[number % 8]).expect("SO_PRIORITY");
    sock::set(fd, libc::SOL_SOCKET, libc::SO_MARK, marks[number % 4]).expect("SO_MARK");
    if sock::get(fd, libc::SOL_SOCKET, libc::SO_TYPE).expect("SO_TYPE") == libc::SOCK_DGRAM {
        sock::set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4i32 << 20).expect("SO_SNDBUFFORCE");
    }
}

/// Tries everything over and over until told to stop, and says meanwhile how often it tried something.
fn tamper(host: &Host, container: &Container, tried: &AtomicUsize, stop: &AtomicBool) {
    // before its own traffic, and its children inherit that
    flow::hurry();
    let routes = host.dir.join(format!("{}.routes", container.id));
    let out = container.ns.command("ip").args(["route", "show"]).output().expect("ip");
    std::fs::write(&routes, out.stdout).expect("routes");
    for trick in TRICKS.iter().cycle() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let mut shell = container.ns.command("sh");
        shell.args(["-c", trick]).env("routes", &routes).stdin(std::process::Stdio::null());
        shell.output().expect("sh");
        tried.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(60));
    }
}

/// One container per row, all at work while all tamper: nobody gets more than a tenth above its limit, and all go on.
fn nobody_gets_more(host: &Host, rows: &[(&str, Carrier, u64, bool)]) {
    let containers: Vec<Container> = rows
        .iter()
        .enumerate()
        .map(|(n, (_, _, rate, egress))| {
            let option = if *egress { "--egress-rate" } else { "--ingress-rate" };
            let (ports, rate) = (format!("{}", 31_000 + n), format!("{rate}bit"));
            host.bare(&format!("c{n}"), &["--ports", &ports, option, &rate])
        })
        .collect();
    let streams: Vec<flow::Stream> = containers
        .iter()
        .zip(rows)
        .enumerate()
        .map(|(n, (container, (_, carrier, _, egress)))| {
            let port = 31_000 + n as u16;
            let plan = match egress {
                true => flow::Plan::new(*carrier, &container.ns, &host.peer, SocketAddr::new(PEER4, port)),
                false => flow::Plan::new(*carrier, &host.peer, &container.ns, SocketAddr::new(HOST4, port)),
            };
            plan.sockets(if *carrier == Carrier::Udp { 8 } else { 2 }).tuned(disguise).start()
        })
        .collect();
    let (stop, tried) = (AtomicBool::new(false), Vec::from_iter(containers.iter().map(|_| AtomicUsize::new(0))));
    std::thread::scope(|s| {
        let (stop, tried) = (&stop, &tried);
        for (container, tried) in containers.iter().zip(tried) {
            s.spawn(move || tamper(host, container, tried, stop));
        }
        std::thread::sleep(Duration::from_millis(200));
        let from = Instant::now();
        std::thread::sleep(WINDOW);
        // on a machine with much else to do a shell takes its time
        let all = || tried.iter().all(|tried| tried.load(Ordering::SeqCst) >= TRICKS.len());
        while !all() && from.elapsed() < 12 * WINDOW {
            std::thread::sleep(Duration::from_millis(100));
        }
        let window = from.elapsed();
        stop.store(true, Ordering::SeqCst);
        for ((stream, (what, _, rate, _)), tried) in streams.iter().zip(rows).zip(tried) {
            let (share, tricks) = (stream.rate(from, window) / *rate as f64, tried.load(Ordering::SeqCst));
            println!("{what}: {share:.3} of {rate} bit/s, {tricks} tricks");
            assert!(tricks >= TRICKS.len(), "{what}: only {tricks} tricks were tried");
            assert!(share <= 1.1, "{what}: {share:.3} times its limit of {rate} bit/s");
            assert!(share >= 0.1, "{what}: the tricks ended its own traffic: {share:.3} of {rate} bit/s");
        }
    });
}

#[test]
fn root_inside_gets_no_more_than_its_limit() {
    let host = Host::new("tamper");
    let _alone = flow::alone();
    nobody_gets_more(
        &host,
        &[
            ("datagrams out at 10 Mbit/s", Carrier::Udp, 10 * MBIT, true),
            ("connections out at 10 Mbit/s", Carrier::Tcp, 10 * MBIT, true),
            ("datagrams in at 10 Mbit/s", Carrier::Udp, 10 * MBIT, false),
            ("connections in at 10 Mbit/s", Carrier::Tcp, 10 * MBIT, false),
            ("datagrams out at 300 Mbit/s", Carrier::UdpSegments, 300 * MBIT, true),
            ("connections out at 300 Mbit/s", Carrier::Tcp, 300 * MBIT, true),
            ("datagrams in at 300 Mbit/s", Carrier::UdpSegments, 300 * MBIT, false),
        ],
    );
}

#[test]
fn root_inside_gets_no_more_than_two_gigabits() {
    let host = Host::new("tamper-2g");
    let _alone = flow::alone();
    nobody_gets_more(
        &host,
        &[
            ("datagrams out at 2 Gbit/s", Carrier::UdpSegments, 2000 * MBIT, true),
            ("connections out at 2 Gbit/s", Carrier::Tcp, 2000 * MBIT, true),
        ],
    );
}

/// Frames put on the device past its queue, and past the protocols that would keep a sender back.
#[test]
fn frames_past_the_queue_are_limited_too() {
    const RATE: u64 = 10 * MBIT;
    const PACKET_QDISC_BYPASS: i32 = 20;
    let host = Host::new("tamper-frames");
    let container = host.bare("c", &["--ports", "31000", "--egress-rate", "10mbit"]);
    let to = SocketAddr::new(PEER4, 20_000);
    // one honest socket, whose receiver counts everybody's
    let stream = flow::Plan::new(Carrier::Udp, &container.ns, &host.peer, to).start();
    let mac = tap::mac_of(&container.ns, "eth0");
    let packet = frame::udp_packet((HOST4, 31_000), (PEER4, 20_000), &[0x5a; 1400]);
    let frame = frame::ethernet(mac, mac, frame::IPV4, &packet);
    let stop = AtomicBool::new(false);
    let _alone = flow::alone();
    std::thread::scope(|s| {
        let blaster = s.spawn(|| {
            let fd = container.inside(|| tap::packet_socket("eth0", 0));
            sock::set(&fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1i32).expect("PACKET_QDISC_BYPASS");
            sock::set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 16i32 << 20).expect("SO_SNDBUFFORCE");
            let mut sent = 0u64;
            while !stop.load(Ordering::Relaxed) {
                sent += u64::from(sock::send(&fd, &frame).is_ok());
            }
            sent
        });
        let from = Instant::now() + Duration::from_millis(200);
        std::thread::sleep(Duration::from_millis(2400));
        let share = stream.rate(from, Duration::from_secs(2)) / RATE as f64;
        stop.store(true, Ordering::SeqCst);
        let sent = blaster.join().expect("blaster");
        println!("frames past the queue: {sent} put on the device, {share:.3} of the limit arrived");
        assert!(sent as f64 * 1442.0 * 8.0 > 2.0 * 2.4 * RATE as f64, "only {sent} frames were put on the device");
        assert!((0.5..=1.1).contains(&share), "frames past the queue: {share:.3} times the limit of {RATE} bit/s");
    });
}

/// The host's processes never stand in a container's queue, whatever they or it put on their packets.
#[test]
fn the_hosts_own_traffic_is_left_alone() {
    const RATE: u64 = 10 * MBIT;
    let host = Host::new("tamper-host");
    let container = host.bare("c", &["--ports", "31000", "--egress-rate", "10mbit", "--ingress-rate", "10mbit"]);
    let other = host.bare("other", &["--egress-rate", "10mbit"]);
    let echo = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
    let to = |port| SocketAddr::new(PEER4, port);
    let _blast =
        flow::Plan::new(Carrier::Udp, &container.ns, &host.peer, to(20_001)).sockets(8).tuned(disguise).start();
    let honest = flow::Plan::new(Carrier::Udp, &other.ns, &host.peer, to(20_002)).start();
    std::thread::sleep(Duration::from_secs(1));
    let median = delay::median(&delay::round_trips(&host.ns, echo.at, Duration::from_secs(1)));
    let (window, from) = (Duration::from_secs(1), Instant::now() - Duration::from_secs(1));
    let share = honest.rate(from, window) / RATE as f64;
    println!("beside a container that blasts: the host's round trip {median:?}, another's share {share:.3}");
    assert!(median < Duration::from_millis(20), "the host's own round trip takes {median:?}");
    assert!((0.9..=1.05).contains(&share), "another container at the same limit gets {share:.3} of it");
    // a process of the host may call itself what it likes
    let stream = flow::Plan::new(Carrier::Tcp, &host.ns, &host.peer, to(20_003)).tuned(disguise).sockets(4).start();
    std::thread::sleep(Duration::from_millis(200));
    let rate = stream.watch(Duration::from_millis(500));
    assert!(rate > 20.0 * RATE as f64, "the host's own connection, by another's priority: {rate:.0} bit/s");
}
