//! Running a program: its processes live somewhere, a driver has them make one call after the other, and what comes of each is
//! written down without what differs from run to run.

use super::program::{Call, Flag, Number, Outcome, PORTS, Place, Port, Program};
use crate::counted::runner::{Answer, Order, Runner};
use crate::lab::Ns;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Sockets that a process may have at a time.
const ROOM: usize = 64;
/// Connections that a listener lets wait: more than a program makes.
const QUEUE: i32 = 32;
/// Milliseconds that a call waits for what came in the run that is compared with.
const PATIENCE: u16 = 1000;

/// Where the processes of a program live.
pub struct World {
    pub name: &'static str,
    /// Of each process: a number that processes in the same namespace share.
    pub owners: [u8; 4],
    runners: Vec<Runner>,
}

/// How much time things are given.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Milliseconds that a call waits for what probably never comes.
    idle: u16,
    /// Rest after each call, for what packets do.
    rest: Duration,
}

impl Pace {
    pub const QUICK: Pace = Pace { idle: 3, rest: Duration::ZERO };
    pub const SLOW: Pace = Pace { idle: 40, rest: Duration::from_millis(2) };
}

impl World {
    /// One process in each namespace.
    pub fn new(name: &'static str, places: [&Ns; 4]) -> World {
        let owner = |ns: &Ns| places.iter().position(|other| other.pid() == ns.pid()).expect("it is among them") as u8;
        let owners = places.map(owner);
        World { name, owners, runners: places.iter().map(|ns| Runner::start(ns, ROOM)).collect() }
    }

    /// Runs a program with these ports. `like`: what a call is expected to come to, and so whether to wait for it.
    pub fn run(&self, program: &Program, ports: [u16; PORTS], pace: Pace, like: Option<&[Outcome]>) -> Vec<Outcome> {
        let mut run = Run { ports, has: BTreeMap::new() };
        let mut outcomes = Vec::with_capacity(program.steps.len());
        for (n, step) in program.steps.iter().enumerate() {
            let comes = like.and_then(|like| like.get(n)).is_some_and(|outcome| outcome.errno == 0);
            let wait = if comes { PATIENCE } else { pace.idle };
            let order = run.order(step.process, step.socket, step.call, wait);
            let answer = self.runners[usize::from(step.process)].call(order);
            if answer.errno == 0 {
                run.remember(step.process, step.socket, step.call, &answer);
            }
            outcomes.push(run.outcome(&answer));
            std::thread::sleep(pace.rest);
        }
        for runner in &self.runners[..usize::from(program.processes)] {
            runner.call(Order::Reset);
        }
        outcomes
    }
}

/// What a run has come to so far.
struct Run {
    ports: [u16; PORTS],
    /// The port that a socket of a process has.
    has: BTreeMap<(u8, u8), u16>,
}

impl Run {
    fn order(&self, process: u8, socket: u8, call: Call, wait: u16) -> Order {
        let at = u16::from(socket);
        match call {
            Call::Open { stream, v6 } => Order::Open { at, stream, v6 },
            Call::Set { flag, on } => {
                let (level, option) = match flag {
                    Flag::ReuseAddress => (libc::SOL_SOCKET, libc::SO_REUSEADDR),
                    Flag::ReusePort => (libc::SOL_SOCKET, libc::SO_REUSEPORT),
                    Flag::V6Only => (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
                };
                Order::Set { at, level, option, value: on.into() }
            }
            Call::Bind { to } => Order::Bind { at, to: self.address(to) },
            Call::Listen => Order::Listen { at, queue: QUEUE },
            Call::Connect { to } => Order::Connect { at, to: self.address(to) },
            Call::Disconnect => Order::Disconnect { at },
            Call::Accept { into } => Order::Accept { at, into: into.into(), wait },
            // who sent it is seen from it
            Call::Send => Order::Send { at, byte: (process << 4) | socket, count: 1 + at },
            Call::Receive => Order::Receive { at, wait },
            Call::Shutdown { how } => Order::Shutdown { at, how },
            Call::Close => Order::Close { at },
            Call::Name => Order::Name { at },
        }
    }

    fn address(&self, place: Place) -> SocketAddr {
        let port = match place.port {
            Port::Any => 0,
            Port::Known(n) => self.ports[usize::from(n)],
            // a socket that has none: one that nobody has
            Port::Of { process, socket } => self.has.get(&(process, socket)).copied().unwrap_or(self.ports[PORTS - 1]),
        };
        SocketAddr::new(place.ip, port)
    }

    fn remember(&mut self, process: u8, socket: u8, call: Call, answer: &Answer) {
        let at = if let Call::Accept { into } = call { into } else { socket };
        match (call, answer.local) {
            (Call::Open { .. }, _) => {
                self.has.remove(&(process, at));
            }
            (_, Some(local)) if local.port() != 0 => {
                self.has.insert((process, at), local.port());
            }
            _ => {}
        }
    }

    fn outcome(&self, answer: &Answer) -> Outcome {
        let number = |port: u16| match self.ports.iter().position(|known| *known == port) {
            _ if port == 0 => Number::Zero,
            Some(n) => Number::Known(n as u8),
            None => Number::Chosen,
        };
        let shown = |address: SocketAddr| (address.ip(), number(address.port()));
        Outcome {
            errno: answer.errno,
            local: answer.local.map(shown),
            peer: answer.peer.map(shown),
            bytes: (answer.count, answer.byte),
        }
    }
}
