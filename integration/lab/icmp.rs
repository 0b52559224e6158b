//! Echo requests by raw socket, with an id of the caller's choice, and listening for every ICMP message of a namespace.

use super::frame;
use super::ns::Ns;
use super::sock;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A raw ICMP socket of one namespace and family.
pub struct Icmp {
    fd: OwnedFd,
    family: IpAddr,
}

/// An ICMP message as it arrived.
#[derive(Clone, Debug)]
pub struct Message {
    /// Who sent it.
    pub from: IpAddr,
    /// Type, code, checksum, rest, body.
    pub bytes: Vec<u8>,
}

impl Message {
    /// Type and code.
    pub fn kind(&self) -> (u8, u8) {
        (self.bytes[0], self.bytes[1])
    }

    /// The echo id, for an echo message.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[4], self.bytes[5]])
    }
}

/// An echo id that no other probe of this process uses.
pub fn fresh_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    (std::process::id() as u16) ^ NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37)
}

impl Icmp {
    /// Opens one; it hears every ICMP message that reaches the namespace from now on.
    pub fn open(ns: &Ns, like: IpAddr) -> Icmp {
        let protocol = if like.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
        let fd = ns.inside(|| sock::socket(sock::family(like), libc::SOCK_RAW, protocol)).expect("raw ICMP socket");
        Icmp { fd, family: like }
    }

    /// Sends one echo request.
    pub fn request(&self, to: IpAddr, id: u16, sequence: u16, payload: &[u8]) -> io::Result<()> {
        let rest = [id.to_be_bytes(), sequence.to_be_bytes()].concat().try_into().unwrap();
        // for IPv6 the kernel fills in the checksum
        let kind = if self.family.is_ipv4() { 8 } else { 128 };
        let message = frame::icmp4(kind, 0, rest, payload);
        sock::send_to(&self.fd, &message, SocketAddr::new(to, 0))?;
        Ok(())
    }

    /// The next message within a time.
    pub fn next(&self, wait: Duration) -> Option<Message> {
        sock::limit(&self.fd, wait);
        let mut buffer = vec![0; 70000];
        let (n, from) = sock::recv_from(&self.fd, &mut buffer).ok()?;
        let skip = if self.family.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        Some(Message { from: from.ip(), bytes: buffer[skip.min(n)..n].to_vec() })
    }

    /// All messages within a window that match.
    pub fn during(&self, window: Duration, matches: impl Fn(&Message) -> bool) -> Vec<Message> {
        let end = Instant::now() + window;
        let mut all = Vec::new();
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            all.extend(self.next(left).filter(|m| m.bytes.len() >= 8 && matches(m)));
        }
        all
    }

    /// Echo replies with this id within a window.
    pub fn replies(&self, id: u16, window: Duration) -> Vec<Message> {
        let reply = if self.family.is_ipv4() { 0 } else { 129 };
        self.during(window, |m| m.bytes[0] == reply && m.id() == id)
    }
}

/// Sends `count` echo requests and returns how many replies came for each within `window` after the last.
pub fn ping(ns: &Ns, to: IpAddr, count: u16, window: Duration) -> Vec<usize> {
    ping_with(ns, to, fresh_id(), count, window)
}

/// The same with an id of the caller's choice.
pub fn ping_with(ns: &Ns, to: IpAddr, id: u16, count: u16, window: Duration) -> Vec<usize> {
    let icmp = Icmp::open(ns, to);
    for sequence in 0..count {
        let _ = icmp.request(to, id, sequence, b"portslice lab echo");
        if sequence + 1 < count {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let replies = icmp.replies(id, window);
    let of = |sequence: u16| replies.iter().filter(|m| m.bytes[6..8] == sequence.to_be_bytes()).count();
    (0..count).map(of).collect()
}
