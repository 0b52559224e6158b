//! Marks that programs inside set on their packets choose no way: the host's rules by mark are for the host's own packets.

use super::*;
use crate::lab::sock;
use crate::lab::wait::eventually;

const MARK: u32 = 51_820;
/// What has the mark leaves by the second card.
const MARK_RULES: &str = "rule add fwmark 51820 lookup 88\nroute add default via 10.88.0.1 dev eth1 table 88\n\
     -6 rule add fwmark 51820 lookup 88\n-6 route add default via fd88::1 dev eth1 table 88";
/// Datagrams that are sent at a time.
const SENT: u64 = 5;

/// Sends datagrams from the uplink's address to one that both networks lead to, and returns how many left by the uplink and how
/// many by the second card.
#[track_caller]
fn ways(two: &Two, from: &Ns, mark: u32, far: IpAddr) -> [u64; 2] {
    let own = if far.is_ipv4() { HOST4 } else { HOST6 };
    let to = SocketAddr::new(far, 4001);
    let echoes = [&two.scene.host.peer, &two.second].map(|ns| Echo::start(ns, Proto::Udp, to));
    let _socket = from.inside(|| {
        let socket = probe::open(Proto::Udp, far).expect("socket");
        sock::set(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark).expect("SO_MARK");
        sock::bind(&socket, SocketAddr::new(own, 0)).expect("bind");
        for _ in 0..SENT {
            sock::send_to(&socket, b"marked", to).expect("send");
        }
        socket
    });
    let served = || echoes.each_ref().map(Echo::served);
    let all = eventually(|| served().iter().sum::<u64>() >= SENT);
    assert!(all, "from {} to {far}, mark {mark}: only {:?} came by the two cards", from.name, served());
    served()
}

#[test]
fn a_mark_of_a_program_inside_chooses_no_way() {
    let two = two("two-marks", MARK_RULES);
    two.second.ip("addr add 198.51.100.1/32 dev lo\naddr add 2001:db8:99::1/128 dev lo nodad");
    let host = &two.scene.host;
    // The first limit is kept inside; the second is so low that the host keeps it.
    let limited = ["50mbit", "5mbit"].map(|rate| {
        let limits = ["--egress-rate", rate, "--ingress-rate", rate];
        host.bare(&format!("limit-{rate}"), &limits)
    });
    for far in [FAR4, FAR6] {
        assert_eq!(ways(&two, &host.ns, 0, far), [SENT, 0], "the host to {far}, without the mark");
        assert_eq!(ways(&two, &host.ns, MARK, far), [0, SENT], "the host to {far}, with the mark");
        for container in [&two.scene.a].into_iter().chain(&limited) {
            for mark in [0, MARK] {
                let took = ways(&two, &container.ns, mark, far);
                assert_eq!(took, [SENT, 0], "{} to {far}, with mark {mark}", container.id);
            }
        }
    }
}
