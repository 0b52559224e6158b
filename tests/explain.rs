//! What `portslice explain` says of packets: its text, from maps made here.

use portslice::explain::question::Question;
use portslice::explain::{Names, explain};
use portslice::net::link::Sources;
use portslice::net::route::Kind;
use portslice::steer::Holder;
use portslice::steer::model::World;
use portslice::steer::model::world::{Path, Port};
use portslice::steer::{HostFacts, SlotEntry};

/// A host 10.0.0.2 with two containers: `web` has 31000-31009 and may reach the host's loopback, `job` has 31010-31019, an egress
/// limit, and may not. `web` has claimed the TCP port 8080.
fn host() -> (World, Names) {
    let host = HostFacts { uplink: 2, mtu: 1500, mac: [2, 0, 0, 0, 0, 9], ..HostFacts::default() };
    let mut world = World { host, ..World::default() };
    world.host.v4 = [[10, 0, 0, 2], [10, 0, 0, 0], [255, 255, 255, 0], [10, 0, 0, 1]];
    world.host.flags = HostFacts::NEXTHOP_V4;
    world.addresses.insert("10.0.0.2".parse().unwrap(), Holder::Containers);
    for (slot, flags) in [(1, SlotEntry::HOST_LOOPBACK), (2, SlotEntry::SHAPED)] {
        let ifindex = 10 + u32::from(slot);
        world.slots.insert(slot, SlotEntry { ifindex, inner: 2, flags, epoch: 1 });
        world.devices.insert(slot, ifindex);
        let own = (31_000 + (slot - 1) * 10..31_000 + slot * 10).flat_map(of_both);
        world.ports.extend(own.map(|port| (port, slot)));
    }
    let names = Names {
        host: [(2, "eth0".into()), (3, "eth1".into()), (4, "wg0".into())].into(),
        bare: [4].into(),
        leases: [(1, "web".into()), (2, "job".into())].into(),
        devices: [(1, "portslice1".into()), (2, "portslice2".into())].into(),
        claims: [(8080, false)].into(),
    };
    world.ports.insert(Port { number: 8080, udp: false }, 1);
    (world, names)
}

fn of_both(number: u16) -> [Port; 2] {
    [false, true].map(|udp| Port { number, udp })
}

fn said(packet: &str, from: Option<u16>) -> String {
    let (world, names) = host();
    explain(&world, &names, &packet.parse().unwrap(), from).unwrap().to_string()
}

#[test]
fn a_packet_from_outside_goes_to_whoever_has_its_port() {
    assert_eq!(
        said("tcp 10.0.0.5:1234 > :31005", None),
        "tcp 10.0.0.5:1234 > 10.0.0.2:31005, from the wire\n  \
         from_wire on eth0: into web: port 31005 is its own\n    \
         web: net_rx_packets +1\n    \
         web: net_rx_bytes +54\n"
    );
    assert_eq!(
        said("udp > :53", None),
        "udp 192.0.2.1:50000 > 10.0.0.2:53, from the wire\n  \
         from_wire on eth0: to the host's own stack: port 53 is no container's\n"
    );
}

#[test]
fn a_source_that_nothing_leads_back_to_is_refused_where_the_host_looks() {
    let (mut world, names) = host();
    (world.host.fib, world.host.flags) = (9, (Sources::Reachable as u32) << HostFacts::SOURCES);
    let packet = "tcp 198.51.100.1:1234 > :31005".parse().unwrap();
    let refused = explain(&world, &names, &packet, None).unwrap().to_string();
    assert!(refused.contains("from_wire on eth0: dropped: the host's rp_filter refuses"), "{refused}");
    let network = ("198.51.100.0".parse().unwrap(), 24);
    world.beside.insert(3, [2, 0, 0, 0, 0, 8]);
    world.paths.push(Path { network, kind: Kind::Unicast, device: 3, mtu: 1500 });
    let taken = explain(&world, &names, &packet, None).unwrap().to_string();
    assert!(taken.contains("from_wire on eth1: into web"), "{taken}");
}

#[test]
fn what_is_for_all_on_another_network_is_for_its_ports_owner() {
    let (mut world, names) = host();
    world.addresses.insert("10.1.0.255".parse().unwrap(), Holder::Many { device: 3, mtu: 1500 });
    world.beside.insert(3, [2, 0, 0, 0, 0, 8]);
    let network = ("10.1.0.0".parse().unwrap(), 24);
    world.paths.push(Path { network, kind: Kind::Unicast, device: 3, mtu: 1500 });
    let packet = "udp 10.1.0.7:9 > 10.1.0.255:31005".parse().unwrap();
    let said = explain(&world, &names, &packet, None).unwrap().to_string();
    assert!(said.contains("from_wire on eth1: a copy to each of web, and to the host's own stack"), "{said}");
}

#[test]
fn a_port_that_was_claimed_is_told_from_one_that_is_leased() {
    assert!(said("tcp 10.0.0.5:1234 > :8080", None).contains("into web: its sockets have claimed port 8080\n"));
    assert!(said("udp 10.0.0.5:1234 > :8080", None).contains("to the host's own stack: port 8080 is no container's\n"));
}

#[test]
fn a_container_is_followed_through_all_programs() {
    assert_eq!(
        said("tcp > 127.0.0.1:31012", Some(1)),
        "tcp 127.0.0.1:31009 > 127.0.0.1:31012, from web\n  \
         inner_lo on lo of web: leaves the container\n  \
         from_container on portslice1: into job: port 31012 is its own\n    \
         web: net_tx_packets +1\n    \
         web: net_tx_bytes +54\n    \
         job: net_rx_packets +1\n    \
         job: net_rx_bytes +54\n"
    );
    assert_eq!(
        said("udp > 198.51.100.1:53", Some(2)),
        "udp 10.0.0.2:31019 > 198.51.100.1:53, from job\n  \
         from_container on portslice2: waits for its turn behind the egress limit\n  \
         after_shaper on the far end of portslice-limit: out of eth0, by the host's routes\n    \
         job: net_tx_packets +1\n    \
         job: net_tx_bytes +42\n"
    );
}

#[test]
fn walls_say_their_counter() {
    assert_eq!(
        said("udp :31000 > 198.51.100.1:53", Some(2)),
        "udp 10.0.0.2:31000 > 198.51.100.1:53, from job\n  \
         from_container on portslice2: dropped: its source port is not the container's\n    \
         job: net_dropped_reasons.source_port +1\n"
    );
    let kept = said("tcp > 127.0.0.1:22", Some(2));
    assert!(kept.contains("inner_lo on lo of job: stays in the container"), "{kept}");
}

#[test]
fn what_no_program_sees_is_said_so() {
    assert!(said("tcp 10.0.0.2:5 > 198.51.100.1:80", None).contains("no program looks at it"));
}

#[test]
fn what_is_no_packet_is_refused_by_name() {
    for (text, why) in [
        ("tcp 10.0.0.5", "write PROTOCOL"),
        ("gre > :5", "gre is none of tcp, udp, sctp"),
        ("tcp > 10.0.0.2", "which port"),
        ("icmp > 10.0.0.2:5", "no ports"),
        ("tcp 10.0.0.5:99999 > :5", "10.0.0.5:99999 is no ADDRESS:PORT"),
    ] {
        let error = text.parse::<Question>().unwrap_err();
        assert!(error.to_string().contains(why) && error.exit_code() == 2, "{text}: {error}");
    }
    let (world, names) = host();
    let mixed = "tcp [::1]:5 > 10.0.0.2:6".parse().unwrap();
    assert!(explain(&world, &names, &mixed, None).unwrap_err().to_string().contains("two families"));
    let (mut only_v6, names) = (world.clone(), names);
    only_v6.host.v4 = [[0; 4]; 4];
    only_v6.host.v6[0] = "fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let out = explain(&only_v6, &names, &Question::to_outside(&only_v6, 443), Some(1)).unwrap().to_string();
    assert!(out.starts_with("tcp [fd00::2]:31009 > [2001:db8::1]:443, from web\n"), "{out}");
    let missing = "tcp > [::1]:6".parse::<Question>().unwrap();
    assert!(explain(&world, &names, &missing, None).unwrap().to_string().contains("[::1]:50000 > [::1]:6"));
}

#[test]
fn on_a_host_with_several_devices_it_says_by_which_one() {
    let (mut world, names) = host();
    world.host.fib = 9;
    world.host.flags = 0;
    world.beside.insert(3, [2, 0, 0, 0, 0, 3]);
    for (network, kind, device, mtu) in
        [("10.8.0.0", Kind::Unicast, 3, 1500), ("10.9.0.0", Kind::Unicast, 4, 30), ("10.66.0.0", Kind::Prohibit, 0, 0)]
    {
        world.paths.push(Path { network: (network.parse().unwrap(), 16), kind, device, mtu });
    }
    let said = |packet: &str, from| explain(&world, &names, &packet.parse().unwrap(), from).unwrap().to_string();
    let out = said("udp > 10.8.0.1:53", Some(1));
    assert!(out.contains("from_container on portslice1: out of eth1, by the host's routes\n"), "{out}");
    let out = said("udp > 10.66.0.1:53", Some(1));
    assert!(
        out.contains("the sender is told that it is prohibited: no route leads there, or one that refuses\n"),
        "{out}"
    );
    assert!(
        out.ends_with(
            "web: net_dropped_reasons.unreachable +1\n    web: net_rx_packets +1\n    web: net_rx_bytes +82\n"
        ),
        "{out}"
    );
    let out = said("tcp > 10.9.0.1:80", Some(1));
    assert!(out.contains("told to send at most 30 bytes: it is larger than the way takes\n"), "{out}");
    let out = said("udp > 10.77.0.1:53", Some(1));
    assert!(out.contains("the sender is told that there is no route"), "{out}");
    let into = said("tcp 10.8.0.1:5 > :31005", None);
    assert!(into.contains("from_wire on eth1: into web"), "{into}");
    let into = said("tcp 10.9.0.1:5 > :31005", None);
    assert!(into.contains("from_tunnel on wg0: into web"), "{into}");
}
