//! What a full queue does to others: a second connection's answers come soon all the same.

use super::*;
use crate::lab::limit::MBIT;

const WINDOW: Duration = Duration::from_secs(3);

/// The median that is allowed at a hundred megabits a second.
fn allowed(host: &Host) -> Duration {
    let fair = limit::has(host, "fq_codel");
    println!("fq_codel: {}", if fair { "here" } else { "not in this kernel" });
    Duration::from_millis(if fair { 25 } else { 40 })
}

/// Half of the 456 ms that ten megabits a second cost with the queue a class has by itself. A connection to somebody near
/// sends 64 KB at a time, and each of them takes 52 ms.
const AT_TEN: Duration = Duration::from_millis(228);

/// Behind the peer stands a router: what comes from there is nobody's socket any more, so that only the queue's own length
/// keeps it short.
#[test]
fn a_second_connection_does_not_wait_behind_the_first() {
    let host = Host::with("limit-delay").narrow(1500).build();
    let allowed = [(100 * MBIT, allowed(&host)), (10 * MBIT, AT_TEN)];
    let rows = allowed.iter().flat_map(|(rate, most)| Way::BOTH.map(|way| (way, *rate, *most)));
    let scenes: Vec<_> = rows
        .enumerate()
        .map(|(n, (way, rate, most))| {
            let args = ["--ports", &format!("{},{}", port(n), port(n + 100)), way.option(), &format!("{rate}bit")];
            (n, way, rate, most, host.bare(&format!("c{n}"), &args))
        })
        .collect();
    std::thread::scope(|s| {
        let measure = |n, way, container: &Container| {
            let (inner, outer) = (&container.ns, host.remote());
            let (from, into, at) = match way {
                Way::Egress => (inner, outer, REMOTE4),
                Way::Ingress => (outer, inner, HOST4),
            };
            let echo = Echo::start(into, Proto::Tcp, SocketAddr::new(probe::any(at), port(n + 100)));
            let to = SocketAddr::new(at, echo.at.port());
            let alone = delay::median(&delay::round_trips(from, to, Duration::from_millis(200)));
            let stream = flow::Plan::new(Carrier::Tcp, from, into, SocketAddr::new(at, port(n))).start();
            std::thread::sleep(Duration::from_secs(1));
            let start = std::time::Instant::now();
            let loaded = delay::round_trips(from, to, WINDOW);
            (alone, loaded, stream.rate(start, WINDOW))
        };
        let threads: Vec<_> = scenes.iter().map(|(n, way, .., c)| s.spawn(move || measure(*n, *way, c))).collect();
        let mut bad = Vec::new();
        let measured: Vec<_> = threads.into_iter().map(|t| t.join().expect("measured")).collect();
        for ((_, way, rate, most, _), (alone, loaded, busy)) in scenes.iter().zip(measured) {
            let (median, worst) = (delay::median(&loaded), loaded.last().unwrap());
            println!("{way:?} at {rate}: {alone:?} alone, {median:?} (at most {worst:?}) beside {busy:.0} bit/s");
            if busy < 0.9 * *rate as f64 {
                bad.push(format!("{way:?} at {rate}: the line was not busy, {busy:.0} bit/s"));
            }
            if median > *most {
                bad.push(format!("{way:?} at {rate}: median round trip {median:?}, allowed {most:?}"));
            }
        }
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    });
}

/// Datagrams as fast as a socket takes them: the socket waits, and nobody else does.
#[test]
fn a_second_socket_does_not_wait_behind_datagrams() {
    let rows = Way::BOTH.map(|way| Row { way, carrier: Carrier::Udp, rate: 100 * MBIT, peer: PEER4 });
    let scene = Scene::new("limit-delay-udp", rows.into());
    for (n, row) in scene.rows.iter().enumerate() {
        let inner = &scene.containers[n].ns;
        let (from, into, at) = match row.way {
            Way::Egress => (inner, &scene.host.peer, PEER4),
            Way::Ingress => (&scene.host.peer, inner, HOST4),
        };
        let echo = Echo::start(into, Proto::Tcp, SocketAddr::new(probe::any(at), port(n)));
        let _stream = scene.plan(n).start();
        let loaded = delay::round_trips(from, SocketAddr::new(at, echo.at.port()), Duration::from_secs(1));
        let median = delay::median(&loaded);
        println!("{:?} beside datagrams: median {median:?}", row.way);
        assert!(median <= Duration::from_millis(40), "{:?} beside datagrams: median round trip {median:?}", row.way);
    }
}
