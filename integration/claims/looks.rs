//! Where only a look tells that a port is free, somebody looks; and no look takes a port from a socket that is counted.

use super::*;
use crate::following::Service;
use std::time::{Duration, Instant};

#[test]
fn the_service_looks_by_itself() {
    let host = Host::with("claims-service").judged("require").unprepared().build();
    let before = listening(&host.ns, 8000);
    host.portslice(["setup"]).ok();
    let a = open(&host, "a");
    let _service = Service::on(&host);
    refused(&a.ns, TCP, ANY4, 8000, "the host listens there");
    drop(before);
    // It looks every half minute when nothing tells it to.
    let begun = Instant::now();
    while bound(&a.ns, TCP, ANY4, 8000, false).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody looked");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_look_frees_no_port_at_which_a_socket_is_counted() {
    let host = host("claims-look-counted");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let slot = a.show()["slot"].as_u64().expect("its slot") as u16;
    let held = bound(&a.ns, TCP, ANY4, 8000, false).expect("free");
    let maps = maps(&host);
    maps.look_after(slot, &set("8000-8001"), &set(""));
    // as kernels before 6.8 tell, which do not know of a TCP socket that is only bound
    let look = || {
        let uncounted = maps.uncounted().remove(&slot).unwrap_or_default();
        maps.free_unheld(slot, &uncounted, (&set(""), &set("")));
    };
    look();
    assert_eq!(claims(&host, &a).tcp, set("8000"), "of 8001 no socket is counted");
    refused(&b.ns, TCP, ANY4, 8000, "a has it");
    drop(held);
    // A process that another test starts just now may hold the socket until it becomes its program: one looks again.
    let found = || {
        look();
        bound(&b.ns, TCP, ANY4, 8000, false).is_ok()
    };
    assert!(wait::eventually(found), "it is closed");
}
