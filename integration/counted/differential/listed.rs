//! The differences from host networking that are meant, each with the reason why.
//!
//! A difference is recognised by what the sockets of the program hold at that call, as the plain host answered so far. Whatever
//! is not recognised is a failure.

use super::program::{Call, Flag, Number, Outcome, Port, Program};
use std::net::IpAddr;

/// A call that comes to something else than on a plain host.
pub struct Difference<'a> {
    pub program: &'a Program,
    /// Of each process: a number that processes in the same namespace share.
    pub owners: [u8; 4],
    /// The step that differs; all before it came to the same.
    pub at: usize,
    pub plain: &'a [Outcome],
    pub ours: Outcome,
}

/// A difference that is meant: its name, why, and how it is recognised.
pub type Rule = (&'static str, fn(&Seen) -> bool);

/// The one that not every twenty thousand programs come to.
pub const SELDOM: &str =
    "who closed first leaves a mini-socket, and nobody is told of its end: the port rests as after TIME_WAIT";

/// Another one.
pub const RARE: &str = "SO_REUSEADDR counts as it was at bind(): nobody is told who changes it afterwards";

pub const RULES: [Rule; 10] = [
    ("a claim takes the port at every address, and for both families", |seen| seen.refused_beside(Holder::is_apart)),
    (
        "across owners a port that nobody listens on is not shared by SO_REUSEADDR: listen() could not be refused",
        |seen| {
            seen.refused_beside(|other, new| {
                other.stream && !other.listening && other.reuse_address && new.reuse_address
            })
        },
    ),
    ("across owners SO_REUSEPORT is refused: one of two containers would hear what is meant for the other", |seen| {
        seen.refused_beside(|other, new| other.reuse_port && new.reuse_port)
    }),
    (RARE, |seen| seen.judged_by_reuse_when_bound()),
    (SELDOM, |seen| {
        let was = |other: &Holder| other.connected || other.met_itself;
        seen.refused_beside(|other, _| other.stream && was(other) && (!other.open || other.shut) && !other.saw_end)
    }),
    ("across owners datagram sockets that share a port are not counted, as those on 5353 and 1900", |seen| {
        seen.shares_datagrams()
    }),
    ("a container's loopback is its own: somebody else's port is no conflict there", |seen| seen.binds_own_loopback()),
    ("a container's loopback is its own: who is bound to it is reached from there alone", |seen| {
        seen.asks_own_loopback()
    }),
    (
        "between owners nothing goes from a loopback address to the host's, or back: a source could be made up; and from ::1 to an \
         address of one's own device a plain host does not answer itself, where a container does",
        |seen| seen.crosses_loopback() || seen.answers_own_loopback(),
    ),
    (
        "a container's loopback is its own: a port that is bound there claims nothing, and is heard there alone",
        |seen| seen.asks_from_own_loopback(),
    ),
];

/// A socket that has one of the program's ports, or a chosen one.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    process: u8,
    socket: u8,
    stream: bool,
    v6_only: bool,
    reuse_address: bool,
    /// As it was at bind().
    reuse_when_bound: bool,
    reuse_port: bool,
    listening: bool,
    connected: bool,
    /// It connected to its own port, and was both ends until that failed.
    met_itself: bool,
    /// It read that its peer had closed.
    saw_end: bool,
    /// It said that it sends no more.
    shut: bool,
    open: bool,
    at: Option<(IpAddr, Number)>,
    /// What it was connected to.
    to: Option<IpAddr>,
    asked: Option<Number>,
}

/// A difference, and the sockets that there are then.
pub struct Seen<'a> {
    difference: &'a Difference<'a>,
    sockets: Vec<Holder>,
}

/// Does Linux leave to chance what comes of the call? Of sockets of one process that share a port by SO_REUSEPORT a hash of numbers
/// that it chooses decides who gets what.
pub fn is_left_to_chance(difference: &Difference) -> bool {
    let call = difference.program.steps[difference.at].call;
    if !matches!(call, Call::Accept { .. } | Call::Receive | Call::Send | Call::Shutdown { .. }) {
        return false;
    }
    let seen = Seen::of(difference);
    let waits = |s: &&Holder| s.open && s.reuse_port && !s.connected && (s.listening || !s.stream);
    let waiting: Vec<&Holder> = seen.sockets.iter().filter(waits).collect();
    let together = |one: &Holder, other: &Holder| {
        let port = |s: &Holder| s.at.map(|(_, number)| number);
        one.stream == other.stream
            && port(one).is_some()
            && port(one) == port(other)
            && difference.owners[usize::from(one.process)] == difference.owners[usize::from(other.process)]
    };
    waiting.iter().enumerate().any(|(n, one)| waiting[..n].iter().any(|other| together(one, other)))
}

/// The rule that a difference falls under.
pub fn listed(difference: &Difference) -> Option<usize> {
    let seen = Seen::of(difference);
    RULES.iter().position(|(_, is)| is(&seen))
}

impl Holder {
    /// Whether the addresses of two sockets have nothing in common.
    fn is_apart(&self, new: &Holder) -> bool {
        let (Some((one, _)), Some((other, _))) = (self.at, new.at) else { return false };
        let (one, other) = (self.covers(one), new.covers(other));
        !one.iter().any(|a| other.iter().any(|b| a.0 == b.0 && (a.1.is_none() || b.1.is_none() || a.1 == b.1)))
    }

    /// Families, each with the one address or all.
    fn covers(&self, ip: IpAddr) -> Vec<(bool, Option<IpAddr>)> {
        let ip = ip.to_canonical();
        match (ip.is_unspecified(), ip.is_ipv4()) {
            (true, true) => vec![(false, None)],
            (true, false) if self.v6_only => vec![(true, None)],
            (true, false) => vec![(false, None), (true, None)],
            (false, v4) => vec![(!v4, Some(ip))],
        }
    }

    fn is_on_loopback(&self) -> bool {
        self.at.is_some_and(|(ip, _)| ip.to_canonical().is_loopback())
    }

    /// Would what it sends to an address go from a loopback address to one that is none, or back?
    fn crosses(&self, to: IpAddr) -> bool {
        let bound = self.at.map(|(ip, _)| ip.to_canonical()).filter(|ip| !ip.is_unspecified());
        bound.is_some_and(|ip| ip.is_loopback() != to.to_canonical().is_loopback())
    }
}

impl<'a> Seen<'a> {
    fn of(difference: &'a Difference<'a>) -> Seen<'a> {
        let mut seen = Seen { difference, sockets: Vec::new() };
        for n in 0..difference.at {
            seen.replay(n);
        }
        seen
    }

    fn replay(&mut self, n: usize) {
        let (step, outcome) = (self.difference.program.steps[n], self.difference.plain[n]);
        let asked = match step.call {
            Call::Connect { to } => self.asked(to.port),
            _ => None,
        };
        if outcome.errno != 0 {
            return self.fails(n, asked);
        }
        if let Call::Open { stream, .. } = step.call {
            self.sockets.iter_mut().filter(|s| s.process == step.process && s.socket == step.socket).for_each(|s| {
                s.open = false;
            });
            return self.sockets.push(Holder {
                process: step.process,
                socket: step.socket,
                stream,
                v6_only: false,
                reuse_address: false,
                reuse_when_bound: false,
                reuse_port: false,
                listening: false,
                connected: false,
                met_itself: false,
                saw_end: false,
                shut: false,
                open: true,
                at: None,
                to: None,
                asked: None,
            });
        }
        let Some(at) = self.position(step.process, step.socket) else { return };
        let socket = &mut self.sockets[at];
        match step.call {
            Call::Set { flag: Flag::ReuseAddress, on } => socket.reuse_address = on,
            Call::Set { flag: Flag::ReusePort, on } => socket.reuse_port = on,
            Call::Set { flag: Flag::V6Only, on } => socket.v6_only = on,
            Call::Bind { .. } => socket.reuse_when_bound = socket.reuse_address,
            Call::Listen => socket.listening = true,
            Call::Connect { to } => {
                (socket.connected, socket.to, socket.asked) = (true, Some(to.ip), asked);
            }
            Call::Disconnect => (socket.connected, socket.listening) = (false, false),
            Call::Receive if socket.stream && outcome.bytes.0 == 0 => socket.saw_end = true,
            Call::Shutdown { how } => {
                socket.listening &= how == libc::SHUT_WR;
                socket.shut |= how != libc::SHUT_RD;
            }
            Call::Close => (socket.open, socket.listening) = (false, false),
            Call::Accept { into } => {
                let child = Holder { socket: into, listening: false, connected: true, at: outcome.local, ..*socket };
                return self.sockets.push(child);
            }
            _ => {}
        }
        if let Some(local) = outcome.local {
            socket.at = Some(local).filter(|(_, number)| *number != Number::Zero);
        }
    }

    /// The number that a port of the program stands for.
    fn asked(&self, port: Port) -> Option<Number> {
        match port {
            Port::Any => None,
            Port::Known(n) => Some(Number::Known(n)),
            Port::Of { process, socket } => self.sockets[self.position(process, socket)?].at.map(|(_, number)| number),
        }
    }

    /// A connection that fails leaves a trace where bind() named IPv4's unspecified address in the form of IPv6: such a socket
    /// counts as bound to an address (inet6_bind, net/ipv6/af_inet6.c), and keeps the one that it got for the connection.
    fn fails(&mut self, n: usize, asked: Option<Number>) {
        let step = self.difference.program.steps[n];
        let (Call::Connect { to }, Some(at)) = (step.call, self.position(step.process, step.socket)) else { return };
        let socket = &mut self.sockets[at];
        socket.met_itself |= socket.at.is_some_and(|(_, own)| asked == Some(own));
        // without a look at what it is bound to, as IPv4 does; IPv6 takes the address for chosen
        if !to.ip.to_canonical().is_ipv4() {
            return;
        }
        let is_any = |ip: IpAddr| ip.is_ipv6() && ip.to_canonical().is_ipv4() && ip.to_canonical().is_unspecified();
        if let Some((ip, _)) = self.sockets[at].at.as_mut()
            && is_any(*ip)
        {
            *ip = to.ip;
        }
    }

    fn position(&self, process: u8, socket: u8) -> Option<usize> {
        self.sockets.iter().rposition(|s| s.open && s.process == process && s.socket == socket)
    }

    /// The socket that the call is made on, with the address that the plain host gave it, or that it asked for.
    fn caller(&self) -> Option<Holder> {
        let Difference { program, at, plain, ours, .. } = self.difference;
        let step = program.steps[*at];
        let socket = self.sockets[self.position(step.process, step.socket)?];
        let Call::Bind { to } = step.call else { return Some(socket) };
        let asked = match to.port {
            Port::Known(n) => Some((to.ip, Number::Known(n))),
            _ => None,
        };
        Some(Holder { at: plain[*at].local.or(ours.local).or(asked), ..socket })
    }

    /// Sockets of other owners that have the caller's port, or had it.
    fn others(&self, caller: &Holder) -> impl Iterator<Item = &Holder> {
        let (owners, caller) = (self.difference.owners, *caller);
        let port = caller.at.map(|(_, number)| number);
        self.sockets.iter().filter(move |other| {
            owners[usize::from(other.process)] != owners[usize::from(caller.process)]
                && other.stream == caller.stream
                && matches!(port, Some(Number::Known(_)))
                && other.at.map(|(_, number)| number) == port
        })
    }

    /// Is it a bind that only we refuse, beside a socket of somebody else with which it is as `is` says?
    fn refused_beside(&self, is: impl Fn(&Holder, &Holder) -> bool) -> bool {
        let Difference { program, at, plain, ours, .. } = self.difference;
        let bind = matches!(program.steps[*at].call, Call::Bind { .. });
        let refused = plain[*at].errno == 0 && ours.errno == libc::EADDRINUSE;
        bind && refused && self.caller().is_some_and(|new| self.others(&new).any(|other| is(other, &new)))
    }

    /// Is it a bind beside a socket of somebody else who changed SO_REUSEADDR after his own?
    fn judged_by_reuse_when_bound(&self) -> bool {
        let Difference { program, at, plain, ours, .. } = self.difference;
        let judged = [plain[*at].errno, ours.errno].contains(&libc::EADDRINUSE);
        let changed = |other: &Holder| other.stream && other.reuse_when_bound != other.reuse_address;
        let beside = |new: Holder| new.reuse_address && self.others(&new).any(changed);
        matches!(program.steps[*at].call, Call::Bind { .. }) && judged && self.caller().is_some_and(beside)
    }

    /// Does it concern a port that datagram sockets of several owners share, ask one, or wait for what comes from one?
    fn shares_datagrams(&self) -> bool {
        let Some(caller) = self.caller().filter(|caller| !caller.stream) else { return false };
        let shares = |socket: &Holder| socket.reuse_address || socket.reuse_port;
        let shared = |socket: &Holder| self.others(socket).any(|other| shares(other) || shares(socket));
        let Difference { program, at, .. } = self.difference;
        let mut senders = self.sockets.iter().filter(|sender| !sender.stream && sender.to.is_some());
        let is_asked = |socket: &Holder| !socket.stream && socket.at.map(|(_, number)| number) == caller.asked;
        let asks = caller.connected && self.sockets.iter().any(|socket| is_asked(socket) && shared(socket));
        match program.steps[*at].call {
            Call::Send => shared(&caller) || asks,
            Call::Receive => shared(&caller) || asks || senders.any(shared),
            _ => shared(&caller),
        }
    }

    /// Is it a bind to the loopback of a container that a plain host refuses, for somebody else's socket?
    fn binds_own_loopback(&self) -> bool {
        let Difference { program, at, plain, ours, .. } = self.difference;
        let bind = matches!(program.steps[*at].call, Call::Bind { .. } | Call::Listen);
        let refused = plain[*at].errno == libc::EADDRINUSE && ours.errno == 0;
        let apart = |new: &Holder| {
            new.is_on_loopback() && self.others(new).next().is_some()
                || self.others(new).any(|other| other.is_on_loopback())
        };
        bind && refused && self.caller().is_some_and(|new| apart(&new))
    }

    /// Does somebody ask for a socket that is bound to the loopback of another container, or wait there for somebody else?
    fn asks_own_loopback(&self) -> bool {
        let Difference { program, at, owners, ours, .. } = self.difference;
        let step = program.steps[*at];
        let elsewhere = |process: u8| owners[usize::from(process)] != owners[usize::from(step.process)];
        let there = |socket: &Holder| socket.is_on_loopback() && !socket.connected && elsewhere(socket.process);
        let asks = |socket: &Holder| socket.is_on_loopback() && socket.connected && elsewhere(socket.process);
        match step.call {
            Call::Connect { to } => to.ip.to_canonical().is_loopback() && self.sockets.iter().any(there),
            Call::Send => self.sockets.iter().any(there),
            Call::Receive | Call::Accept { .. } => {
                // that nobody is there is told to whoever waits for an answer
                let told = |caller: &Holder| {
                    let asked = caller.to.is_some_and(|to| to.to_canonical().is_loopback());
                    asked && ours.errno == libc::ECONNREFUSED && self.sockets.iter().any(there)
                };
                let waits = |caller: &Holder| caller.is_on_loopback() && self.sockets.iter().any(asks);
                self.caller().is_some_and(|caller| waits(&caller) || told(&caller))
            }
            _ => false,
        }
    }
    /// Does somebody who is bound to one side of a loopback ask the other one, where it is somebody else's or nobody's?
    fn crosses_loopback(&self) -> bool {
        self.is_unheard(Holder::crosses)
    }

    /// Is a connection from ::1 to the host's IPv6 address answered here alone?
    fn answers_own_loopback(&self) -> bool {
        let Difference { program, at, plain, ours, .. } = self.difference;
        let Call::Connect { to } = program.steps[*at].call else { return false };
        let crosses = self.caller().is_some_and(|caller| caller.stream && to.ip.is_ipv6() && caller.crosses(to.ip));
        crosses && plain[*at].errno == libc::EINPROGRESS && [0, libc::ECONNREFUSED].contains(&ours.errno)
    }

    /// Does somebody who is bound to the loopback of a container, at a port that it has nowhere else, ask others?
    fn asks_from_own_loopback(&self) -> bool {
        let claims_nothing =
            |socket: &Holder| matches!(socket.at, Some((_, Number::Known(_)))) && socket.is_on_loopback();
        self.is_unheard(|socket, _| claims_nothing(socket))
    }

    /// Is a connection, or a datagram, not answered that goes from a socket to an address as `is` says?
    fn is_unheard(&self, is: impl Fn(&Holder, IpAddr) -> bool) -> bool {
        let Difference { program, at, plain, ours, .. } = self.difference;
        let answered = [0, libc::ECONNREFUSED].contains(&plain[*at].errno);
        match program.steps[*at].call {
            Call::Connect { to } => {
                let asks = self.caller().is_some_and(|caller| caller.stream && is(&caller, to.ip));
                asks && answered && ours.errno == libc::EINPROGRESS
            }
            Call::Send | Call::Receive => {
                let datagrams = self.caller().is_some_and(|caller| !caller.stream);
                let asked = |socket: &Holder| !socket.stream && socket.to.is_some_and(|to| is(socket, to));
                datagrams && self.sockets.iter().any(asked)
            }
            _ => false,
        }
    }
}
