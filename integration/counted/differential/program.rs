//! Programs of socket calls, as values: who makes which call on which socket.

use nix::errno::Errno;
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

/// Ports that a program knows by number. They are few, so that calls collide.
pub const PORTS: usize = 3;

/// Calls of several processes, in the order in which they are made.
#[derive(Clone)]
pub struct Program {
    pub processes: u8,
    pub steps: Vec<Step>,
}

/// One call of a process on one of its sockets.
#[derive(Clone, Copy)]
pub struct Step {
    pub process: u8,
    pub socket: u8,
    pub call: Call,
}

#[derive(Clone, Copy)]
pub enum Call {
    Open { stream: bool, v6: bool },
    Set { flag: Flag, on: bool },
    Bind { to: Place },
    Listen,
    Connect { to: Place },
    Disconnect,
    Accept { into: u8 },
    Send,
    Receive,
    Shutdown { how: i32 },
    Close,
    Name,
}

/// A socket option that decides who may have a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    ReuseAddress,
    ReusePort,
    V6Only,
}

/// Where a socket is bound to or connected to.
#[derive(Clone, Copy)]
pub struct Place {
    pub ip: IpAddr,
    pub port: Port,
}

#[derive(Clone, Copy)]
pub enum Port {
    /// 0: the kernel chooses.
    Any,
    /// One of the program's ports.
    Known(u8),
    /// The port that a socket has.
    Of { process: u8, socket: u8 },
}

/// A port number in an answer, without what differs from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Zero,
    Known(u8),
    /// Some port that the kernel chose.
    Chosen,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// 0 where the call succeeded.
    pub errno: i32,
    pub local: Option<(IpAddr, Number)>,
    pub peer: Option<(IpAddr, Number)>,
    /// Bytes sent or received, and the first of those received.
    pub bytes: (u16, u8),
}

impl Display for Program {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        self.steps.iter().enumerate().try_for_each(|(n, step)| writeln!(f, "{n:3}  {step}"))
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "process {} socket {}: {}", self.process, self.socket, self.call)
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match *self {
            Call::Open { stream, v6 } => {
                write!(f, "socket({}{})", if stream { "TCP" } else { "UDP" }, if v6 { "6" } else { "4" })
            }
            Call::Set { flag, on } => write!(f, "setsockopt({flag:?}, {})", u8::from(on)),
            Call::Bind { to } => write!(f, "bind({to})"),
            Call::Listen => f.write_str("listen()"),
            Call::Connect { to } => write!(f, "connect({to})"),
            Call::Disconnect => f.write_str("connect(AF_UNSPEC)"),
            Call::Accept { into } => write!(f, "accept() as socket {into}"),
            Call::Send => f.write_str("send()"),
            Call::Receive => f.write_str("recv()"),
            Call::Shutdown { how } => write!(f, "shutdown({})", ["SHUT_RD", "SHUT_WR", "SHUT_RDWR"][how as usize]),
            Call::Close => f.write_str("close()"),
            Call::Name => f.write_str("getsockname()"),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self.port {
            Port::Any => write!(f, "{}, port 0", self.ip),
            Port::Known(n) => write!(f, "{}, port {}", self.ip, (b'P' + n) as char),
            Port::Of { process, socket } => write!(f, "{}, port of process {process} socket {socket}", self.ip),
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        if self.errno != 0 {
            return write!(f, "{:?}", Errno::from_raw(self.errno));
        }
        f.write_str("ok")?;
        for (name, address) in [("local", self.local), ("peer", self.peer)] {
            if let Some((ip, number)) = address {
                write!(f, ", {name} {ip} {number:?}")?;
            }
        }
        if self.bytes != (0, 0) { write!(f, ", {} bytes {:#x}", self.bytes.0, self.bytes.1) } else { Ok(()) }
    }
}
