//! Promise: the loaded programs decide what the model in Rust decides, for every packet.
//!
//! Packets of every structure (tags, options, extension headers, fragments, ICMP quoting anything, truncations, lies in lengths,
//! bad checksums) go through both, one after the other, so that what each remembers counts. `PORTSLICE_SEED` repeats a run. A
//! difference is cut down to the packets it needs and printed in the form of `verdicts/cases.txt`, where it is kept.
//!
//! `from_tunnel` is not among the programs: in such a run every packet has an Ethernet header. It shares all that it decides with
//! `from_wire`, and `multihomed::tunnel` sends packets through it.

mod answer;
mod case;
mod compare;
mod generate;
mod groups;
mod machine;
mod places;

use crate::lab::long;
use case::Episode;
use compare::differs;
use machine::Machine;
use std::collections::BTreeMap;
use std::time::Instant;

/// Kinds of decisions that there are (`Verdict`).
const DECISIONS: usize = 11;
/// Kinds of differences that end a run.
const ENOUGH: usize = 12;

#[test]
fn random_packets_are_decided_alike() {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = std::env::var("PORTSLICE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
    let wanted = if long() { 1_000_000 } else { 50_000 };
    println!("verdicts: PORTSLICE_SEED={seed}, {wanted} packets");
    crate::kernel::loaded(move |directory| {
        let mut machine = Machine::new(&directory);
        let mut generator = generate::Generator::new(seed);
        let (begun, mut packets, mut found) = (Instant::now(), 0, BTreeMap::new());
        while packets < wanted && found.len() < ENOUGH {
            let episode = generator.episode();
            packets += episode.samples.len();
            if let Some(difference) = differs(&mut machine, &episode)
                && !found.contains_key(&difference.kind)
            {
                found.insert(difference.kind, reduced(&mut machine, episode));
            }
        }
        for (case, text) in found.values() {
            println!("{text}\n{case}");
        }
        println!("verdicts: {packets} packets in {:?}", begun.elapsed());
        assert_eq!(machine.decided.len(), DECISIONS, "kinds of decisions that the packets met");
        assert!(found.is_empty(), "PORTSLICE_SEED={seed}: {} kinds of packets are decided differently", found.len());
    });
}

#[test]
fn packets_that_were_decided_differently_once_are_decided_alike() {
    crate::kernel::loaded(|directory| {
        let mut machine = Machine::new(&directory);
        let cases = case::parse(include_str!("verdicts/cases.txt"));
        assert!(!cases.is_empty());
        for case in cases {
            if let Some(difference) = differs(&mut machine, &case) {
                panic!("packet {}: {}\n{case}", difference.at, difference.text);
            }
        }
    });
}

/// An episode without the packets that the last difference does not need.
fn reduced(machine: &mut Machine, mut episode: Episode) -> (Episode, String) {
    let mut text = String::from("not seen again");
    if let Some(difference) = differs(machine, &episode) {
        episode.samples.truncate(difference.at + 1);
        text = difference.text;
    }
    let mut at = episode.samples.len().saturating_sub(1);
    while at > 0 {
        at -= 1;
        let mut shorter = episode.clone();
        shorter.samples.remove(at);
        if let Some(difference) = differs(machine, &shorter) {
            text = difference.text;
            shorter.samples.truncate(difference.at + 1);
            at = at.min(shorter.samples.len());
            episode = shorter;
        }
    }
    (episode, text)
}
