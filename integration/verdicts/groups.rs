//! What is sent to many, and what is said about it: groups, and reports of them, honest and not.

use crate::model::ops::Random;
use std::net::IpAddr;

const V4: [&str; 11] = [
    "224.0.0.251",
    "224.0.0.251",
    "224.0.0.251",
    "224.0.0.251",
    "224.0.0.251",
    "239.250.1.2",
    "239.250.1.3",
    "224.0.0.1",
    "224.0.0.22",
    "10.77.0.255",
    "255.255.255.255",
];
const V6: [&str; 11] = [
    "ff02::fb",
    "ff02::fb",
    "ff02::fb",
    "ff02::fb",
    "ff02::fb",
    "ff05::1:3",
    "ff15::77",
    "ff02::1",
    "ff01::5",
    "ff02::1:ff00:2",
    "ff02::16",
];
/// Ports that members of a group may share, and some that they may not: kept for somebody, a privileged one, a container's.
const SHARED: [u16; 7] = [5353, 5353, 5353, 1900, 31_905, 520, 31_012];

/// A group, or everybody.
pub fn many(random: &mut Random, v6: bool) -> IpAddr {
    random.pick(if v6 { &V6 } else { &V4 }).parse().unwrap()
}

/// A port that all members talk from and listen at.
pub fn shared_port(random: &mut Random) -> u16 {
    random.pick(&SHARED)
}

/// The MAC of a group, or everybody's.
pub fn mac(to: IpAddr) -> [u8; 6] {
    match to {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) => [0xff; 6],
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// A report, or a question, and to whom it goes.
pub fn report(random: &mut Random, v6: bool) -> (IpAddr, Vec<u8>) {
    let group = named(random, v6);
    let ([report, leave, listing, question], [to_leave, to_list, all]) = if v6 {
        ([131, 132, 143, 130], ["ff02::2", "ff02::16", "ff02::1"])
    } else {
        ([random.pick(&[0x12, 0x16]), 0x17, 0x22, 0x11], ["224.0.0.2", "224.0.0.22", "224.0.0.1"])
    };
    let (kind, to): (u8, IpAddr) = match random.below(10) {
        0..2 => (report, group),
        2 => (leave, to_leave.parse().unwrap()),
        3..9 => (listing, to_list.parse().unwrap()),
        _ => (question, all.parse().unwrap()),
    };
    let message = if kind == listing {
        records(random, kind, v6)
    } else if v6 {
        [&[kind, 0, 0x12, 0x34, 0, 0, 0, 0][..], &octets(group)].concat()
    } else {
        [&[kind, 0, 0x12, 0x34][..], &octets(group)].concat()
    };
    let elsewhere = random.below(100) < 8;
    (if elsewhere { many(random, v6) } else { to }, message)
}

fn records(random: &mut Random, kind: u8, v6: bool) -> Vec<u8> {
    let count = random.pick(&[1, 1, 1, 2, 3, 40]);
    let said = if random.below(100) < 5 { random.pick(&[0, 1, 9, 0xffff]) } else { count };
    let mut message = [&[kind, 0, 0x12, 0x34, 0, 0][..], &u16::to_be_bytes(said)].concat();
    for _ in 0..count {
        let (sources, words) = (random.pick(&[0, 0, 0, 0, 1, 3]), random.pick(&[0, 0, 0, 0, 0, 1]));
        let about = named(random, v6);
        message.extend([random.pick(&[4, 4, 4, 4, 3, 3, 1, 2, 5, 6, 7, 0]), words, 0, sources]);
        message.extend(octets(about));
        message.resize(message.len() + usize::from(sources) * octets(about).len() + usize::from(words) * 4, 9);
    }
    message
}

/// A group that a report may name: one of few, of more than a container may be in, or none at all.
fn named(random: &mut Random, v6: bool) -> IpAddr {
    let last = random.below(44);
    let text = match (random.below(100), v6) {
        (0..70, _) => return many(random, v6),
        (70..95, false) => format!("239.250.2.{last}"),
        (70..95, true) => format!("ff15::2:{last:x}"),
        (_, false) => "10.77.0.1".into(),
        (_, true) => random.pick(&["::ffff:224.0.0.251", "fd77::1"]).into(),
    };
    text.parse().unwrap()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
