//! What is offered follows the host: ports that leases may be cut from, or that connections of the host may take, are claimed by
//! nobody, and others of the set are.

use super::leases::assignable;
use super::*;
use crate::lab::kill::injected;
use crate::lab::race::both;
use std::time::Duration;

#[test]
fn what_may_be_assigned_is_offered_no_more_and_what_may_not_is() {
    let host = host("claims-offer-ports");
    let a = open(&host, "a");
    succeeds(&a.ns, TCP, ANY4, 8000, "it is offered");
    let kept = bound(&a.ns, TCP, ANY4, 8001, false).expect("it is offered");
    assignable(&host, "8000-8049");
    host.portslice(["sync"]).ok();
    assert_eq!(a.show()["open_ports"]["ports"], "80,8050-8099");
    refused(&a.ns, TCP, ANY4, 8000, "it may be leased to others");
    refused(&a.ns, UDP, ANY4, 8049, "it may be leased to others");
    succeeds(&a.ns, TCP, ANY4, 8050, "it may not");
    assert_eq!(claims(&host, &a).tcp, set("8001"), "what it holds it keeps");
    drop(kept);
    assignable(&host, "80,8000-8099");
    host.portslice(["sync"]).ok();
    refused(&a.ns, TCP, ANY4, 8050, "nothing is left");
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
    assignable(&host, "9000-9099");
    host.portslice(["sync"]).ok();
    succeeds(&a.ns, TCP, ANY4, 8000, "all of it is offered again");
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
    let nothing = host.portslice(["sync"]).ok();
    assert!(!nothing.stdout.contains("open ports"), "{nothing}");
}

#[test]
fn what_connections_of_the_host_take_is_offered_to_nobody() {
    let host = host("claims-offer-range");
    let a = host.bare("a", &["--open-ports", "57000-61000"]);
    let (range, reserved) = ("ipv4.ip_local_port_range", "ipv4.ip_local_reserved_ports");
    let (first, before) = (host.ns.sysctl(range), host.ns.sysctl(reserved));
    refused(&a.ns, TCP, ANY4, 60000, "the host's connections may have it");
    host.ns.set_sysctl(range, "57344 59999");
    host.portslice(["sync"]).ok();
    succeeds(&a.ns, TCP, ANY4, 60000, "they may not any more");
    host.ns.set_sysctl(reserved, &format!("{},59000", before.trim()));
    host.portslice(["sync"]).ok();
    succeeds(&a.ns, TCP, ANY4, 59000, "it is reserved");
    host.ns.set_sysctl(reserved, before.trim());
    host.ns.set_sysctl(range, &first);
    host.portslice(["sync"]).ok();
    refused(&a.ns, TCP, ANY4, 60000, "they may again");
    refused(&a.ns, TCP, ANY4, 59000, "they may again");
}

/// Who follows the host may have looked at a slice before its container ended, and the slot's next tenant would have what it gets
/// then.
#[test]
fn what_is_offered_after_the_end_is_taken_back() {
    let host = host("claims-offer-late");
    // It enters the namespace of the container a few times, and is held back at each.
    for n in 1.. {
        assignable(&host, "9000-9099");
        let a = open(&host, "a");
        let (maps, slot) = (maps(&host), slot_of(&host, "a"));
        assert!(maps.offered(slot).expect("its offer").is_some());
        assignable(&host, "8000-8049");
        let delay = format!("delay_enter=1200ms:when={n}");
        let (sync, ()) = both(
            || injected(&host, "ioctl", &delay, &["portslice", "sync"], ""),
            || {
                std::thread::sleep(Duration::from_millis(600));
                a.detach();
            },
        );
        let left = maps.offered(slot).expect("an offer");
        assert!(left.is_none(), "held back at call {n}: {left:?}");
        let namespaces = maps.namespaces.as_ref().expect("bind() is judged");
        assert!(!namespaces.has(slot).expect("namespaces"), "held back at call {n}");
        if sync.took < Duration::from_millis(1200) {
            assert!(n > 1, "it is never held back");
            break;
        }
    }
}
