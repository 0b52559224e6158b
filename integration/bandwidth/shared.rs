//! Many at once: everybody gets what it was given, and who has no limit keeps what it had.

use super::*;
use crate::lab::limit::MBIT;

#[test]
fn twenty_containers_get_what_each_was_given() {
    // ten alike and ten of all sizes, connections and datagrams
    let rates = (0..20).map(|n| if n < 10 { 10 * MBIT } else { (n - 9) * 3 * MBIT });
    let row = |(n, rate)| {
        let carrier = if n % 2 == 0 { Carrier::Udp } else { Carrier::Tcp };
        Row { way: Way::Egress, carrier, rate, peer: PEER4 }
    };
    let scene = Scene::new("limit-twenty", rates.enumerate().map(row).collect());
    let streams: Vec<_> = scene.rows.iter().enumerate().map(|(n, row)| (scene.plan(n).start(), row.rate)).collect();
    std::thread::sleep(Duration::from_secs(1));
    assert_shares(&streams, Duration::from_secs(3), 0.9);
}

/// On a wire that is full: two neighbours share it as before, less what the limited one may have.
#[test]
fn neighbours_keep_what_they_had() {
    const SLICE: Duration = Duration::from_millis(200);
    let host = Host::new("limit-neighbours");
    let limited = host.bare("limited", &["--egress-rate", "10mbit"]);
    let free = ["one", "two"].map(|id| host.bare(id, &[]));
    host.run("tc qdisc add dev eth0 root tbf rate 300mbit burst 400kb latency 20ms".split(' ')).ok();
    let to = |n: u16| SocketAddr::new(PEER4, 20_000 + n);
    let plan = |n: usize| flow::Plan::new(Carrier::UdpSegments, &free[n].ns, &host.peer, to(n as u16));
    let streams = [0, 1].map(|n| plan(n).start());
    let measure = || {
        let mut seen = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for _ in 0..8 {
            for with in [0, 1] {
                let busy = [(Carrier::Udp, 8), (Carrier::Tcp, 9)].map(|(carrier, n)| {
                    (with == 1).then(|| flow::Plan::new(carrier, &limited.ns, &host.peer, to(n)).start())
                });
                std::thread::sleep(SLICE / 4);
                let from = Instant::now();
                std::thread::sleep(SLICE);
                for (stream, seen) in streams.iter().zip(&mut seen[with]) {
                    seen.push(stream.rate(from, SLICE));
                }
                drop(busy);
            }
        }
        let [without, with] = seen.map(|both| both.map(median));
        println!("without a limited container {without:.0?}, with it {with:.0?} bit/s");
        [0, 1].map(|n| with[n] / without[n])
    };
    // others may spoil a measurement, but not each of them
    let mut tries = Vec::new();
    while tries.len() < 3 {
        let ratios = measure();
        tries.push(ratios);
        if ratios.iter().all(|r| *r >= 0.9) {
            break;
        }
    }
    host.run(["tc", "qdisc", "del", "dev", "eth0", "root"]).ok();
    println!("beside a limited container that sends what it can, neighbours keep {tries:.3?} of what they had");
    assert!(tries.last().unwrap().iter().all(|r| *r >= 0.9), "neighbours keep only {tries:.3?} of what they had");
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
