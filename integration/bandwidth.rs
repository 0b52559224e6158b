//! Promise: a container sends and receives at the rate it was given, no faster and no slower, and nobody else notices.

mod asked;
mod cost;
mod held;
mod local;
mod lost;
mod placed;
mod shared;
mod waiting;

use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// The direction that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the container.
    Egress,
    /// To the container.
    Ingress,
}

impl Way {
    const BOTH: [Way; 2] = [Way::Egress, Way::Ingress];

    fn option(self) -> &'static str {
        match self {
            Way::Egress => "--egress-rate",
            Way::Ingress => "--ingress-rate",
        }
    }
}

/// A stream that a limit holds back: which way, how, at how many bits a second, to or from which of the peer's addresses.
#[derive(Clone, Copy, Debug)]
struct Row {
    way: Way,
    carrier: Carrier,
    rate: u64,
    peer: IpAddr,
}

/// A host with one limited container for each row; their numbers are the rows'.
struct Scene {
    host: Host,
    rows: Vec<Row>,
    containers: Vec<Container>,
}

impl Scene {
    fn new(name: &str, rows: Vec<Row>) -> Scene {
        let host = Host::new(name);
        let attach = |(n, row): (usize, &Row)| {
            let (ports, rate) = (port(n).to_string(), format!("{}bit", row.rate));
            host.bare(&format!("c{n}"), &["--ports", &ports, row.way.option(), &rate])
        };
        let containers = rows.iter().enumerate().map(attach).collect();
        Scene { host, rows, containers }
    }

    /// The stream of a row, between its container and the outside peer.
    fn plan(&self, n: usize) -> flow::Plan<'_> {
        let (row, inner) = (self.rows[n], &self.containers[n].ns);
        match row.way {
            Way::Egress => flow::Plan::new(row.carrier, inner, &self.host.peer, SocketAddr::new(row.peer, port(n))),
            Way::Ingress => {
                let host = if row.peer.is_ipv4() { HOST4 } else { HOST6 };
                flow::Plan::new(row.carrier, &self.host.peer, inner, SocketAddr::new(host, port(n)))
            }
        }
    }
}

/// The port of a row's server.
fn port(n: usize) -> u16 {
    31_000 + n as u16
}

/// Asserts that a limit was not passed in a window, and says how fast it was. What a connection lost on the way holds back
/// all that comes after it, so of one the whole time since it began is looked at.
#[track_caller]
fn assert_within(stream: &flow::Stream, rate: u64, from: Instant, window: Duration) -> f64 {
    let begin = if stream.carrier == Carrier::Tcp { stream.began() } else { from };
    let whole = from + window - begin;
    let (got, most) = (stream.bytes(begin, whole), limit::most(rate, whole, stream.carrier.packet()));
    assert!(got <= most, "{}: {got:.0} bytes in {whole:?}, {rate} bit/s let {most:.0} through", stream.what);
    stream.rate(from, window)
}

/// Asserts that streams that are under way get their share of their limits in the same seconds, and never more than all of
/// it. Others use the processors too: what a stream falls short of once, it may have another two tries for.
#[track_caller]
fn assert_shares(streams: &[(flow::Stream, u64)], window: Duration, least: f64) {
    let mut short = Vec::new();
    for _ in 0..3 {
        let from = Instant::now();
        std::thread::sleep(window);
        short.clear();
        for (stream, rate) in streams {
            let share = assert_within(stream, *rate, from, window) / *rate as f64;
            println!("{}: {share:.3} of {rate} bit/s", stream.what);
            if share < least {
                short.push(format!("{}: {share:.3} of {rate} bit/s", stream.what));
            }
        }
        if short.is_empty() {
            return;
        }
    }
    panic!("less than {least} of a limit:\n  {}", short.join("\n  "));
}
