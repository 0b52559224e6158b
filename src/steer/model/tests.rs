//! The rules of a conversation, one by one.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::memory::Tenant;
use super::packet::Frame;
use super::world::Path;
use super::{Count, Decision, Hook, Memory, Refusal, Told, Verdict, Why, World, decide};
use crate::net::link::Mac;
use crate::net::route::Kind;
use crate::steer::Holder;
use crate::steer::layout::{HostFacts, SlotEntry};

const MAC: Mac = [2, 0, 0, 0, 0, 9];
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const LO: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Slot 1 has 31000 and may reach the host's loopback, slot 2 has 31010.
fn world() -> World {
    let host = HostFacts { uplink: 2, mtu: 1500, mac: MAC, v4_broadcast: [10, 0, 0, 255], ..HostFacts::default() };
    let mut world = World { host, ..World::default() };
    world.addresses.insert(HOST.into(), Holder::Containers);
    for (slot, flags) in [(1, SlotEntry::HOST_LOOPBACK), (2, 0)] {
        world.slots.insert(slot, SlotEntry { ifindex: slot.into(), inner: 2, flags, epoch: 7 });
        world.devices.insert(slot, slot.into());
        world.steer(30_990 + slot * 10, slot);
    }
    world
}

/// An IPv4 packet. `field`: flags and offset of a fragment.
fn ip(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, field: u16, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len() as u16).to_be_bytes();
    let mut bytes = vec![0x45, 0, total[0], total[1], 0, 5];
    bytes.extend(field.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend([from.octets(), to.octets()].concat());
    let sum = bytes.chunks(2).fold(0, |sum, word| sum + u32::from(word[0]) * 256 + u32::from(word[1]));
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    ip(from.0, to.0, 17, 0, &ports(from.1, to.1))
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes(), [0, 8], [0, 0]].concat()
}

/// An ICMP error of a type and code about a packet.
fn error(from: Ipv4Addr, to: Ipv4Addr, [kind, code]: [u8; 2], about: &[u8]) -> Vec<u8> {
    ip(from, to, 1, 0, &[&[kind, code, 0, 0, 0, 0, 0, 0][..], about].concat())
}

fn echo(from: Ipv4Addr, to: Ipv4Addr, kind: u8, id: u16) -> Vec<u8> {
    ip(from, to, 1, 0, &[&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat())
}

struct Bench {
    world: World,
    memory: Memory,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { world: world(), memory: Memory::default(), now: Duration::from_secs(100) }
    }

    fn sees(&mut self, hook: Hook, packet: &[u8]) -> Decision {
        let bytes = [&MAC[..], &MAC, &[8, 0], packet].concat();
        let device = if let Hook::Container(slot) = hook { slot.into() } else { 2 };
        decide(&self.world, &mut self.memory, hook, &Frame { bytes: &bytes, device, ..Frame::default() }, self.now)
    }

    fn goes(&mut self, hook: Hook, packet: &[u8]) -> Verdict {
        self.sees(hook, packet).verdict
    }

    fn refuses(&mut self, slot: u16, packet: &[u8], refusal: Refusal) {
        let seen = self.sees(Hook::Container(slot), packet);
        assert_eq!((seen.verdict, seen.why), (Verdict::Drop, Why::Refused(refusal)));
        assert_eq!(seen.counts, [(slot, Count::Refused(refusal))], "a wall counts");
    }
}

const OUT: Verdict = Verdict::World { device: 2 };
const INTO_1: Verdict = Verdict::Container { slot: 1, limited: false };

#[test]
fn a_port_is_its_owners_at_the_hosts_address_alone() {
    let mut bench = Bench::new();
    assert_eq!(bench.goes(Hook::Wire, &udp((PEER, 9), (HOST, 31_000))), INTO_1);
    assert_eq!(bench.goes(Hook::Wire, &udp((PEER, 9), (HOST, 22))), Verdict::Stack);
    assert_eq!(bench.goes(Hook::Wire, &udp((PEER, 9), (PEER, 31_000))), Verdict::Stack, "it is forwarded");
    assert_eq!(bench.goes(Hook::Wire, &udp((HOST, 9), (HOST, 31_000))), Verdict::Drop, "the host itself, by the wire");
    assert_eq!(bench.goes(Hook::Wire, &udp((LO, 9), (HOST, 31_000))), Verdict::Drop);
    assert_eq!(bench.goes(Hook::HostLo, &udp((LO, 9), (LO, 31_000))), INTO_1);
    bench.world.devices.remove(&1);
    assert_eq!(bench.sees(Hook::Wire, &udp((PEER, 9), (HOST, 31_000))).why, Why::Ended);
}

#[test]
fn a_container_speaks_from_its_own_addresses_and_ports() {
    let mut bench = Bench::new();
    assert_eq!(bench.goes(Hook::Container(1), &udp((HOST, 31_000), (PEER, 9))), OUT);
    bench.refuses(1, &udp((HOST, 31_010), (PEER, 9)), Refusal::SourcePort);
    bench.refuses(1, &udp((PEER, 31_000), (PEER, 9)), Refusal::SourceAddress);
    bench.refuses(1, &udp((LO, 31_000), (PEER, 9)), Refusal::SourceAddress);
    assert_eq!(bench.goes(Hook::Container(1), &udp((HOST, 31_000), (LO, 22))), Verdict::Host);
    bench.refuses(2, &udp((HOST, 31_010), (LO, 22)), Refusal::HostLoopback);
    assert_eq!(
        bench.goes(Hook::Container(2), &udp((LO, 31_010), (LO, 31_000))),
        INTO_1,
        "another container's is not the host's"
    );
}

#[test]
fn an_error_is_about_a_packet_that_was_sent_to_the_container() {
    let mut bench = Bench::new();
    let about = udp((PEER, 9), (HOST, 31_000));
    assert_eq!(bench.goes(Hook::Container(1), &error(HOST, PEER, [3, 3], &about)), OUT);
    bench.refuses(2, &error(HOST, PEER, [3, 3], &about), Refusal::Icmp);
    let third = Ipv4Addr::new(198, 51, 100, 1);
    bench.refuses(1, &error(HOST, third, [3, 3], &about), Refusal::Icmp);
    let local = udp((HOST, 22), (HOST, 31_000));
    assert_eq!(bench.goes(Hook::Container(1), &error(HOST, HOST, [3, 3], &local)), Verdict::Host);
    bench.refuses(1, &error(HOST, HOST, [3, 4], &local), Refusal::Icmp);
    let sent = udp((HOST, 31_000), (third, 9));
    assert_eq!(bench.goes(Hook::Wire, &error(PEER, HOST, [3, 4], &sent)), INTO_1, "about what it sent");
}

#[test]
fn an_address_for_all_on_a_network_speaks_to_nobody_and_is_not_the_hosts_own() {
    let mut bench = Bench::new();
    let all = Ipv4Addr::new(10, 88, 0, 255);
    let of_all = udp((all, 9), (HOST, 31_000));
    assert_eq!(bench.goes(Hook::Wire, &of_all), INTO_1, "of a network that is not the host's");
    bench.world.addresses.insert(all.into(), Holder::Many { device: 9, mtu: 1500 });
    assert_eq!(bench.goes(Hook::Wire, &of_all), Verdict::Drop);
    assert!(!bench.world.is_local(all.into()));
}

#[test]
fn all_who_asked_get_the_answer_and_nobody_whose_question_did_not_go() {
    let mut bench = Bench::new();
    for slot in [1, 2] {
        assert_eq!(bench.goes(Hook::Container(slot), &echo(HOST, PEER, 8, 3)), OUT);
    }
    assert_eq!(bench.goes(Hook::Wire, &echo(PEER, HOST, 0, 3)), Verdict::Copies(vec![1, 2]));
    assert_eq!(bench.sees(Hook::Wire, &echo(PEER, HOST, 0, 4)).why, Why::NobodyAsked);
    bench.refuses(2, &echo(LO, LO, 8, 5), Refusal::HostLoopback);
    assert_eq!(bench.goes(Hook::HostLo, &echo(LO, LO, 0, 5)), Verdict::Stack, "the host's own ping");
    bench.now += Duration::from_secs(11);
    assert_eq!(bench.goes(Hook::Wire, &echo(PEER, HOST, 0, 3)), Verdict::Stack, "too late");
}

#[test]
fn later_fragments_follow_the_first_of_their_datagram() {
    const MORE: u16 = 0x2000;
    let mut bench = Bench::new();
    let first = |to| ip(PEER, HOST, 17, MORE, &ports(9, to));
    let later = ip(PEER, HOST, 17, 1, &[0; 8]);
    assert_eq!(bench.goes(Hook::Wire, &first(31_000)), INTO_1);
    assert_eq!(bench.goes(Hook::Wire, &later), INTO_1);
    assert_eq!(bench.goes(Hook::Wire, &first(22)), Verdict::Stack);
    assert_eq!(bench.goes(Hook::Wire, &later), Verdict::Stack, "no longer the older one's");
    assert_eq!(bench.goes(Hook::Wire, &first(31_000)), INTO_1);
    bench.world.slots.entry(1).and_modify(|slot| slot.epoch += 1);
    assert_eq!(bench.goes(Hook::Wire, &later), Verdict::Stack, "the slot has a new tenant");

    let mut bench = Bench::new();
    let first = |to, field| ip(HOST, to, 17, field, &ports(31_010, 22));
    let later = |to, field| ip(HOST, to, 17, field, &[0; 8]);
    bench.refuses(2, &later(PEER, 1), Refusal::Fragment);
    assert_eq!(bench.goes(Hook::Container(2), &first(PEER, MORE)), OUT);
    bench.refuses(2, &later(PEER, 2), Refusal::Fragment);
    assert_eq!(bench.goes(Hook::Container(2), &later(PEER, 1)), OUT);
    bench.refuses(2, &later(PEER, 2), Refusal::Fragment);
    bench.refuses(2, &first(LO, MORE), Refusal::HostLoopback);
    bench.refuses(2, &later(LO, 1), Refusal::Fragment);
}

#[test]
fn what_a_container_leaves_unfinished_is_limited() {
    let mut bench = Bench::new();
    let begins = |id: u8| {
        let mut packet = ip(HOST, PEER, 17, 0x2000, &ports(31_000, 9));
        packet[5] = id;
        packet
    };
    let went = (0..20).filter(|id| bench.goes(Hook::Container(1), &begins(*id)) == OUT).count();
    assert_eq!(went, super::memory::UNFINISHED);
    bench.now += Duration::from_secs(60);
    assert_eq!(bench.goes(Hook::Container(1), &begins(20)), OUT);
}

#[test]
fn what_is_for_others_leaves_the_containers_lo() {
    let mut bench = Bench::new();
    let lo = Hook::ContainerLo(2);
    assert_eq!(bench.sees(lo, &udp((LO, 5), (LO, 31_010))).why, Why::Port(31_010));
    assert_eq!(bench.goes(lo, &udp((LO, 5), (LO, 31_000))), Verdict::Out);
    assert_eq!(bench.goes(lo, &udp((LO, 5), (LO, 8_080))), Verdict::Stack, "its own stack refuses");
    assert_eq!(bench.goes(lo, &udp((HOST, 5), (HOST, 8_080))), Verdict::Out, "the host's address is no loopback");
    bench.world.listening.insert((2, 17, 31_000));
    assert_eq!(bench.sees(lo, &udp((LO, 5), (LO, 31_000))).why, Why::Listened);
}

#[test]
fn memory_tells_tenants_apart() {
    let mut memory = Memory::default();
    let (whom, now) = (IpAddr::from(PEER), Duration::from_secs(1));
    let [old, new] = [7, 8].map(|epoch| Tenant { slot: 1, epoch });
    memory.asked(old, whom, 1, now);
    memory.asked(new, whom, 1, now);
    assert_eq!(memory.askers(whom, 1, now), [new], "one answer a slot");
}

/// A host whose gateway is known, and routes beside: by device 3, and one that refuses.
fn multihomed() -> Bench {
    let mut bench = Bench::new();
    let host = &mut bench.world.host;
    host.v4 = [HOST.octets(), [10, 0, 0, 0], [255, 255, 255, 0], PEER.octets()];
    host.flags = HostFacts::NEXTHOP_V4 | HostFacts::BESIDE_V4;
    host.fib = 9;
    host.v4_beside = [[[0; 4], [0xff; 4]]; crate::steer::layout::BESIDE_V4];
    for (at, (first, kind)) in
        [(11, Kind::Unicast), (12, Kind::Prohibit), (13, Kind::Blackhole)].into_iter().enumerate()
    {
        host.v4_beside[at] = [[first, 0, 0, 0], [255, 0, 0, 0]];
        let network = (Ipv4Addr::new(first, 0, 0, 0).into(), 8);
        bench.world.paths.push(Path { network, kind, device: 3, mtu: 1000 });
    }
    bench
}

#[test]
fn the_hosts_routes_decide_by_which_device_a_packet_leaves() {
    let mut bench = multihomed();
    let to = |first| udp((HOST, 31_000), (Ipv4Addr::new(first, 0, 0, 9), 9));
    assert_eq!(bench.goes(Hook::Container(1), &to(9)), OUT, "by the gateway");
    assert_eq!(bench.goes(Hook::Container(1), &to(11)), Verdict::World { device: 3 });
    assert_eq!(bench.goes(Hook::Container(1), &to(12)), Verdict::Answered(Told::Prohibited));
    bench.refuses(1, &to(13), Refusal::Unreachable);
    bench.world.host.v4[3] = [0; 4];
    assert_eq!(bench.goes(Hook::Container(1), &to(9)), Verdict::Answered(Told::NoRoute), "no gateway");
    assert_eq!(bench.goes(Hook::Container(1), &udp((HOST, 31_000), (PEER, 9))), OUT, "a neighbour");
    bench.world.host.flags = 0;
    assert_eq!(
        bench.goes(Hook::Container(1), &to(9)),
        Verdict::Answered(Told::NoRoute),
        "no route of all that are asked"
    );
}

#[test]
fn what_is_too_large_for_its_way_is_told_so_and_errors_never() {
    let mut bench = multihomed();
    let to = Ipv4Addr::new(11, 0, 0, 9);
    let large = |to| ip(HOST, to, 17, 0, &[ports(31_000, 9), vec![0; 1200]].concat());
    assert_eq!(bench.goes(Hook::Container(1), &large(PEER)), OUT);
    assert_eq!(bench.goes(Hook::Container(1), &large(to)), Verdict::Answered(Told::TooBig(1000)));
    let about = [udp((to, 9), (HOST, 31_000)), vec![0; 1200]].concat();
    bench.refuses(1, &error(HOST, to, [3, 3], &about), Refusal::Oversize);
    bench.world.slots.entry(1).and_modify(|slot| slot.flags |= SlotEntry::SHAPED);
    assert_eq!(
        bench.goes(Hook::Container(1), &large(to)),
        Verdict::Shaper { to: 0 },
        "its way is looked up at its turn"
    );
}

#[test]
fn a_host_is_reached_by_each_of_its_devices() {
    let mut bench = Bench::new();
    let packet = udp((PEER, 9), (HOST, 31_000));
    assert_eq!(bench.goes(Hook::Tunnel, &packet), INTO_1);
    assert_eq!(bench.goes(Hook::Tunnel, &udp((HOST, 9), (HOST, 31_000))), Verdict::Drop);
    let other: Mac = [2, 0, 0, 0, 0, 3];
    bench.world.beside.insert(3, other);
    let mut seen = |mac: Mac| {
        let bytes = [&mac[..], &MAC, &[8, 0], &packet].concat();
        let frame = Frame { bytes: &bytes, device: 3, ..Frame::default() };
        decide(&bench.world, &mut bench.memory, Hook::Wire, &frame, bench.now)
    };
    assert_eq!(seen(other).verdict, INTO_1);
    assert_eq!(seen(MAC).why, Why::OtherFrame, "the uplink's is not its own");
}

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);

/// A container says in IGMP version 2 that it is in a group (0x16), or leaves it (0x17).
fn says(kind: u8, to: Ipv4Addr, group: Ipv4Addr) -> Vec<u8> {
    ip(HOST, to, 2, 0, &[&[kind, 0, 0, 0][..], &group.octets()].concat())
}

fn group(copies: &[u16], host: bool) -> Verdict {
    Verdict::Group { device: 2, copies: copies.to_vec(), host }
}

#[test]
fn who_has_joined_a_group_hears_it_wherever_its_sender_is() {
    let mut bench = Bench::new();
    let question = udp((PEER, 5353), (GROUP, 5353));
    assert_eq!(bench.sees(Hook::Wire, &question).why, Why::Elsewhere);
    assert_eq!(bench.goes(Hook::Container(1), &says(0x16, GROUP, GROUP)), group(&[], false));
    assert_eq!(bench.goes(Hook::Wire, &question), Verdict::Copies(vec![1]));
    assert_eq!(bench.goes(Hook::Container(2), &udp((HOST, 31_010), (GROUP, 5353))), group(&[1], false));
    let shared = udp((HOST, 5353), (GROUP, 5353));
    assert_eq!(bench.goes(Hook::Container(1), &shared), group(&[], false));
    bench.refuses(2, &shared, Refusal::SourcePort);
    bench.world.kept.insert(5353);
    bench.refuses(1, &shared, Refusal::SourcePort);
    assert_eq!(bench.goes(Hook::Container(1), &says(0x17, ROUTERS, GROUP)), group(&[], false));
    assert_eq!(bench.goes(Hook::Wire, &question), Verdict::Stack);
}

#[test]
fn a_report_is_for_its_group_and_ends_with_its_container() {
    let mut bench = Bench::new();
    bench.refuses(1, &says(0x16, ROUTERS, GROUP), Refusal::Neighbor);
    bench.refuses(1, &says(0x16, PEER, PEER), Refusal::Neighbor);
    bench.refuses(1, &says(0x11, GROUP, GROUP), Refusal::Neighbor);
    bench.goes(Hook::Container(1), &says(0x16, GROUP, GROUP));
    bench.world.slots.entry(1).and_modify(|slot| slot.epoch += 1);
    assert_eq!(bench.goes(Hook::Wire, &udp((PEER, 5353), (GROUP, 5353))), Verdict::Stack);
    for last in 0..100 {
        let other = Ipv4Addr::new(239, 0, 0, last);
        bench.goes(Hook::Container(1), &says(0x16, other, other));
    }
    let heard =
        |last: &u8| bench.goes(Hook::Wire, &udp((PEER, 9), (Ipv4Addr::new(239, 0, 0, *last), 9))) != Verdict::Stack;
    assert_eq!((0..100).filter(heard).count(), 31, "one more is that of all hosts");
}

#[test]
fn what_is_for_everybody_is_for_the_owner_of_its_port() {
    let mut bench = Bench::new();
    let all = Ipv4Addr::new(10, 0, 0, 255);
    for (from, to) in [(PEER, all), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST), (PEER, Ipv4Addr::new(224, 0, 0, 1))] {
        assert_eq!(bench.goes(Hook::Wire, &udp((from, 9), (to, 31_000))), Verdict::Copies(vec![1]), "{to}");
    }
    assert_eq!(bench.goes(Hook::Wire, &udp((PEER, 9), (all, 22))), Verdict::Stack);
    assert_eq!(bench.goes(Hook::Wire, &udp((HOST, 9), (all, 31_000))), Verdict::Stack, "the host itself, by the wire");
    assert_eq!(bench.goes(Hook::Container(2), &udp((HOST, 31_010), (all, 31_000))), group(&[1], true));
    assert_eq!(bench.goes(Hook::Container(1), &udp((HOST, 31_000), (all, 31_000))), group(&[], true), "not its own");
}
