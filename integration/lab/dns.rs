//! As much DNS as it takes to see that a query and its answer pass.

use super::host::Inner;
use super::ns::Ns;
use super::probe::{self, Proto};
use super::{PEER4, sock};
use nix::mount::{MsFlags, mount};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What every name resolves to here.
pub const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);

/// What asks the host's resolver inside a container, and shows the answer.
pub const ASK: &str = "busybox nslookup -type=a portslice.test";

/// From now on the host's resolver is the peer, which answers until this is dropped.
pub fn by_the_peer(host: &Inner) -> Server {
    let file = host.dir.join("resolv.conf");
    std::fs::write(&file, format!("nameserver {PEER4}\n")).expect("resolv.conf");
    host.ns.inside_mounts(|| {
        let at = Path::new("/etc/resolv.conf");
        mount(Some(&file), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("resolv.conf");
    });
    Server::start(&host.peer, PEER4)
}

/// A name server that answers every question for an IPv4 address with `ANSWER`, and any other one with nothing.
pub struct Server {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one on port 53 of every address of a family of `like`.
    pub fn start(ns: &Ns, like: IpAddr) -> Server {
        let fd = ns.inside(|| {
            let fd = probe::open(Proto::Udp, like).expect("socket");
            sock::bind(&fd, SocketAddr::new(probe::any(like), 53)).expect("port 53");
            fd
        });
        sock::limit(&fd, Duration::from_millis(50));
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (s, n) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !s.load(Ordering::SeqCst) {
                let Ok((length @ 12.., from)) = sock::recv_from(&fd, &mut buffer) else { continue };
                let Some((answer, found)) = answer(&buffer[..length]) else { continue };
                n.fetch_add(u64::from(found), Ordering::SeqCst);
                let _ = sock::send_to(&fd, &answer, from);
            }
        });
        Server { stop, asked, thread: Some(thread) }
    }

    /// How many questions for an IPv4 address came so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What is said to a query, and whether there is an address in it. What follows the question (EDNS) is ignored.
fn answer(query: &[u8]) -> Option<(Vec<u8>, bool)> {
    let name = query.get(12..)?.iter().position(|length| *length == 0)?;
    let end = 12 + name + 5;
    let wants_address = query.get(end - 4..end)? == [0, 1, 0, 1];
    let mut answer = query[..end].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..12].copy_from_slice(&[0, u8::from(wants_address), 0, 0, 0, 0]);
    if wants_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(ANSWER.octets());
    }
    Some((answer, wants_address))
}

/// Asks a name server for the IPv4 address of "portslice.test".
pub fn resolve(ns: &Ns, server: IpAddr) -> io::Result<Ipv4Addr> {
    resolve_name(ns, SocketAddr::new(server, 53), "portslice.test")
}

/// Asks a name server, at a port of the caller's choice, for the IPv4 address of a name.
pub fn resolve_name(ns: &Ns, server: SocketAddr, name: &str) -> io::Result<Ipv4Addr> {
    let mut question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).expect("a short label"));
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    ns.inside(|| {
        let fd = probe::open(Proto::Udp, server.ip())?;
        sock::limit(&fd, probe::PATIENCE);
        sock::connect(&fd, server)?;
        sock::send_all(&fd, &question)?;
        let mut answer = [0; 512];
        let n = sock::recv(&fd, &mut answer)?;
        if n < 16 || answer[..2] != question[..2] || answer[7] != 1 {
            return Err(io::Error::other(format!("a strange answer: {:?}", &answer[..n])));
        }
        Ok(Ipv4Addr::from(<[u8; 4]>::try_from(&answer[n - 4..n]).unwrap()))
    })
}
