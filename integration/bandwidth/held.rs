//! One container at its limit: from two kilobytes to forty gigabits a second.

use super::*;
use crate::lab::limit::MBIT;
use std::os::fd::OwnedFd;

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(5);
/// Others use the processors too: what a stream falls short of once, it may have another two tries for.
const TRIES: usize = 3;

/// Measures all rows at the same time, and those that were kept from their rate again. Never is one faster.
fn all_held(scene: &Scene) {
    let mut left: Vec<usize> = (0..scene.rows.len()).collect();
    for round in 1..=TRIES {
        let streams: Vec<(usize, flow::Stream)> = left.iter().map(|n| (*n, scene.plan(*n).start())).collect();
        let began: Vec<Instant> = streams.iter().map(|(_, s)| s.began()).collect();
        std::thread::sleep(began.iter().max().unwrap().elapsed().max(SECOND + WINDOW + Duration::from_millis(100)));
        left = Vec::new();
        for ((n, stream), began) in streams.into_iter().zip(began) {
            let Row { rate, .. } = scene.rows[n];
            let first = stream.bytes(began, SECOND);
            let steady = assert_within(&stream, rate, began + SECOND, WINDOW);
            println!(
                "{}: first second {:.3}, then {:.4} of {rate} bit/s (round {round})",
                stream.what,
                first * 8.0 / rate as f64,
                steady / rate as f64
            );
            let most = 1.1 * rate as f64 / 8.0 + limit::burst(rate);
            assert!(first <= most, "{}: {first:.0} bytes in the first second, allowed {most:.0}", stream.what);
            if steady < 0.95 * rate as f64 {
                assert!(round < TRIES, "{}: {steady:.0} of {rate} bit/s, in round {round}", stream.what);
                left.push(n);
            }
        }
        if left.is_empty() {
            return;
        }
    }
}

fn rows(rates: &[u64], carriers: [Carrier; 2]) -> Vec<Row> {
    let each = |(rate, way, carrier)| Row { way, carrier, rate, peer: PEER4 };
    let all = rates.iter().flat_map(|r| Way::BOTH.map(|w| carriers.map(|c| (*r, w, c)))).flatten();
    all.map(each).collect()
}

#[test]
fn ten_and_three_hundred_megabits_are_held() {
    let mut rows = rows(&[10 * MBIT, 300 * MBIT], [Carrier::Tcp, Carrier::Udp]);
    rows.extend(Way::BOTH.map(|way| Row { way, carrier: Carrier::Tcp, rate: 10 * MBIT, peer: PEER6 }));
    let _alone = flow::alone();
    all_held(&Scene::new("limit-held", rows));
}

#[test]
fn two_gigabits_are_held() {
    let _alone = flow::alone();
    let scene = Scene::new("limit-held-2g", rows(&[2000 * MBIT], [Carrier::Tcp, Carrier::UdpSegments]));
    all_held(&scene);
}

/// Small datagrams, either way; and, either way, the transfer that Mesos' own tests make at this rate by the host's loopback.
#[test]
fn sixteen_kilobits_are_held() {
    const RATE: u64 = 16_000;
    const PAYLOAD: usize = 100;
    let rows = Way::BOTH.map(|way| Row { way, carrier: Carrier::Udp, rate: RATE, peer: PEER4 });
    let scene = Scene::new("limit-low", rows.into());
    let slow = |id: &str, option: &str, ports: &str| scene.host.bare(id, &["--ports", ports, option, "2000B"]);
    let (out, back) = (slow("out", "--egress-rate", "31500"), slow("back", "--ingress-rate", "31501"));
    assert_eq!((out.in_force("out"), back.in_force("back")), ([Some(RATE), None], [None, Some(RATE)]));
    let (host, to) = (&scene.host.ns, |port| SocketAddr::new(LO4, port));
    std::thread::scope(|s| {
        let sent = s.spawn(|| delivered(&out.ns, host, to(20_000), 20_480));
        let received = s.spawn(|| delivered(host, &back.ns, to(31_501), 20_480));
        let streams: Vec<flow::Stream> = (0..2).map(|n| scene.plan(n).payload(PAYLOAD).start()).collect();
        let began: Vec<Instant> = streams.iter().map(flow::Stream::began).collect();
        std::thread::sleep(WINDOW + 3 * SECOND);
        for (stream, began) in streams.into_iter().zip(began) {
            // the burst is spent in the first two seconds
            let got = stream.bytes(began + 2 * SECOND, WINDOW);
            let ideal = RATE as f64 / 8.0 * WINDOW.as_secs_f64();
            println!("{}: {:.4} of 16 kbit/s", stream.what, got / ideal);
            let packet = (PAYLOAD + 42) as f64;
            assert!(got <= ideal + packet, "{}: {got} bytes in {WINDOW:?}, allowed {ideal}", stream.what);
            assert!(got >= 0.95 * ideal - packet, "{}: only {got} of {ideal} bytes in {WINDOW:?}", stream.what);
        }
        for (what, took) in [("sending", sent.join().unwrap()), ("receiving", received.join().unwrap())] {
            println!("{what} 20480 bytes at 2000 B/s by loopback: {took:?}");
            assert!((9.0..14.0).contains(&took.as_secs_f64()), "{what} 20480 bytes at 2000 B/s took {took:?}");
        }
    });
}

/// Sends that much on one connection and closes it: the time until the receiver has seen the end.
fn delivered(from: &Ns, into: &Ns, to: SocketAddr, size: usize) -> Duration {
    let patience = Duration::from_secs(30);
    let open = || {
        let fd = probe::open(Proto::Tcp, to.ip()).expect("socket");
        sock::limit(&fd, patience);
        fd
    };
    let listener = into.inside(|| {
        let fd = open();
        sock::reuse(&fd).expect("SO_REUSEADDR");
        sock::bind(&fd, SocketAddr::new(probe::any(to.ip()), to.port())).expect("bind");
        sock::listen(&fd).expect("listen");
        fd
    });
    let start = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| {
            let send = |fd: OwnedFd| {
                sock::connect(&fd, to)?;
                sock::send_all(&fd, &vec![0x5a; size])?;
                sock::shut_sending(&fd);
                // until the other end has closed as well
                sock::recv(&fd, &mut [0]).map(drop)
            };
            from.inside(|| send(open())).unwrap_or_else(|e| panic!("{size} bytes from {} to {to}: {e}", from.name));
        });
        let (connection, _) = sock::accept(&listener).expect("accept");
        sock::limit(&connection, patience);
        let (mut buffer, mut got) = (vec![0; 65536], 0);
        loop {
            match sock::recv(&connection, &mut buffer) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) => panic!("{got} of {size} bytes from {} at {to}: {e}", from.name),
            }
        }
        assert_eq!(got, size, "bytes from {} at {to}", from.name);
        start.elapsed()
    })
}

#[test]
fn large_rates_are_set_in_full() {
    const GBIT: u64 = 1000 * MBIT;
    let host = Host::new("limit-large");
    for (text, rate) in [("40gbit", 40 * GBIT), ("100gbit", 100 * GBIT), ("4882812500KB", 40_000 * GBIT)] {
        let args = ["--ports", "31000", "--egress-rate", text, "--ingress-rate", text];
        let container = host.bare("large", &args);
        assert_eq!(container.in_force(text), [Some(rate); 2], "{text}");
        let out = limit::tc(&host.ns, &["-s", "class", "show", "dev", limit::SHAPER]);
        assert!(text != "40gbit" || out.contains("rate 40Gbit"), "{out}");
        let within = Duration::from_secs(10);
        bulk::transfer(&container.ns, &host.peer, SocketAddr::new(PEER4, 20_000), 32 << 20, within);
        bulk::transfer(&host.peer, &container.ns, SocketAddr::new(HOST4, 31_000), 32 << 20, within);
        container.detach();
        container.kill();
    }
}

/// The largest packets that there are, at a rate that takes two seconds for one: they are slow, not lost.
#[test]
fn a_packet_larger_than_its_burst_gets_through() {
    let host = Host::new("limit-large-packet");
    let attach = |id: &str, option: &str| host.bare(id, &["--ports", "auto:1", option, "128kbit"]);
    let (out, back) = (attach("out", "--egress-rate"), attach("back", "--ingress-rate"));
    let pairs = [(&out.ns, &host.ns, 20_000), (&host.ns, &back.ns, back.ports[0])];
    std::thread::scope(|s| {
        let start = |(from, into, port)| s.spawn(move || delivered(from, into, SocketAddr::new(LO4, port), 70_000));
        for took in pairs.map(start).map(|thread| thread.join().unwrap()) {
            println!("70000 bytes at 128 kbit/s by loopback: {took:?}");
            assert!((4.0..5.0).contains(&took.as_secs_f64()), "70000 bytes at 128 kbit/s took {took:?}");
        }
    });
}
