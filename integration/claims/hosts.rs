//! Ports of the host's own sockets: those that are bound, and those that were before anybody looked.

use super::*;

#[test]
fn what_the_host_had_before_is_known_and_found_free_by_a_look() {
    let host = Host::with("claims-before").judged("require").unprepared().build();
    let tcp = listening(&host.ns, 8000);
    let udp = bound(&host.ns, UDP, ANY4, 8001, false).expect("bound");
    host.portslice(["setup"]).ok();
    let a = open(&host, "a");
    refused(&a.ns, TCP, ANY4, 8000, "the host listens there");
    refused(&a.ns, UDP, ANY4, 8001, "the host has it");
    succeeds(&a.ns, UDP, ANY4, 8000, "of UDP it is free");
    host.portslice(["sync"]).ok();
    refused(&a.ns, TCP, ANY4, 8000, "the host still listens there");
    // What it accepts now is counted, and what it closes is looked for.
    drop((tcp, udp));
    found_free(&host, &a.ns, TCP, 8000);
    found_free(&host, &a.ns, UDP, 8001);
}

#[test]
fn connections_of_the_host_hold_their_listeners_port_too() {
    let host = host("claims-of-host");
    let a = open(&host, "a");
    let listener = listening(&host.ns, 8000);
    let outside = host.peer.inside(|| {
        let socket = sock::socket(libc::AF_INET, TCP, 0).expect("a socket");
        sock::connect(&socket, SocketAddr::new(HOST4, 8000)).expect("connected");
        socket
    });
    let (inside, _) = sock::accept(&listener).expect("accepted");
    drop(listener);
    refused(&a.ns, TCP, ANY4, 8000, "a connection holds it");
    sock::send_all(&outside, b"ping").expect("it lives");
    assert_eq!(sock::recv(&inside, &mut [0; 4]).expect("it lives"), 4);
    drop(outside);
    assert_eq!(sock::recv(&inside, &mut [0; 4]).expect("the end"), 0);
    drop(inside);
    succeeds(&a.ns, TCP, ANY4, 8000, "it has ended");
}

/// Engines bind in the host what they publish, also where a container has claimed it meanwhile.
#[test]
fn datagrams_that_share_a_port_are_no_conflict() {
    let host = Host::with("claims-datagrams").judged("require").build();
    let (a, b) = (host.bare("a", &["--open-ports", "5353"]), host.bare("b", &[]));
    let first = bound(&host.ns, UDP, ANY4, 5353, true).expect("shared");
    for ns in [&a.ns, &b.ns, &host.ns] {
        bound(ns, UDP, ANY4, 5353, true).expect("all of them share it");
        refused(ns, UDP, ANY4, 5353, "this one does not share");
    }
    drop(first);
    let alone = || bound(&a.ns, UDP, ANY4, 5353, false);
    let mut held = alone();
    assert!(
        wait::eventually(|| held.is_ok() || {
            held = alone();
            held.is_ok()
        }),
        "the host has left"
    );
    refused(&host.ns, UDP, ANY4, 5353, "a has it alone");
    let errno = bound(&b.ns, UDP, ANY4, 5353, true).expect_err("a has it alone").raw_os_error();
    assert_eq!(errno, Some(libc::EADDRINUSE));
}

#[test]
fn a_lease_of_a_port_that_the_host_had_before_takes_no_claim_from_its_container() {
    let host = Host::with("claims-leased-before").judged("require").unprepared().build();
    super::leases::assignable(&host, "8050");
    let before = listening(&host.ns, 8050);
    host.portslice(["setup"]).ok();
    drop(before);
    let a = host.bare("a", &["--open-ports", "8000", "--ports", "8050"]);
    succeeds(&a.ns, TCP, ANY4, 8000, "it holds nothing yet");
}

#[test]
fn a_tunnel_of_the_kernel_has_its_port_as_long_as_it_is_up() {
    let host = host("claims-tunnel");
    let a = open(&host, "a");
    let ip = |args: &[&str]| host.ns.command("ip").args(args).output().expect("ip");
    let made = ip(&[
        "link",
        "add",
        "tunnel",
        "type",
        "vxlan",
        "id",
        "7",
        "dstport",
        "8000",
        "dev",
        "eth0",
        "group",
        "239.1.1.1",
    ]);
    if !made.status.success() {
        return println!("skipped: no VXLAN in this kernel: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    host.ns.ip("link set tunnel up");
    refused(&a.ns, UDP, ANY4, 8000, "the kernel has it");
    host.portslice(["sync"]).ok();
    refused(&a.ns, UDP, ANY4, 8000, "a look finds it");
    host.ns.ip("link del tunnel");
    found_free(&host, &a.ns, UDP, 8000);
}
