//! Promise: what comes from the wire is answered and delivered, and what a container sends arrives, as on a plain host.
//!
//! Two hosts with one address get the same random packets. On one of them the programs of A, B and the host share the host's
//! network, on the other A and B are containers. What each sends back, what each of their sockets received, and which errors they
//! were told, is the same; differences that are meant are listed here, each with its reason. `PORTSLICE_SEED` repeats a run.

mod heard;
mod packets;
mod read;

use crate::lab::*;
use crate::model::ops::Random;
use heard::Side;
use packets::{Maker, Packet};
use std::collections::BTreeMap;
use std::time::Duration;

/// Packets that are sent one after the other before anybody looks.
const AT_ONCE: usize = 25;
const LATE: Duration = Duration::from_millis(500);
/// Of so many packets that may have different consequences, some have: of the rarest about one in a hundred.
const ENOUGH: u32 = 500;

/// Packets whose consequences may differ.
type Known = (&'static str, fn(&Packet) -> bool);
const DIFFERENT: [Known; 12] = [
    ("to a further address of the host a container speaks from that address", |packet| packet.is_to_further()),
    ("a raw packet larger than the link is cut: a container's own device takes larger ones", |packet| {
        packet.is_large()
    }),
    ("nobody is told what is wrong with a piece of a datagram", |packet| packet.is_faulty_piece()),
    ("nothing that comes from outside is from the host itself", |packet| packet.is_from("fd77::2")),
    ("nobody answers to the address of a whole network", |packet| packet.is_from("10.77.0.255")),
    ("nobody answers to ::", |packet| packet.is_from("::")),
    ("the first piece of an ICMP error need not tell whom it is about", |packet| packet.of_error),
    ("IPv4 written as IPv6 is nobody's address (RFC 4942 2.2)", |packet| packet.is_mapped()),
    ("a frame for many that holds a packet for one is the host's (RFC 1122 3.3.6)", |packet| {
        packet.has_many_macs() && !packet.is_to_many() && !packet.is_tcp()
    }),
    ("an ICMPv6 error that is sent to many is about nobody's packet", |packet| {
        packet.is_v6() && packet.is_to_many() && packet.is_icmp()
    }),
    ("nobody answers from the address of a group", |packet| packet.is_v6() && packet.is_to_many() && packet.is_tcp()),
    ("of a datagram for everybody in pieces, the first one alone tells whose it is", |packet| {
        packet.is_to_many() && packet.is_piece()
    }),
];

#[test]
fn packets_come_and_go_as_on_a_plain_host() {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = std::env::var("PORTSLICE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
    let wanted = if long() { 20_000 } else { 3_000 };
    println!("beside: PORTSLICE_SEED={seed}, {wanted} packets");
    let plain = Host::with("beside-plain").secondary("10.77.0.3/24").unprepared().build();
    let host = Host::with("beside").secondary("10.77.0.3/24").build();
    let containers = [("a", packets::A), ("b", packets::B)]
        .map(|(id, ports)| host.bare(id, &["--ports", &format!("{}-{}", ports, ports + 9)]));
    let mut sides = [
        Side::new(&plain, [&plain.ns, &plain.ns, &plain.ns]),
        Side::new(&host, [&containers[0].ns, &containers[1].ns, &host.ns]),
    ];
    let (mut maker, mut sent, mut known) = (Maker::new(Random::new(seed)), 0, BTreeMap::new());
    while sent < wanted {
        let mut together = Vec::new();
        while together.len() < AT_ONCE {
            let packets = if maker.departs() { vec![maker.departure()] } else { maker.conversation() };
            for packet in packets {
                sent += 1;
                match DIFFERENT.iter().find(|(_, is)| is(&packet)) {
                    None => together.push(packet),
                    Some((reason, _)) => {
                        let [one, other] = sides.each_mut().map(|side| side.hears(std::slice::from_ref(&packet)));
                        let (different, all) = known.entry(*reason).or_insert((0, 0));
                        (*different, *all) = (*different + u32::from(one != other), *all + 1);
                    }
                }
            }
        }
        let [mut one, mut other] = sides.each_mut().map(|side| side.hears(&together));
        if one != other {
            // on a busy machine something may be late
            std::thread::sleep(LATE);
            for (side, heard) in sides.iter_mut().zip([&mut one, &mut other]) {
                heard.extend(side.hears(&[]));
                heard.sort();
            }
        }
        if one != other {
            let only = |a: &[String], b: &[String]| heard::without(a, b).join("\n  ");
            let list: Vec<String> = together.iter().map(ToString::to_string).collect();
            panic!(
                "PORTSLICE_SEED={seed}: of\n{}\na plain host alone has\n  {}\nand this one\n  {}",
                list.join("\n"),
                only(&one, &other),
                only(&other, &one)
            );
        }
    }
    println!("beside: {sent} packets; of those that may differ, how many did: {known:?}");
    for (reason, (different, all)) in known {
        assert!(different > 0 || all < ENOUGH, "of {all} packets none differs any more because {reason}");
    }
}
