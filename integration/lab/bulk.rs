//! A one-way TCP transfer whose every byte is checked at the other end.

use super::ns::Ns;
use super::probe::{self, Proto};
use super::sock;
use std::net::SocketAddr;
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
