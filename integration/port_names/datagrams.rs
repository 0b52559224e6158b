//! Names of UDP: connected sockets, and those that say with every datagram whom it is for and hear from whom it came.

use super::*;

const UDP: i32 = libc::SOCK_DGRAM;

/// `client` asks at `to` and is answered by whom the datagram came from. `seen`: the port the server is told of (`None`: the
/// client's own), and the one the client is.
#[track_caller]
fn asks(client: &OwnedFd, server: &OwnedFd, to: SocketAddr, seen: (Option<u16>, u16)) {
    let (mut buffer, what) = ([0; 8], format!("to {to}"));
    sock::send_to(client, b"ask", to).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (_, from) = sock::recv_from(server, &mut buffer).unwrap_or_else(|e| panic!("{what}: nothing came: {e}"));
    assert_eq!(from.port(), seen.0.unwrap_or_else(|| port(client)), "{what}: from whom it came");
    sock::send_to(server, b"answer", from).expect("answer");
    let (_, from) = sock::recv_from(client, &mut buffer).unwrap_or_else(|e| panic!("{what}: no answer: {e}"));
    assert_eq!(from.port(), seen.1, "{what}: who answered");
}

fn unconnected(ns: &Ns, of: IpAddr) -> OwnedFd {
    bound(ns, UDP, if of.is_ipv4() { ANY4 } else { ANY6 }, 0).expect("a socket")
}

#[test]
fn datagrams_are_told_of_names_inside_and_of_ports_outside() {
    let host = Host::with("named-udp").judged("require").build();
    let a = host.bare("a", &["--ports", "31053:53,31054:54/udp"]);
    let b = host.bare("b", &["--ports", "31055:53"]);
    let in_a = bound(&a.ns, UDP, ANY6, 53).expect("bind");
    assert_eq!(port(&in_a), 53);
    for to in [HOST4, HOST6] {
        for client in [&host.peer, &host.ns, &b.ns] {
            asks(&unconnected(client, to), &in_a, SocketAddr::new(to, 31053), (None, 31053));
        }
    }
    for to in [LO4, HOST4, "127.9.8.7".parse().unwrap(), LO6, HOST6, MAPPED_LO, MAPPED_HOST] {
        for number in [53, 31053] {
            asks(&unconnected(&a.ns, to), &in_a, SocketAddr::new(to, number), (None, 53));
        }
        let named = bound(&a.ns, UDP, if to.is_ipv4() { ANY4 } else { ANY6 }, 54).expect("bind");
        asks(&named, &in_a, SocketAddr::new(to, 53), (Some(54), 53));
        // a copy that a child of another test has for a moment longer takes nothing of the next one's: its peer is itself
        sock::connect(&named, sock::local(&named).expect("a name")).expect("connect");
    }
    // Two containers' 53, by each other.
    let in_b = bound(&b.ns, UDP, ANY6, 53).expect("bind");
    asks(&in_a, &in_b, SocketAddr::new(MAPPED_HOST, 31055), (Some(31053), 31055));
    asks(&in_b, &in_a, SocketAddr::new(HOST6, 31053), (Some(31055), 31053));
}

#[test]
fn connected_datagram_sockets_know_their_peer_by_its_name() {
    let host = Host::with("named-udp-connected").judged("require").build();
    let a = host.bare("a", &["--ports", "31053:53"]);
    let server = bound(&a.ns, UDP, ANY6, 53).expect("bind");
    for (client, to, number, named) in [
        (&a.ns, LO4, 53, 53),
        (&a.ns, LO4, 31053, 53),
        (&a.ns, HOST4, 53, 53),
        (&a.ns, LO6, 53, 53),
        (&a.ns, HOST6, 53, 53),
        (&a.ns, MAPPED_LO, 53, 53),
        (&a.ns, MAPPED_HOST, 31053, 53),
        (&host.peer, HOST4, 31053, 31053),
        (&host.peer, HOST6, 31053, 31053),
        (&host.ns, HOST4, 31053, 31053),
    ] {
        let (mut buffer, to) = ([0; 8], SocketAddr::new(to, number));
        let client = connected(client, UDP, to).unwrap_or_else(|e| panic!("{to}: {e}"));
        assert_eq!(sock::peer(&client).expect("a peer").port(), named, "{to}");
        for round in 0..2 {
            sock::send_all(&client, b"ask").expect("send");
            let (_, from) = sock::recv_from(&server, &mut buffer).unwrap_or_else(|e| panic!("{to}, {round}: {e}"));
            assert_eq!(from.port(), port(&client), "{to}");
            sock::send_to(&server, b"answer", from).expect("answer");
            let (_, from) = sock::recv_from(&client, &mut buffer).unwrap_or_else(|e| panic!("{to}, {round}: {e}"));
            assert_eq!(from.port(), named, "{to}");
        }
    }
}

/// The name of one container's port is another one's own: an answer goes to whom the datagram came from.
#[test]
fn an_answer_to_another_containers_port_is_not_taken_for_a_name() {
    let host = Host::with("named-udp-others").judged("require").build();
    let a = host.bare("a", &["--ports", "31060:31070"]);
    let b = host.bare("b", &["--ports", "31070"]);
    let (in_a, in_b) = (bound(&a.ns, UDP, ANY4, 31070).expect("bind"), bound(&b.ns, UDP, ANY4, 31070).expect("bind"));
    assert_eq!((port(&in_a), port(&in_b)), (31070, 31070));
    asks(&in_b, &in_a, SocketAddr::new(HOST4, 31060), (Some(31070), 31060));
}
