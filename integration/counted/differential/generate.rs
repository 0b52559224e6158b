//! Random programs: mostly servers, clients and processes that contend for a port, with any other call in between.

use super::program::{Call, Flag, PORTS, Place, Port, Program, Step};
use crate::lab::{HOST4, HOST6, LO4, LO6};
use crate::model::ops::Random;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Sockets of one process.
const SOCKETS: u8 = 12;
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const MAPPED_ANY: IpAddr = IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
const MAPPED_HOST: IpAddr = IpAddr::V6(Ipv4Addr::new(10, 77, 0, 2).to_ipv6_mapped());
const MAPPED_LO: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());

/// Makes programs from a seed.
pub struct Generator {
    seed: u64,
}

/// What a socket is expected to be when its turn comes. Calls may fail, so it may be something else.
#[derive(Clone, Copy)]
struct Guess {
    process: u8,
    socket: u8,
    stream: bool,
    v6: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Bound,
    Listening,
    Connected,
}

/// A program that is being written.
struct Draft<'a> {
    random: &'a mut Random,
    program: Program,
    sockets: Vec<Guess>,
    made: [u8; 4],
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator { seed }
    }

    /// The next program, and the seed that makes it the first one.
    pub fn program(&mut self) -> (u64, Program) {
        let own = self.seed;
        self.seed = Random::new(own).next();
        let mut random = Random::new(own);
        let processes = 2 + random.below(3) as u8;
        let program = Program { processes, steps: Vec::new() };
        let mut draft = Draft { random: &mut random, program, sockets: Vec::new(), made: [0; 4] };
        let length = 6 + draft.random.below(24) as usize;
        while draft.program.steps.len() < length {
            draft.grow();
        }
        (own, draft.program)
    }
}

impl Draft<'_> {
    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn process(&mut self) -> u8 {
        self.random.below(self.program.processes.into()) as u8
    }

    fn put(&mut self, of: Guess, call: Call) {
        self.program.steps.push(Step { process: of.process, socket: of.socket, call });
    }

    /// A new socket of a process; `None` when it has enough.
    fn open(&mut self, process: u8, stream: bool, v6: bool) -> Option<Guess> {
        let socket = self.number(process)?;
        let guess = Guess { process, socket, stream, v6, state: State::Fresh };
        self.sockets.push(guess);
        self.put(guess, Call::Open { stream, v6 });
        Some(guess)
    }

    fn number(&mut self, process: u8) -> Option<u8> {
        let made = &mut self.made[usize::from(process)];
        if *made == SOCKETS {
            return None;
        }
        *made += 1;
        Some(*made - 1)
    }

    fn becomes(&mut self, of: Guess, state: State) {
        let same = |guess: &&mut Guess| guess.process == of.process && guess.socket == of.socket;
        if let Some(guess) = self.sockets.iter_mut().find(same) {
            guess.state = state;
        }
    }

    fn some(&mut self, state: State, stream: bool) -> Option<Guess> {
        let fit: Vec<Guess> = self.sockets.iter().copied().filter(|s| s.state == state && s.stream == stream).collect();
        if fit.is_empty() { None } else { Some(self.random.pick(&fit)) }
    }

    fn port(&mut self) -> Port {
        let weighted = [0, 0, 0, 0, 1, 1, 2];
        const { assert!(PORTS == 3) };
        Port::Known(self.random.pick(&weighted))
    }

    /// An address to bind to.
    fn own(&mut self, v6: bool) -> IpAddr {
        match (self.random.below(100), v6) {
            (0..82, false) => ANY4,
            (82..96, false) => HOST4,
            (_, false) => LO4,
            (0..78, true) => ANY6,
            (78..88, true) => HOST6,
            (88..92, true) => MAPPED_ANY,
            (92..97, true) => MAPPED_HOST,
            (_, true) => LO6,
        }
    }

    /// An address that leads to the host.
    fn target(&mut self, v6: bool) -> IpAddr {
        if v6 {
            self.random.pick(&[HOST6, HOST6, LO6, MAPPED_HOST, MAPPED_LO])
        } else {
            self.random.pick(&[HOST4, LO4])
        }
    }

    fn flags(&mut self, of: Guess) {
        if self.chance(35) {
            self.put(of, Call::Set { flag: Flag::ReuseAddress, on: true });
        }
        if self.chance(6) {
            self.put(of, Call::Set { flag: Flag::ReusePort, on: true });
        }
        if of.v6 && self.chance(20) {
            self.put(of, Call::Set { flag: Flag::V6Only, on: true });
        }
    }

    fn grow(&mut self) {
        let stream = self.chance(70);
        let process = self.process();
        match self.random.below(10) {
            0..3 => self.server(process, stream),
            3..6 if self.sockets.iter().any(|s| s.state == State::Listening || !s.stream) => {
                self.client(process, stream)
            }
            _ if self.sockets.is_empty() => self.server(process, stream),
            _ => self.any_call(),
        }
    }

    /// A socket that somebody may reach.
    fn server(&mut self, process: u8, stream: bool) {
        let v6 = self.chance(40);
        let Some(socket) = self.open(process, stream, v6) else { return };
        self.flags(socket);
        self.bind(socket);
        if stream && self.chance(85) {
            self.put(socket, Call::Listen);
            self.becomes(socket, State::Listening);
        }
    }

    fn bind(&mut self, socket: Guess) {
        let ip = self.own(socket.v6);
        let mine: Vec<Guess> = self.sockets.iter().copied().filter(|s| s.process == socket.process).collect();
        let port = match self.random.below(20) {
            0..2 => Port::Any,
            // what the kernel chose for another one of the same process
            2 => {
                let of = self.random.pick(&mine);
                Port::Of { process: of.process, socket: of.socket }
            }
            _ => self.port(),
        };
        self.put(socket, Call::Bind { to: Place { ip, port } });
        self.becomes(socket, State::Bound);
    }

    /// A socket that is connected to a server, which hears of it.
    fn client(&mut self, process: u8, stream: bool) {
        let server = self.some(if stream { State::Listening } else { State::Bound }, stream);
        let v6 = self.chance(if server.is_some_and(|s| s.v6) { 60 } else { 10 });
        let Some(client) = self.open(process, stream, v6) else { return };
        if self.chance(12) {
            self.flags(client);
            self.bind(client);
        }
        self.connect(client, server);
        let Some(server) = server.filter(|_| self.chance(80)) else { return };
        if !stream {
            self.put(client, Call::Send);
            self.put(server, Call::Receive);
        } else if let Some(into) = self.number(server.process) {
            self.put(server, Call::Accept { into });
            self.sockets.push(Guess { socket: into, state: State::Connected, ..server });
        }
    }

    fn connect(&mut self, client: Guess, server: Option<Guess>) {
        let ip = self.target(client.v6);
        let port = match server {
            Some(of) if self.chance(70) => Port::Of { process: of.process, socket: of.socket },
            _ => self.port(),
        };
        self.put(client, Call::Connect { to: Place { ip, port } });
        self.becomes(client, State::Connected);
    }

    /// Any call on any socket, those first that make sense.
    fn any_call(&mut self) {
        let at = self.random.below(self.sockets.len() as u64) as usize;
        let of = self.sockets[at];
        let draw = self.random.below(100);
        match (of.state, draw) {
            (_, 0..2) => self.put(of, Call::Disconnect),
            (_, 2..7) => self.put(of, Call::Name),
            (_, 7..10) => {
                let flag = self.random.pick(&[Flag::ReuseAddress, Flag::ReusePort, Flag::V6Only]);
                let on = self.chance(50);
                self.put(of, Call::Set { flag, on });
            }
            (_, 10..12) => self.put(of, Call::Listen),
            (_, 12..14) => self.bind(of),
            (_, 14..28) => {
                self.put(of, Call::Close);
                // most of those that are closed are left alone
                if self.chance(90) {
                    self.sockets.swap_remove(at);
                }
            }
            (State::Fresh, 28..70) => self.bind(of),
            (State::Fresh | State::Bound, 70..80) => self.connect(of, None),
            (State::Bound, 28..60) if of.stream => {
                self.put(of, Call::Listen);
                self.becomes(of, State::Listening);
            }
            (State::Listening, 28..75) => {
                if let Some(into) = self.number(of.process) {
                    self.put(of, Call::Accept { into });
                    self.sockets.push(Guess { socket: into, state: State::Connected, ..of });
                }
            }
            (_, 28..50) => self.put(of, Call::Send),
            (_, 50..75) => self.put(of, Call::Receive),
            (_, _) => {
                let how = self.random.pick(&[libc::SHUT_RD, libc::SHUT_WR, libc::SHUT_RDWR]);
                self.put(of, Call::Shutdown { how });
            }
        }
    }
}
