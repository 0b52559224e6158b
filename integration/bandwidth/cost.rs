//! What a limit costs that is never reached, in instructions of the whole machine for a request and its response.
//!
//! Judged where the clock counts instructions (`PORTSLICE_CLOCK=instructions`, as `integration/vm` has it): there both ends
//! and everything between them run on one processor that is never idle. Elsewhere the time is only told.

use crate::lab::bundle::Bundle;
use crate::lab::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

const EXCHANGES: u32 = 2000;
const WARM_UP: u32 = 200;
const ROUNDS: usize = 3;

/// Nanoseconds a TCP exchange of one byte takes between a client and a server in their namespaces.
fn tcp(client: &Ns, server: &Ns, to: SocketAddr) -> f64 {
    let listener = server.inside(|| TcpListener::bind(to)).expect("bind");
    let mut asks = client.inside(|| TcpStream::connect(to)).expect("connect");
    let (mut answers, _) = listener.accept().expect("accept");
    [&asks, &answers].into_iter().for_each(|end| end.set_nodelay(true).expect("nodelay"));
    let answering = std::thread::spawn(move || {
        let mut byte = [0];
        while answers.read_exact(&mut byte).is_ok() {
            answers.write_all(&byte).expect("answer");
        }
    });
    let taken = timed(|| {
        asks.write_all(b"?").expect("ask");
        asks.read_exact(&mut [0]).expect("answer");
    });
    drop(asks);
    answering.join().expect("server");
    taken
}

/// The same by datagrams of 64 bytes.
fn udp(client: &Ns, server: &Ns, to: SocketAddr) -> f64 {
    let answers = server.inside(|| UdpSocket::bind(to)).expect("bind");
    let asks = client.inside(|| UdpSocket::bind("0.0.0.0:0")).expect("bind");
    asks.connect(to).expect("connect");
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length @ 1.., from)) = answers.recv_from(&mut buffer) {
            answers.send_to(&buffer[..length], from).expect("answer");
        }
    });
    let taken = timed(|| {
        asks.send(&[7; 64]).expect("ask");
        asks.recv(&mut [0; 64]).expect("answer");
    });
    asks.send(&[]).expect("end");
    answering.join().expect("server");
    taken
}

fn timed(mut exchange: impl FnMut()) -> f64 {
    (0..WARM_UP).for_each(|_| exchange());
    let start = Instant::now();
    (0..EXCHANGES).for_each(|_| exchange());
    start.elapsed().as_nanos() as f64 / f64::from(EXCHANGES)
}

#[test]
fn a_limit_that_is_not_reached_costs_little() {
    let host = Host::new("limit-cost");
    let free = host.bare("free", &["--ports", "31000"]);
    let outside = host.bare("outside", &["--ports", "31001", "--egress-rate", "10gbit"]);
    let both = host.bare("both", &["--ports", "31002", "--egress-rate", "10gbit", "--ingress-rate", "10gbit"]);
    let runtime = host.runtime("runc");
    let bundle = Bundle::new(&host, "within", &["sleep", "1000"])
        .sliced()
        .annotation("portslice/ports", "31003")
        .annotation("portslice/egress-rate", "10gbit");
    let within = runtime.start(&bundle);
    let shown = host.portslice(["show", &within.id, "--json"]).ok().json();
    assert_eq!(shown["egress_placed"], "inside", "{shown}");
    let within_ns = within.ns();

    let judged = std::env::var("PORTSLICE_CLOCK").is_ok_and(|clock| clock == "instructions");
    let unit = if judged { "instructions" } else { "ns, not judged: this clock does not count instructions" };
    let ways = [
        ("held on the host", &outside.ns, 31_001, [1.12, 1.15]),
        ("held on the host, both directions", &both.ns, 31_002, [1.24, 1.24]),
        ("held on its own device", &within_ns, 31_003, [1.05, 1.09]),
    ];
    // HTB and fq_codel alone take some 1900 instructions for a packet, which weighs more where there is less besides
    let mut dear = Vec::new();
    for (carrier, (what, exchange)) in
        [("TCP", tcp as fn(&Ns, &Ns, SocketAddr) -> f64), ("UDP", udp)].into_iter().enumerate()
    {
        let at = |port| SocketAddr::new(HOST4, port);
        let mut costs = vec![Vec::new(); ways.len() + 1];
        for _ in 0..ROUNDS {
            costs[0].push(exchange(&host.peer, &free.ns, at(31_000)));
            for (n, (_, ns, port, _)) in ways.iter().enumerate() {
                costs[n + 1].push(exchange(&host.peer, ns, at(*port)));
            }
        }
        let median = |all: &mut Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let base = median(&mut costs[0]);
        println!("{what} exchange without a limit: {base:.0} {unit}");
        for (n, (way, _, _, limits)) in ways.iter().enumerate() {
            let most = limits[carrier];
            let ratio = median(&mut costs[n + 1]) / base;
            println!("{what} exchange, {way}: {ratio:.3} (at most {most})");
            if ratio > most {
                dear.push(format!("{what}, {way}: {ratio:.3}, at most {most}"));
            }
        }
    }
    assert!(!judged || dear.is_empty(), "instructions of a limited container's exchange:\n  {}", dear.join("\n  "));
}
