//! A count goes down only for what it went up for: connections that come while their listener is being closed, and end before
//! anybody could have had them, take nothing from a socket that stays.

use super::*;
use portslice::steer::Held;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn connections_to_a_closing_listener_take_no_count_of_others() {
    let host = host("claims-closing");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let kept = bound(&a.ns, TCP, ANY4, 8010, true).expect("free");
    let (stop, mut rounds) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (peer, stop) = (&host.peer, &stop);
            scope.spawn(move || {
                peer.inside(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let socket = sock::socket(libc::AF_INET, TCP, 0).expect("a socket");
                        sock::limit(&socket, Duration::from_millis(50));
                        sock::end_at_once(&socket).expect("SO_LINGER");
                        let _ = sock::connect(&socket, SocketAddr::new(HOST4, 8010));
                    }
                });
            });
        }
        let begun = Instant::now();
        for round in 0.. {
            // a child of another test may have the last listener for the moment between fork and exec
            let listener =
                bound(&a.ns, TCP, ANY4, 8010, true).and_then(|socket| sock::listen(&socket).map(|()| socket));
            rounds += u32::from(listener.is_ok());
            std::thread::sleep(Duration::from_micros(round % 8 * 100));
            drop(listener);
            if begun.elapsed() > Duration::from_secs(5) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(rounds > 100, "it listened {rounds} times");
    // what sock_diag tells of is what is counted, when the last connection has ended
    let sockets = || {
        let range = portslice::ports::PortRange::new(8010, 8010).expect("a range");
        let holders = a.ns.inside(|| {
            portslice::net::diag::holders(&mut portslice::net::Netlink::diag().expect("netlink"), range)
                .expect("sockets")
        });
        holders.iter().map(|holder| holder.inode).collect::<BTreeSet<_>>().len()
    };
    let counted = || maps(&host).claim(8010, false).map(|claim| claim.held);
    let agreed = || counted() == Some(Held::Sockets(1));
    assert!(wait::eventually(agreed), "{:?} is counted, {} sockets are told of", counted(), sockets());
    refused(&b.ns, TCP, ANY4, 8010, "one is bound still");
    drop(kept);
    assert!(wait::eventually(|| bound(&b.ns, TCP, ANY4, 8010, true).is_ok()), "{:?}", counted());
}
