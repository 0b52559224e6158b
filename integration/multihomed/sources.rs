//! Sources that the host takes from no wire but the one that its routes lead back by (`rp_filter`): containers hear whom the host's
//! own sockets hear.

use super::*;
use crate::lab::frame::{self, Mac};
use crate::lab::tap;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

/// Neighbours of each card, somebody behind each neighbour, somebody whom only a default route leads to, and who is refused.
const SOURCES: [&str; 7] =
    ["10.77.0.1", "10.77.0.99", "10.88.0.1", "10.88.0.99", "203.0.113.1", "192.0.2.9", "198.18.7.1"];
const BACK: &str = "route add 203.0.113.0/24 via 10.88.0.1 dev eth1\nroute add blackhole 198.18.7.0/24";
const HOSTS: u16 = 20_000;
const SENDERS: u16 = 9_000;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
const SETTLED: Duration = Duration::from_millis(60);
/// Of IPv4: one option of four, which do nothing.
const NOTHING: [u8; 4] = [1; 4];

/// A socket of the host, and one of a container.
struct Ears<'a> {
    two: &'a Two,
    ears: [(u16, UdpSocket); 2],
    cards: [(&'a Ns, Mac, Mac); 2],
}

impl Ears<'_> {
    fn of(two: &Two) -> Ears<'_> {
        let (host, a) = (&two.scene.host, &two.scene.a);
        let ears = [(&host.ns, HOSTS), (&a.ns, a.ports[0])].map(|(ns, port)| {
            let socket = ns.inside(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
                socket.join_multicast_v4(&GROUP, &Ipv4Addr::new(10, 77, 0, 2)).expect("join");
                socket
            });
            socket.set_nonblocking(true).expect("nonblocking");
            (port, socket)
        });
        let card = |device, neighbour| (neighbour, tap::mac_of(&host.ns, device), tap::mac_of(neighbour, "wire"));
        Ears { two, ears, cards: [card("eth0", &host.peer), card("eth1", &two.second)] }
    }

    /// What the host hears and what the container does, of everything by every card.
    fn hear(&self) -> [BTreeSet<String>; 2] {
        let mut said = Vec::new();
        for (card, (neighbour, to, from)) in self.cards.iter().enumerate() {
            for source in SOURCES.map(|text| text.parse::<Ipv4Addr>().unwrap()) {
                for (port, _) in &self.ears {
                    for (form, packets, marker) in forms(source, *port, card == 0) {
                        for packet in packets {
                            let to = if form == "a group" { [0x01, 0, 0x5e, 7, 7, 7] } else { *to };
                            let frame = frame::ethernet(to, *from, frame::IPV4, &packet);
                            tap::inject(neighbour, "wire", &frame);
                        }
                        said.push((marker, format!("{form} from {source} by eth{card}")));
                    }
                }
            }
        }
        std::thread::sleep(SETTLED);
        [0, 1].map(|who| {
            let mut heard = BTreeSet::new();
            let mut buffer = [0; 64];
            while let Ok(n) = self.ears[who].1.recv(&mut buffer) {
                heard.extend(said.iter().filter(|(marker, _)| buffer[..n] == *marker).map(|(_, what)| what.clone()));
            }
            heard
        })
    }

    /// Sets how sources are looked at, and has the data path follow.
    fn look(&self, modes: [&str; 3], what: &str) -> [BTreeSet<String>; 2] {
        let host = &self.two.scene.host;
        for (device, mode) in ["all", "eth0", "eth1"].iter().zip(modes) {
            host.ns.set_sysctl(&format!("ipv4/conf/{device}/rp_filter"), mode);
        }
        host.portslice(["sync"]).ok();
        let again = host.portslice(["sync"]).ok();
        assert_eq!(again.stdout.trim(), "nothing to do", "{what}, {modes:?}: {again}");
        self.hear()
    }
}

/// What a datagram comes as: the packets that it needs, and what it says.
type Form = (&'static str, Vec<Vec<u8>>, [u8; 16]);

/// A datagram in each form that it may come in. To a group only `by_uplink`: nobody has joined by the other one.
fn forms(from: Ipv4Addr, port: u16, by_uplink: bool) -> Vec<Form> {
    let host = Ipv4Addr::new(10, 77, 0, 2);
    let udp = |to: Ipv4Addr, marker: &[u8]| frame::udp((from.into(), SENDERS), (to.into(), port), marker);
    let (plain, options, parts, group) = (frame::marker(), frame::marker(), frame::marker(), frame::marker());
    let datagram = udp(host, &parts);
    let part = |fragment, payload: &[u8]| {
        let id = u16::from_be_bytes([parts[14], parts[15]]);
        frame::V4 { fragment, id, ..frame::V4::new(from, host, frame::UDP, payload) }.bytes()
    };
    let mut forms = vec![
        ("a datagram", vec![frame::V4::new(from, host, frame::UDP, &udp(host, &plain)).bytes()], plain),
        (
            "one with options",
            vec![
                frame::V4 { options: &NOTHING, ..frame::V4::new(from, host, frame::UDP, &udp(host, &options)) }.bytes(),
            ],
            options,
        ),
        ("fragments", vec![part(0x2000, &datagram[..16]), part(2, &datagram[16..])], parts),
    ];
    if by_uplink {
        forms.push(("a group", vec![frame::V4::new(from, GROUP, frame::UDP, &udp(GROUP, &group)).bytes()], group));
    }
    forms
}

/// All, then each card's own.
const MODES: [[&str; 3]; 8] = [
    ["0", "1", "0"],
    ["0", "0", "0"],
    ["0", "0", "1"],
    ["0", "1", "1"],
    ["0", "2", "2"],
    ["0", "1", "2"],
    ["1", "0", "0"],
    ["2", "1", "0"],
];

#[test]
fn a_container_hears_whom_the_host_hears() {
    for (what, routes) in [
        ("a default route", String::new()),
        ("none", "route del default".to_owned()),
        ("rules for sources", SOURCE_RULES.to_owned()),
    ] {
        let two = two("two-sources", format!("{BACK}\n{routes}").trim_end());
        let ears = Ears::of(&two);
        let mut refused = 0;
        for modes in MODES {
            let [host, container] = ears.look(modes, what);
            assert_eq!(host, container, "{what}, {modes:?}");
            assert!(host.contains("a datagram from 10.77.0.1 by eth0"), "{what}, {modes:?}: {host:?}");
            refused += usize::from(!host.contains("a datagram from 10.88.0.1 by eth0"));
        }
        assert!((1..MODES.len()).contains(&refused), "{what}: the modes that refuse a source");
        drop(ears);
        two.assert_second_network(what);
    }
}

/// Such a card takes only what its own routes lead back to, where others take what any route does.
#[test]
fn nor_does_it_hear_more_by_a_card_without_an_address() {
    for rules in ["", "\nrule add pref 100 from 198.51.100.77 lookup 100"] {
        let two = two("two-bare", &format!("addr del 10.88.0.2/24 dev eth1\nroute add 203.0.113.0/24 dev eth1{rules}"));
        let ears = Ears::of(&two);
        for modes in [["0", "0", "0"], ["0", "2", "2"], ["2", "0", "0"], ["0", "0", "1"]] {
            let [host, container] = ears.look(modes, "no address");
            assert_eq!(host, container, "{modes:?}{rules}");
            assert!(host.contains("a datagram from 203.0.113.1 by eth1"), "{modes:?}{rules}: {host:?}");
            let neighbour = host.contains("a datagram from 10.77.0.1 by eth1");
            assert_eq!(neighbour, modes == ["0", "0", "0"], "{modes:?}{rules}: {host:?}");
        }
    }
}

/// Where several next hops lead back, both cards are right, of whatever the kernel would choose.
#[test]
fn no_source_is_refused_that_the_host_takes_where_several_hops_lead_back() {
    let hops = "default nexthop via 10.77.0.1 dev eth0 nexthop via 10.88.0.1 dev eth1";
    for routes in [format!("route replace {hops}"), format!("rule add pref 100 lookup 100\nroute add table 100 {hops}")]
    {
        let two = two("two-hops", &routes);
        let ears = Ears::of(&two);
        for modes in [["0", "1", "1"], ["0", "2", "1"]] {
            let [host, container] = ears.look(modes, "several hops");
            assert!(host.contains("a datagram from 192.0.2.9 by eth0"), "{routes}, {modes:?}: {host:?}");
            assert!(host.contains("a datagram from 192.0.2.9 by eth1"), "{routes}, {modes:?}: {host:?}");
            let lacking: Vec<_> = host.difference(&container).collect();
            assert!(lacking.is_empty(), "{routes}, {modes:?}: the container does not hear {lacking:?}");
        }
    }
}
