//! Claims and leases: neither takes what the other has, and the end of a container frees both.

use super::*;

/// A host whose ports that can be assigned are changed to `ports`.
pub(super) fn assignable(host: &Host, ports: &str) {
    let config = std::fs::read_to_string(host.config_file()).expect("config");
    let kept: Vec<&str> = config.lines().filter(|line| !line.starts_with("ports = ")).collect();
    std::fs::write(host.config_file(), format!("ports = {ports:?}\n{}\n", kept.join("\n"))).expect("config");
}

#[test]
fn a_claimed_port_is_not_assigned_and_the_refusal_says_who_has_it() {
    let host = host("claims-assigned");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let held = bound(&a.ns, TCP, ANY4, 8000, false).expect("free");
    // What may be assigned is offered to nobody; a claim from before the change stays.
    assignable(&host, "8000-8099");
    host.portslice(["set", "b", "--ports", "8000"]).refused(4, "container a");
    host.portslice(["set", "b", "--ports", "8001"]).ok();
    refused(&a.ns, TCP, ANY4, 8001, "it is leased to b");
    succeeds(&b.ns, TCP, ANY4, 8001, "its own");
    // Its own claim becomes a lease, under the socket.
    host.portslice(["set", "a", "--ports", "8000"]).ok();
    assert!(claims(&host, &a).is_empty(), "it is leased now");
    drop(held);
    refused(&b.ns, TCP, ANY4, 8000, "a lease does not end with a socket");
    succeeds(&a.ns, UDP, ANY4, 8000, "a lease has both protocols");
    host.portslice(["sync"]).ok();
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
}

#[test]
fn the_end_of_a_container_frees_what_it_claimed() {
    let host = host("claims-ended");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let slot = a.show()["slot"].as_u64().expect("its slot") as u16;
    let _held = [TCP, UDP].map(|kind| bound(&a.ns, kind, ANY4, 8000, false).expect("free"));
    a.detach();
    assert!(maps(&host).claims(slot).is_empty(), "nothing is left");
    assert_eq!(maps(&host).offered(slot).expect("the offer"), None);
    for kind in [TCP, UDP] {
        succeeds(&b.ns, kind, ANY4, 8000, "the first one has ended");
    }
}

#[test]
fn a_killed_container_frees_what_it_claimed() {
    let host = host("claims-dead");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let slot = a.show()["slot"].as_u64().expect("its slot") as u16;
    let server = probe::Stranger::at(&a.ns, 8000);
    refused(&b.ns, TCP, ANY4, 8000, "it runs");
    drop(server);
    a.kill();
    host.portslice(["gc"]).ok();
    assert!(maps(&host).claims(slot).is_empty(), "nothing is left");
    succeeds(&b.ns, TCP, ANY4, 8000, "its sockets are gone");
}

#[test]
fn an_undo_leaves_nothing() {
    let host = host("claims-undone");
    let a = open(&host, "a");
    let _held = bound(&a.ns, TCP, ANY4, 8000, false).expect("free");
    let _hosts = bound(&host.ns, TCP, ANY4, 8001, false).expect("free");
    a.detach();
    host.portslice(["setup", "--undo"]).ok();
    succeeds(&host.ns, TCP, ANY4, 8000, "nobody judges any more");
    host.portslice(["setup"]).ok();
    let b = open(&host, "b");
    refused(&b.ns, TCP, ANY4, 8001, "the host has it still");
    succeeds(&b.ns, TCP, ANY4, 8000, "of the ended container nothing is known");
}
