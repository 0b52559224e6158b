//! Connections outlive their listener, and hold its port.

use super::*;

/// A connection from the peer to a listener of `ns`: the peer's end, and the accepted one.
fn connected(host: &Host, listener: &OwnedFd, port: u16) -> (OwnedFd, OwnedFd) {
    let outside = host.peer.inside(|| {
        let socket = sock::socket(libc::AF_INET, TCP, 0).expect("a socket");
        sock::limit(&socket, std::time::Duration::from_secs(5));
        sock::connect(&socket, SocketAddr::new(HOST4, port)).expect("connected");
        socket
    });
    let (inside, _) = sock::accept(listener).expect("accepted");
    (outside, inside)
}

#[track_caller]
fn talks((outside, inside): &(OwnedFd, OwnedFd), when: &str) {
    let mut buffer = [0; 4];
    for (from, to) in [(outside, inside), (inside, outside)] {
        sock::send_all(from, b"ping").expect(when);
        assert_eq!(sock::recv(to, &mut buffer).expect(when), 4, "{when}");
    }
}

#[test]
fn an_accepted_one_holds_the_port_of_a_listener_that_is_gone() {
    let host = host("claims-accepted");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let listener = listening(&a.ns, 8000);
    let connections: Vec<_> = (0..20).map(|_| connected(&host, &listener, 8000)).collect();
    drop(listener);
    for connection in &connections {
        talks(connection, "the listener is gone");
    }
    refused(&b.ns, TCP, ANY4, 8000, "connections hold it");
    refused(&host.ns, TCP, ANY4, 8000, "connections hold it");
    // SO_REUSEADDR takes nothing that is in use
    assert!(bound(&b.ns, TCP, ANY4, 8000, true).is_err());
    assert_eq!(claims(&host, &a).tcp, set("8000"));
    let again = listening(&a.ns, 8000);
    let more = connected(&host, &again, 8000);
    talks(&more, "beside older connections");
    drop(again);
    // the peer closes first, so that TIME_WAIT is its own
    for (outside, inside) in connections.into_iter().chain([more]) {
        drop(outside);
        assert_eq!(sock::recv(&inside, &mut [0; 4]).expect("the end"), 0);
        drop(inside);
    }
    succeeds(&b.ns, TCP, ANY4, 8000, "the last one has ended");
}

#[test]
fn a_socket_that_connects_to_itself_is_counted_once() {
    let host = host("claims-itself");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    for ns in [&a.ns, &host.ns] {
        let socket = bound(ns, TCP, ANY4, 8000, false).expect("free");
        sock::limit(&socket, std::time::Duration::from_secs(5));
        sock::connect(&socket, SocketAddr::new(HOST4, 8000)).expect("simultaneous open");
        sock::send_all(&socket, b"ping").expect("it lives");
        assert_eq!(sock::recv(&socket, &mut [0; 4]).expect("it hears itself"), 4);
        refused(&b.ns, TCP, ANY4, 8000, "it holds its port");
        sock::end_at_once(&socket).expect("SO_LINGER");
        drop(socket);
        succeeds(&b.ns, TCP, ANY4, 8000, "it is closed");
    }
}

#[test]
fn a_port_rests_no_longer_than_there_are_connections_if_somebody_looks() {
    let host = host("claims-rests-for-nobody");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let listener = listening(&a.ns, 8000);
    let (outside, inside) = connected(&host, &listener, 8000);
    drop((listener, inside));
    assert_eq!(sock::recv(&outside, &mut [0; 4]).expect("the end"), 0);
    assert!(wait::eventually(|| claims(&host, &a).resting == set("8000")), "{:?}", claims(&host, &a));
    host.portslice(["sync"]).ok();
    refused(&b.ns, TCP, ANY4, 8000, "the peer has not closed its end");
    // a reset ends it, unlike a FIN
    sock::end_at_once(&outside).expect("SO_LINGER");
    drop(outside);
    found_free(&host, &b.ns, TCP, 8000);
    assert!(claims(&host, &a).is_empty());
}

#[test]
fn a_port_rests_for_connections_in_time_wait() {
    let host = host("claims-time-wait");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let listener = listening(&a.ns, 8001);
    let (outside, inside) = connected(&host, &listener, 8001);
    drop(inside);
    assert_eq!(sock::recv(&outside, &mut [0; 4]).expect("the end"), 0);
    drop(outside);
    drop(listener);
    assert!(wait::eventually(|| claims(&host, &a).resting == set("8001")), "{:?}", claims(&host, &a));
    refused(&b.ns, TCP, ANY4, 8001, "it rests, and this one does not ask for addresses in use");
    refused(&host.ns, TCP, ANY4, 8001, "it rests");
    let again = bound(&a.ns, TCP, ANY4, 8001, true).expect("the owner has it at once");
    drop(again);
    refused(&b.ns, TCP, ANY4, 8001, "it rests on");
    // both have SO_REUSEADDR
    let other = gets(&b.ns, TCP, ANY4, 8001, true);
    assert_eq!((claims(&host, &a).resting, claims(&host, &b).tcp), (set(""), set("8001")));
    drop(other);
}

#[test]
fn a_bound_socket_that_connects_holds_its_port_as_long_as_it_lasts() {
    let host = host("claims-connects");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let server = host.peer.inside(|| {
        let socket = sock::socket(libc::AF_INET, TCP, 0).expect("a socket");
        sock::bind(&socket, SocketAddr::new(ANY4, 7000)).expect("bound");
        sock::listen(&socket).expect("listening");
        socket
    });
    let socket = bound(&a.ns, TCP, ANY4, 8002, false).expect("free");
    sock::connect(&socket, SocketAddr::new(PEER4, 7000)).expect("connected");
    let (outside, from) = sock::accept(&server).expect("accepted");
    assert_eq!(from.port(), 8002);
    talks(&(outside, socket), "from a claimed port");
    // both ends were dropped, the client's last
    succeeds(&b.ns, TCP, ANY4, 8002, "the connection has ended");
    // one that is refused holds nothing but its own port
    let socket = bound(&a.ns, TCP, ANY4, 8003, false).expect("free");
    sock::connect(&socket, SocketAddr::new(PEER4, 7001)).expect_err("nobody listens there");
    refused(&b.ns, TCP, ANY4, 8003, "it is bound still");
    drop(socket);
    succeeds(&b.ns, TCP, ANY4, 8003, "it was closed");
}

#[test]
fn the_last_word_of_a_port_is_heard() {
    let host = host("claims-last-word");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    for (from, port) in [(&b.ns, 8010), (&host.ns, 8011), (&host.peer, 8012)] {
        let client = || {
            from.inside(|| {
                let socket = sock::socket(libc::AF_INET, TCP, 0).expect("a socket");
                sock::limit(&socket, std::time::Duration::from_secs(5));
                sock::connect(&socket, SocketAddr::new(HOST4, port)).expect("connected");
                socket
            })
        };
        let hears = |socket: &OwnedFd, what: &str| {
            let heard = sock::recv(socket, &mut [0; 4]).map_err(|e| e.raw_os_error());
            assert_eq!(heard.err(), Some(Some(libc::ECONNRESET)), "{}: {what}", from.name);
            assert_eq!(claims(&host, &a), Claims::default(), "{}: {what}", from.name);
            assert!(maps(&host).steered(port, false).is_some(), "{}: {what}: it leads to who had it", from.name);
        };
        let listener = listening(&a.ns, port);
        let waiting = client();
        drop(listener);
        hears(&waiting, "its listener is closed, and it was not accepted");
        let listener = listening(&a.ns, port);
        let accepted = client();
        let (inside, _) = sock::accept(&listener).expect("accepted");
        drop(listener);
        sock::end_at_once(&inside).expect("SO_LINGER");
        drop(inside);
        hears(&accepted, "it is closed at once");
        // whoever had it last, it is free
        succeeds(&b.ns, TCP, ANY4, port, "nobody has it");
        succeeds(&host.ns, TCP, ANY4, port, "nobody has it");
    }
    let free = |port| maps(&host).steered(port, false).is_none();
    assert!([8010, 8011, 8012].into_iter().all(free), "the host had them last");
    drop(listening(&a.ns, 8013));
    assert!(!free(8013), "a had it last");
    std::thread::sleep(std::time::Duration::from_secs(9));
    host.portslice(["sync"]).ok();
    assert!(free(8013), "nobody has had it for two units of 4.3 s");
}

#[test]
fn a_connection_over_the_containers_own_lo_holds_no_port() {
    let host = host("claims-own-lo");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let listener = listening(&a.ns, 8000);
    let ends = a.ns.inside(|| {
        let client = sock::socket(libc::AF_INET, TCP, 0).expect("a socket");
        sock::connect(&client, SocketAddr::new(LO4, 8000)).expect("connected");
        (client, sock::accept(&listener).expect("accepted").0)
    });
    drop(listener);
    // nothing of a's is to be reached from outside
    let _b = gets(&b.ns, TCP, ANY4, 8000, false);
    talks(&ends, "on its lo it is undisturbed");
}

/// Of a socket of multipath TCP the kernel binds one that it made itself, and counts begin when that listens.
#[test]
fn a_multipath_socket_has_its_port_before_it_listens() {
    const IPPROTO_MPTCP: i32 = 262;
    let host = host("claims-multipath");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    for ns in [&a.ns, &host.ns] {
        let made = ns.inside(|| sock::socket(libc::AF_INET, TCP, IPPROTO_MPTCP));
        let Ok(server) = made else {
            return println!("skipped: this kernel has no multipath TCP");
        };
        sock::reuse(&server).expect("SO_REUSEADDR");
        sock::bind(&server, SocketAddr::new(ANY4, 8000)).expect("free");
        for reuse in [false, true] {
            assert!(bound(&b.ns, TCP, ANY4, 8000, reuse).is_err(), "SO_REUSEADDR {reuse}: {} has it", ns.name);
        }
        sock::listen(&server).expect("listens");
        drop(connected(&host, &server, 8000));
        refused(&b.ns, TCP, ANY4, 8000, "it listens");
        drop(server);
        succeeds(&b.ns, TCP, ANY4, 8000, "it is closed");
        // one that is closed before it listens is found by a look
        let server = ns.inside(|| sock::socket(libc::AF_INET, TCP, IPPROTO_MPTCP)).expect("a socket");
        sock::bind(&server, SocketAddr::new(ANY4, 8001)).expect("free");
        drop(server);
        found_free(&host, &b.ns, TCP, 8001);
    }
}
