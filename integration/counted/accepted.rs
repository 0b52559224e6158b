//! Connections that outlive their listener keep its port, and nobody else has it until the last one has ended. Then, and when a
//! process is killed, it is free as on a plain host.

use super::runner::{Order, Runner};
use super::{OPEN, host};
use crate::lab::{HOST4, Host, Ns, long, wait};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const PORT: u16 = 8080;
/// How much sooner or later than on a plain host a port may be free that rests after a TIME_WAIT of 60 s.
const SHARP: Duration = Duration::from_secs(10);

/// Who closes a connection first, and so has it in TIME_WAIT.
#[derive(Clone, Copy, PartialEq)]
enum First {
    Client,
    Server,
}

/// The processes of one run.
struct Run {
    server: Runner,
    client: Runner,
    /// Who wants the port as well.
    others: Vec<Runner>,
    /// What came of each attempt.
    told: Vec<(String, i32)>,
}

#[test]
fn accepted_connections_keep_the_port_until_the_last_one_ends() {
    let connections = if long() { 10_000 } else { 500 };
    let plain = Host::with("accepted-plain").unprepared().build();
    let host = host("accepted");
    let (a, b) = (host.bare("a", &OPEN), host.bare("b", &OPEN));
    for first in [First::Client, First::Server] {
        let begun = Instant::now();
        let mut alone = Run::new(&plain.ns, &plain.peer, [&plain.ns, &plain.ns], connections);
        alone.connections(connections, first);
        let ended = Instant::now();
        let mut ours = Run::new(&a.ns, &host.peer, [&host.ns, &b.ns], connections);
        ours.connections(connections, first);
        // that of the plain host rests for so much longer already
        let between = ended.elapsed();
        assert_eq!(ours.told, alone.told);
        println!("accepted: {connections} connections in {:?}", begun.elapsed());
        if first == First::Server && long() {
            // how long it rests is an estimate until somebody looks, as the service does every half minute
            let look = || drop(host.portslice(["sync"]).ok());
            let (there, here) = std::thread::scope(|scope| {
                let here = scope.spawn(|| ours.free_after(look));
                (alone.free_after(|| ()) + between, here.join().expect("no panic"))
            });
            println!("accepted: free after {there:?} on a plain host, {here:?} here");
            assert!(here + SHARP > there && here < there + SHARP, "free after {here:?}, on a plain host {there:?}");
        }
    }
}

#[test]
fn what_a_killed_process_held_is_free_as_on_a_plain_host() {
    let plain = Host::with("killed-plain").unprepared().build();
    let host = host("killed");
    let (a, b) = (host.bare("a", &OPEN), host.bare("b", &OPEN));
    let alone = Run::new(&plain.ns, &plain.peer, [&plain.ns, &plain.ns], 8).killed();
    let ours = Run::new(&a.ns, &host.peer, [&host.ns, &b.ns], 8).killed();
    assert_eq!(ours, alone);

    // and with the whole container, without anybody being told
    let server = Runner::start(&b.ns, 8);
    server.listen(0, SocketAddr::new(ANY, PORT), false).expect("listens");
    server.succeed(Order::Open { at: 1, stream: false, v6: true });
    server.succeed(Order::Bind { at: 1, to: SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), PORT) });
    let mine = Runner::start(&host.ns, 8);
    assert_eq!(mine.listen(0, SocketAddr::new(ANY, PORT), false), Err(libc::EADDRINUSE));
    drop(server);
    b.kill();
    assert_eq!(mine.listen(0, SocketAddr::new(ANY, PORT), false), Ok(()), "TCP");
    mine.succeed(Order::Open { at: 1, stream: false, v6: false });
    mine.succeed(Order::Bind { at: 1, to: SocketAddr::new(ANY, PORT) });
}

impl Run {
    fn new(server: &Ns, client: &Ns, others: [&Ns; 2], connections: u16) -> Run {
        let room = usize::from(connections) + 8;
        let others = others.iter().map(|ns| Runner::start(ns, 8)).collect();
        Run { server: Runner::start(server, room), client: Runner::start(client, room), others, told: Vec::new() }
    }

    /// All others try to get the port.
    fn attempt(&mut self, when: &str) {
        for (n, other) in self.others.iter().enumerate() {
            for reuse in [false, true] {
                let errno = other.listen(0, SocketAddr::new(ANY, PORT), reuse).err().unwrap_or(0);
                other.call(Order::Close { at: 0 });
                self.told.push((format!("{when}: process {n}, SO_REUSEADDR {reuse}"), errno));
            }
        }
    }

    /// A listener with its connections, and two that say something to each other, number by number from 1.
    fn begin(&mut self, connections: u16) {
        self.server.listen(0, SocketAddr::new(ANY, PORT), false).expect("listens");
        for at in 1..=connections {
            self.client.succeed(Order::Open { at, stream: true, v6: false });
            self.client.succeed(Order::Connect { at, to: SocketAddr::new(HOST4, PORT) });
            self.server.succeed(Order::Accept { at: 0, into: at, wait: 5000 });
        }
    }

    /// Connections that outlive their listener, and end one after the other.
    fn connections(&mut self, connections: u16, first: First) {
        self.begin(connections);
        self.server.succeed(Order::Close { at: 0 });
        self.attempt("without a listener");
        for at in 1..=connections {
            assert!(talks(&self.client, &self.server, at), "connection {at} of {connections}");
        }
        for at in 1..=connections {
            if at % (connections / 10) == 0 {
                self.attempt(&format!("before connection {at} ends"));
            }
            let (one, other) =
                if first == First::Client { (&self.client, &self.server) } else { (&self.server, &self.client) };
            one.succeed(Order::Close { at });
            let end = other.succeed(Order::Receive { at, wait: 5000 });
            assert_eq!(end.count, 0, "connection {at} does not end");
            other.succeed(Order::Close { at });
        }
        // the last packet of the last one may be on its way
        std::thread::sleep(Duration::from_millis(100));
        self.attempt("after all");
    }

    /// How long a port rests from now on, where `look` is done all the time.
    fn free_after(&self, look: impl Fn()) -> Duration {
        let begun = Instant::now();
        while self.others[0].listen(0, SocketAddr::new(ANY, PORT), false).is_err() {
            look();
            assert!(begun.elapsed() < Duration::from_secs(180), "the port never is free");
            std::thread::sleep(Duration::from_millis(200));
        }
        self.others[0].call(Order::Close { at: 0 });
        begun.elapsed()
    }

    /// The server is killed with a listener, connections and a datagram socket.
    fn killed(mut self) -> Vec<(String, i32)> {
        self.begin(4);
        self.server.succeed(Order::Open { at: 7, stream: false, v6: false });
        self.server.succeed(Order::Bind { at: 7, to: SocketAddr::new(ANY, PORT) });
        self.attempt("alive");
        // those that the client has ended leave nothing behind
        for at in 1..=4 {
            self.client.succeed(Order::Close { at });
            self.server.succeed(Order::Receive { at, wait: 5000 });
        }
        drop(self.server);
        let others = self.others;
        let free = |stream: bool| {
            others.iter().all(|other| {
                other.succeed(Order::Open { at: 0, stream, v6: false });
                let errno = other.call(Order::Bind { at: 0, to: SocketAddr::new(ANY, PORT) }).errno;
                other.call(Order::Close { at: 0 });
                errno == 0
            })
        };
        let mut told = self.told;
        for (name, stream) in [("TCP", true), ("UDP", false)] {
            told.push((format!("killed: {name} is free"), wait::eventually(|| free(stream)).into()));
        }
        told
    }
}

/// A byte there and one back.
fn talks(client: &Runner, server: &Runner, at: u16) -> bool {
    [(client, server, 1), (server, client, 2)].iter().all(|(from, to, byte)| {
        from.succeed(Order::Send { at, byte: *byte, count: 1 });
        let got = to.succeed(Order::Receive { at, wait: 5000 });
        (got.count, got.byte) == (1, *byte)
    })
}
