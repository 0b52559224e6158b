//! As much DNS as it takes to see that a query and its answer pass.

use super::host::Inner;
use super::ns::Ns;
use super::probe::{self, Proto};
use super::{PEER4, sock};
use nix::mount::{MsFlags, mount};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// A name server that answers every question with `ANSWER`.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one on port 53 of every address of a family of `like`.
    pub fn start(ns: &Ns, like: std::net::IpAddr) -> Server {
        let fd = ns.inside(|| {
            let fd = probe::open(Proto::Udp, like).expect("socket");
            sock::bind(&fd, SocketAddr::new(probe::any(like), 53)).expect("port 53");
            fd
        });
        sock::limit(&fd, Duration::from_millis(50));
        let stop = Arc::new(AtomicBool::new(false));
        let s = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !s.load(Ordering::SeqCst) {
                let Ok((n @ 12.., from)) = sock::recv_from(&fd, &mut buffer) else { continue };
                let mut answer = buffer[..n].to_vec();
                answer[2..4].copy_from_slice(&[0x81, 0x80]);
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(ANSWER.octets());
                let _ = sock::send_to(&fd, &answer, from);
            }
        });
        Server { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Asks a name server for the IPv4 address of "portslice.test".
pub fn resolve(ns: &Ns, server: std::net::IpAddr) -> io::Result<Ipv4Addr> {
    ns.inside(|| {
        let fd = probe::open(Proto::Udp, server)?;
        sock::limit(&fd, probe::PATIENCE);
        sock::connect(&fd, SocketAddr::new(server, 53))?;
        let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09portslice\x04test\x00\x00\x01\x00\x01";
        sock::send_all(&fd, question)?;
        let mut answer = [0; 512];
        let n = sock::recv(&fd, &mut answer)?;
        if n < 16 || answer[..2] != question[..2] || answer[7] != 1 {
            return Err(io::Error::other(format!("a strange answer: {:?}", &answer[..n])));
        }
        Ok(Ipv4Addr::from(<[u8; 4]>::try_from(&answer[n - 4..n]).unwrap()))
    })
}
