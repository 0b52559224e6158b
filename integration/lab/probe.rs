//! Bounded socket probes: echo servers that say whom they saw, and clients that say what came of it.

use super::ns::Ns;
use super::sock;
use super::wait::eventually;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a probe waits unless told.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// "At once", for a refusal, on a loaded machine.
pub const AT_ONCE: Duration = Duration::from_millis(300);

/// A transport a probe can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// A connection.
    Tcp,
    /// Datagrams over a connected socket, so that a port unreachable is seen as a refusal.
    Udp,
    /// UDP-Lite, where the kernel has it.
    UdpLite,
    /// SCTP in its one-to-one style, where the kernel has it.
    Sctp,
}

impl Proto {
    /// Whether it has connections.
    pub fn connects(self) -> bool {
        matches!(self, Proto::Tcp | Proto::Sctp)
    }

    /// Whether this kernel has it, for a family.
    pub fn available(self, of: IpAddr) -> bool {
        open(self, of).is_ok()
    }
}

/// Both transports, for tables.
pub const BOTH: [Proto; 2] = [Proto::Tcp, Proto::Udp];

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The echo came back.
    Ok {
        /// The client's own address, as its socket says.
        local: SocketAddr,
        /// The server's address, as the client's socket says.
        peer: SocketAddr,
        /// The client's address, as the server saw it.
        peer_seen: SocketAddr,
        /// The address the server was reached at, as its socket says (TCP), or its bound port.
        reached: SocketAddr,
    },
    /// Connection refused: a reset or a port unreachable.
    Refused,
    /// No answer within the limit.
    Timeout,
    /// Another unreachable, or no route.
    Unreachable,
    /// Anything else.
    Other(String),
}

impl Tried {
    /// Whether the echo came back.
    pub fn is_ok(&self) -> bool {
        matches!(self, Tried::Ok { .. })
    }
}

impl From<io::Error> for Tried {
    fn from(e: io::Error) -> Tried {
        match e.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ECONNRESET) => Tried::Refused,
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPERM | libc::EACCES) => Tried::Unreachable,
            Some(libc::EAGAIN | libc::ETIMEDOUT | libc::EINPROGRESS) => Tried::Timeout,
            _ => Tried::Other(e.to_string()),
        }
    }
}

/// A socket of the calling thread's namespace.
pub fn open(proto: Proto, of: IpAddr) -> io::Result<OwnedFd> {
    let kind = if proto.connects() { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
    let number = match proto {
        Proto::Tcp | Proto::Udp => 0,
        Proto::UdpLite => libc::IPPROTO_UDPLITE,
        Proto::Sctp => libc::IPPROTO_SCTP,
    };
    let fd = sock::socket(sock::family(of), kind, number)?;
    if of.is_ipv6() {
        sock::set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1i32)?;
    }
    Ok(fd)
}

/// Any address of a family.
pub fn any(of: IpAddr) -> IpAddr {
    if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// An echo server in a namespace. Every answer starts with the client's address as the server saw it.
pub struct Echo {
    /// Where it listens.
    pub at: SocketAddr,
    proto: Proto,
    served: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    socket: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts one on `at`; port 0 takes what the kernel gives.
    #[track_caller]
    pub fn start(ns: &Ns, proto: Proto, at: SocketAddr) -> Echo {
        Echo::try_start(ns, proto, at).unwrap_or_else(|e| panic!("in {}: cannot serve {proto:?} on {at}: {e}", ns.name))
    }

    /// The same, when the bind itself is the question.
    pub fn try_start(ns: &Ns, proto: Proto, at: SocketAddr) -> io::Result<Echo> {
        let fd = ns.inside(|| -> io::Result<OwnedFd> {
            let fd = open(proto, at.ip())?;
            sock::reuse(&fd)?;
            sock::bind(&fd, at)?;
            if proto.connects() {
                sock::listen(&fd)?
            } else {
                sock::limit(&fd, Duration::from_millis(50))
            }
            Ok(fd)
        })?;
        let (at, socket) = (sock::local(&fd)?, Arc::new(fd));
        let (served, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (fd, s, n) = (socket.clone(), stop.clone(), served.clone());
        let serve = if proto.connects() { serve_connections } else { serve_datagrams };
        let thread = std::thread::spawn(move || serve(&fd, &s, &n));
        Ok(Echo { at, proto, served, stop, socket, thread: Some(thread) })
    }

    /// How many connections or datagrams reached it.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        sock::shut(&self.socket);
        if !self.proto.connects() {
            // A child that another test forks holds a copy until it executes its program: a datagram socket with a
            // peer, itself, takes nothing from others meanwhile.
            let _ = sock::connect(&self.socket, self.at);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A process that holds a TCP port in a namespace, and that nobody who makes containers descends from: an engine may hold
/// the ports of a container itself meanwhile, and our plugins take a socket of whoever called them for that.
pub struct Stranger(Child);

impl Stranger {
    /// Starts it, and waits until it listens.
    pub fn at(ns: &Ns, port: u16) -> Stranger {
        let mut command = ns.command("busybox");
        command.args(["nc", "-l", "-p", &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::null());
        let stranger = Stranger(command.spawn().expect("nc"));
        let listens = || ns.read("cat /proc/self/net/tcp /proc/self/net/tcp6").contains(&format!(":{port:04X} "));
        assert!(eventually(listens), "nc does not listen on {port}");
        stranger
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve_connections(fd: &OwnedFd, stop: &AtomicBool, served: &AtomicU64) {
    while let Ok((connection, seen)) = sock::accept(fd) {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        served.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            sock::limit(&connection, Duration::from_secs(5));
            let Ok(here) = sock::local(&connection) else { return };
            let mut answer = sock::send_all(&connection, format!("{seen} {here}\n").as_bytes());
            let mut buffer = vec![0; 65536];
            while let (Ok(()), Ok(n @ 1..)) = (&answer, sock::recv(&connection, &mut buffer)) {
                answer = sock::send_all(&connection, &buffer[..n]);
            }
        });
    }
}

fn serve_datagrams(fd: &OwnedFd, stop: &AtomicBool, served: &AtomicU64) {
    let here = sock::local(fd).expect("local address");
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::SeqCst) {
        let Ok((n @ 1.., from)) = sock::recv_from(fd, &mut buffer) else { continue };
        served.fetch_add(1, Ordering::SeqCst);
        let mut answer = format!("{from} {here}\n").into_bytes();
        answer.extend(&buffer[..n]);
        let _ = sock::send_to(fd, &answer, from);
    }
}

/// Asks an echo server with 32 bytes, from a port the kernel chooses.
pub fn ask(ns: &Ns, proto: Proto, to: SocketAddr) -> (Tried, Duration) {
    ask_with(ns, proto, None, to, 32, PATIENCE)
}

/// Asks from an address of the caller's choice.
pub fn ask_from(ns: &Ns, proto: Proto, from: SocketAddr, to: SocketAddr) -> (Tried, Duration) {
    ask_with(ns, proto, Some(from), to, 32, PATIENCE)
}

/// Asks with everything spelled out: source, payload size, patience. Also says how long it took.
pub fn ask_with(
    ns: &Ns,
    proto: Proto,
    from: Option<SocketAddr>,
    to: SocketAddr,
    size: usize,
    patience: Duration,
) -> (Tried, Duration) {
    let start = Instant::now();
    let tried = ns.inside(|| exchange(proto, from, to, size, patience).unwrap_or_else(Tried::from));
    (tried, start.elapsed())
}

fn exchange(
    proto: Proto,
    from: Option<SocketAddr>,
    to: SocketAddr,
    size: usize,
    patience: Duration,
) -> io::Result<Tried> {
    let fd = open(proto, to.ip())?;
    sock::limit(&fd, patience);
    if let Some(from) = from {
        sock::reuse(&fd)?;
        sock::bind(&fd, from)?;
    }
    sock::connect(&fd, to)?;
    let payload: Vec<u8> = (0..size).map(|i| (i * 7 + size) as u8).collect();
    let mut got = Vec::new();
    let mut buffer = vec![0; 65536];
    let deadline = Instant::now() + patience;
    sock::send_all(&fd, &payload)?;
    loop {
        let n = sock::recv(&fd, &mut buffer)?;
        if n == 0 {
            return Ok(Tried::Other(format!("closed after {} bytes", got.len())));
        }
        got.extend(&buffer[..n]);
        if let Some(end) = got.iter().position(|b| *b == b'\n')
            && got.len() >= end + 1 + size
        {
            let hello = String::from_utf8_lossy(&got[..end]).into_owned();
            if got[end + 1..] != payload {
                return Ok(Tried::Other(format!("{size} bytes came back changed")));
            }
            let (seen, reached) = hello.split_once(' ').expect("an echo server's greeting");
            let (peer_seen, reached) = (seen.parse().expect("address"), reached.parse().expect("address"));
            return Ok(Tried::Ok { local: sock::local(&fd)?, peer: sock::peer(&fd)?, peer_seen, reached });
        }
        if Instant::now() > deadline {
            return Ok(Tried::Timeout);
        }
    }
}

/// Asserts that the echo works and that nothing on the way rewrote an address: both ends agree. Returns the client's address.
#[track_caller]
pub fn assert_reaches(what: &str, ns: &Ns, proto: Proto, to: SocketAddr) -> SocketAddr {
    let (tried, took) = ask(ns, proto, to);
    let Tried::Ok { local, peer, peer_seen, reached } = tried else {
        panic!("{what}: {proto:?} from {} to {to}: {tried:?} after {took:?}", ns.name);
    };
    assert_eq!(
        peer_seen, local,
        "{what}: {proto:?} from {} to {to}: the server saw another client than there was",
        ns.name
    );
    assert_eq!(peer, to, "{what}: {proto:?} from {} to {to}: the client's socket has another peer", ns.name);
    assert_eq!(reached.port(), to.port(), "{what}: {proto:?} from {} to {to}: another port was reached", ns.name);
    if proto.connects() {
        assert_eq!(
            reached.ip(),
            to.ip(),
            "{what}: {proto:?} from {} to {to}: the server was reached at another address",
            ns.name
        );
    }
    local
}

/// Asserts that it is refused, and at once. A second try is given, as a first packet may wait for a neighbour; and as older kernels
/// limit the ICMP errors of all namespaces together (`icmp_global_allow`, net/ipv4/icmp.c), which tests beside this one may use up.
#[track_caller]
pub fn assert_refused(what: &str, ns: &Ns, proto: Proto, to: SocketAddr) {
    let (mut tried, mut took) = ask(ns, proto, to);
    if (tried == Tried::Refused && took > AT_ONCE) || (tried == Tried::Timeout && proto == Proto::Udp) {
        (tried, took) = ask(ns, proto, to);
    }
    assert!(
        tried == Tried::Refused,
        "{what}: {proto:?} from {} to {to} should be refused: {tried:?} after {took:?}",
        ns.name
    );
    assert!(took < AT_ONCE, "{what}: {proto:?} from {} to {to} was refused only after {took:?}", ns.name);
}

/// Asserts that no echo comes back, however that is said.
#[track_caller]
pub fn assert_unreached(what: &str, ns: &Ns, proto: Proto, to: SocketAddr) {
    let (tried, took) = ask(ns, proto, to);
    assert!(
        !tried.is_ok(),
        "{what}: {proto:?} from {} to {to} should not get through: {tried:?} after {took:?}",
        ns.name
    );
}
