//! How long an answer takes: round trips on a connection of their own, while others do what they do.

use super::flow;
use super::ns::Ns;
use super::probe::{self, Proto};
use super::sock;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Bytes of a question and its answer.
const SIZE: usize = 64;

/// Asks a TCP `Echo` on one connection for `window`, every ten milliseconds, and returns how long each answer took, sorted.
#[track_caller]
pub fn round_trips(ns: &Ns, to: SocketAddr, window: Duration) -> Vec<Duration> {
    let asked = ns.inside(|| {
        flow::hurry();
        ask(to, window)
    });
    let mut taken = asked.unwrap_or_else(|e| panic!("round trips from {} to {to}: {e}", ns.name));
    taken.sort();
    taken
}

/// The middle of sorted times.
pub fn median(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() / 2]
}

fn ask(to: SocketAddr, window: Duration) -> io::Result<Vec<Duration>> {
    let fd = probe::open(Proto::Tcp, to.ip())?;
    sock::limit(&fd, Duration::from_secs(10));
    sock::end_at_once(&fd)?;
    sock::set(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1i32)?;
    sock::connect(&fd, to)?;
    // its greeting comes first, up to the end of the line
    let mut byte = [0];
    while byte != *b"\n" {
        if sock::recv(&fd, &mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let (start, mut taken) = (Instant::now(), Vec::new());
    while start.elapsed() < window {
        taken.push(once(&fd)?);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(taken)
}

fn once(fd: &OwnedFd) -> io::Result<Duration> {
    let start = Instant::now();
    sock::send_all(fd, &[0x5a; SIZE])?;
    let (mut buffer, mut got) = ([0; SIZE], 0);
    while got < SIZE {
        match sock::recv(fd, &mut buffer[got..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => got += n,
        }
    }
    Ok(start.elapsed())
}
