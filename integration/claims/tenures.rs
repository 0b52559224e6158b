//! What a socket has it keeps, whatever becomes of the lease under it: the port is nobody else's until it is closed, and its end
//! takes nothing from a socket that came later.

use super::leases::assignable;
use super::*;

#[test]
fn a_lease_that_ends_leaves_the_port_to_the_sockets_that_sit_there() {
    let host = host("claims-lease-ends");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let old = bound(&a.ns, UDP, ANY4, 8000, true).expect("free");
    assignable(&host, "8000-8099");
    host.portslice(["set", "a", "--ports", "8000-8004"]).ok();
    let leased = listening(&a.ns, 8002);
    host.portslice(["set", "a", "--ports", "-8000-8004"]).ok();
    assignable(&host, "9000-9099");
    host.portslice(["setup"]).ok();
    assert_eq!(claims(&host, &a), Claims { tcp: set("8002"), udp: set("8000"), resting: set("") });
    refused(&b.ns, UDP, ANY4, 8000, "a socket from before the lease has it");
    refused(&b.ns, TCP, ANY4, 8002, "a socket that was bound under the lease has it");
    for (kind, port) in [(TCP, 8000), (UDP, 8002), (TCP, 8001), (UDP, 8001)] {
        succeeds(&b.ns, kind, ANY4, port, "no socket has it");
    }
    let new = bound(&a.ns, UDP, ANY4, 8000, true).expect("beside its own");
    drop(old);
    refused(&b.ns, UDP, ANY4, 8000, "the newer one has it still");
    host.portslice(["sync"]).ok();
    refused(&b.ns, UDP, ANY4, 8000, "a look finds it");
    drop((new, leased));
    host.portslice(["sync"]).ok();
    succeeds(&b.ns, UDP, ANY4, 8000, "all are closed");
    succeeds(&b.ns, TCP, ANY4, 8002, "all are closed");
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
}

#[test]
fn sockets_of_a_namespace_that_is_attached_again_have_their_ports() {
    let host = host("claims-attached-again");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let old = bound(&a.ns, UDP, ANY4, 8000, true).expect("free");
    let listener = listening(&a.ns, 8001);
    let loops = bound(&a.ns, TCP, LO4, 8003, false).expect("its own");
    a.detach();
    let unseen = bound(&a.ns, TCP, ANY4, 8002, false).expect("nobody judges");
    let pid = a.ns.pid().to_string();
    host.portslice(["attach", "again", "--pid", &pid, "--open-ports", OPEN]).ok();
    for (kind, port) in [(UDP, 8000), (TCP, 8001), (TCP, 8002)] {
        refused(&b.ns, kind, ANY4, port, "it was bound before");
    }
    succeeds(&b.ns, TCP, ANY4, 8003, "what lo alone has is nobody's claim");
    let new = bound(&a.ns, UDP, ANY4, 8000, true).expect("beside its own");
    drop(old);
    refused(&b.ns, UDP, ANY4, 8000, "the newer one has it still");
    drop((new, listener, unseen, loops));
    for (kind, port) in [(UDP, 8000), (TCP, 8001), (TCP, 8002)] {
        found_free(&host, &b.ns, kind, port);
    }
    host.portslice(["detach", "again"]).ok();
}

#[test]
fn what_is_offered_later_is_had_by_the_sockets_that_sit_there() {
    let host = host("claims-offered-later");
    let (a, b) = (host.bare("a", &[]), open(&host, "b"));
    assignable(&host, "8000-8099");
    host.portslice(["set", "a", "--ports", "8000"]).ok();
    let server = listening(&a.ns, 8000);
    host.portslice(["set", "a", "--ports", "-8000"]).ok();
    assignable(&host, "9000-9099");
    host.portslice(["set", "a", "--open-ports", OPEN]).ok();
    host.portslice(["sync"]).ok();
    assert_eq!(claims(&host, &a).tcp, set("8000"));
    refused(&b.ns, TCP, ANY4, 8000, "a listens there");
    drop(server);
    found_free(&host, &b.ns, TCP, 8000);
}
