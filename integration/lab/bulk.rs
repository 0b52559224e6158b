//! A one-way TCP transfer whose every byte is checked at the other end.

use super::ns::Ns;
use super::probe::{self, Proto};
use super::sock;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BLOCK: usize = 1 << 20;

/// One megabyte of noise; every block of a transfer is this one with its number in front, so that order counts too.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.take(BLOCK / 8).flat_map(u64::to_le_bytes).collect()
}

/// Sends `size` bytes (whole megabytes) from one namespace to `to`, served in the other, and compares every byte there.
#[track_caller]
pub fn transfer(from: &Ns, into: &Ns, to: SocketAddr, size: usize, within: Duration) -> Duration {
    let what = format!("{} MB from {} to {} ({to})", size >> 20, from.name, into.name);
    let start = Instant::now();
    let listener = into.inside(|| {
        let fd = probe::open(Proto::Tcp, to.ip()).expect("socket");
        sock::reuse(&fd).expect("SO_REUSEADDR");
        sock::bind(&fd, SocketAddr::new(probe::any(to.ip()), to.port()))
            .unwrap_or_else(|e| panic!("{what}: bind: {e}"));
        sock::listen(&fd).expect("listen");
        fd
    });
    sock::limit(&listener, Duration::from_secs(3));
    let patience = Duration::from_secs(3);
    std::thread::scope(|s| {
        let receiver = s.spawn(|| {
            let (connection, _) = sock::accept(&listener).map_err(|e| format!("accept: {e}"))?;
            sock::limit(&connection, patience);
            let (mut expected, mut block) = (noise(), vec![0; BLOCK]);
            for number in 0..size / BLOCK {
                expected[..8].copy_from_slice(&(number as u64).to_le_bytes());
                let mut filled = 0;
                while filled < BLOCK {
                    match sock::recv(&connection, &mut block[filled..]) {
                        Ok(0) => return Err(format!("closed in block {number}")),
                        Ok(n) => filled += n,
                        Err(e) => return Err(format!("block {number} + {filled}: {e}")),
                    }
                    if start.elapsed() > within {
                        return Err(format!("only {number} MB after {within:?}"));
                    }
                }
                if block != expected {
                    return Err(format!("block {number} arrived changed"));
                }
            }
            sock::send_all(&connection, b"all").map_err(|e| format!("answer: {e}"))
        });
        let sent = from.inside(|| -> std::io::Result<Vec<u8>> {
            let fd = probe::open(Proto::Tcp, to.ip())?;
            sock::limit(&fd, patience);
            sock::connect(&fd, to)?;
            let mut block = noise();
            for number in 0..size / BLOCK {
                block[..8].copy_from_slice(&(number as u64).to_le_bytes());
                sock::send_all(&fd, &block)?;
            }
            let mut answer = vec![0; 3];
            let n = sock::recv(&fd, &mut answer)?;
            answer.truncate(n);
            Ok(answer)
        });
        let received = receiver.join().expect("receiver");
        assert!(
            received.is_ok() && sent.as_ref().is_ok_and(|a| a == b"all"),
            "{what}: sender {sent:?}, receiver {received:?}"
        );
    });
    start.elapsed()
}

/// A transfer without an end of its own: it runs until it is finished, and every byte is checked as it arrives.
pub struct Running {
    what: String,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<io::Result<usize>>,
    receiver: JoinHandle<Result<usize, String>>,
}

impl Running {
    /// Starts sending from one namespace to `to`, served in the other.
    #[track_caller]
    pub fn start(from: &Ns, into: &Ns, to: SocketAddr) -> Running {
        let what = format!("transfer from {} to {} ({to})", from.name, into.name);
        let patience = Duration::from_secs(10);
        let listener = into.inside(|| {
            let fd = probe::open(Proto::Tcp, to.ip()).expect("socket");
            sock::reuse(&fd).expect("SO_REUSEADDR");
            sock::bind(&fd, SocketAddr::new(probe::any(to.ip()), to.port()))
                .unwrap_or_else(|e| panic!("{what}: bind: {e}"));
            sock::listen(&fd).expect("listen");
            fd
        });
        let out = from.inside(|| {
            let fd = probe::open(Proto::Tcp, to.ip()).expect("socket");
            sock::limit(&fd, patience);
            sock::cubic(&fd).expect("TCP_CONGESTION");
            sock::connect(&fd, to).unwrap_or_else(|e| panic!("{what}: connect: {e}"));
            fd
        });
        sock::limit(&listener, patience);
        let (inn, _) = sock::accept(&listener).unwrap_or_else(|e| panic!("{what}: accept: {e}"));
        sock::limit(&inn, patience);
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let sender = std::thread::spawn(move || send_until(&out, &ended));
        Running { what, stop, sender, receiver: std::thread::spawn(move || check_all(&inn)) }
    }

    /// Ends it and asserts that all that was sent has arrived as it was; megabytes.
    #[track_caller]
    pub fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.sender.join().expect("sender");
        let arrived = self.receiver.join().expect("receiver");
        match (sent, arrived) {
            (Ok(sent), Ok(arrived)) if sent == arrived => sent,
            other => panic!("{}: blocks sent and arrived: {other:?}", self.what),
        }
    }
}

fn send_until(fd: &OwnedFd, ended: &AtomicBool) -> io::Result<usize> {
    let mut block = noise();
    let mut number = 0;
    while !ended.load(Ordering::SeqCst) {
        block[..8].copy_from_slice(&(number as u64).to_le_bytes());
        sock::send_all(fd, &block)?;
        number += 1;
    }
    sock::shut_sending(fd);
    // until the other end has seen all of it and closed
    sock::recv(fd, &mut [0])?;
    Ok(number)
}

fn check_all(fd: &OwnedFd) -> Result<usize, String> {
    let (mut expected, mut block) = (noise(), vec![0; BLOCK]);
    for number in 0.. {
        expected[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let mut filled = 0;
        while filled < BLOCK {
            match sock::recv(fd, &mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(number),
                Ok(0) => return Err(format!("closed in block {number}")),
                Ok(n) => filled += n,
                Err(e) => return Err(format!("block {number} + {filled}: {e}")),
            }
        }
        if block != expected {
            return Err(format!("block {number} arrived changed"));
        }
    }
    unreachable!("the numbers do not end")
}
