//! An episode: packets that follow each other through one host. As text, a line each, it is a case that is kept.

use portslice::steer::model::Hook;
use portslice::steer::model::packet::{Frame, Segments};
use std::fmt;

/// The slots that a host has here.
pub const SLOTS: [u16; 6] = [1, 2, 3, 4, 5, 6];

/// One packet at one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Where.
    pub hook: Hook,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// The VLAN tag that its device took off.
    pub vlan: Option<u16>,
    /// Its mark.
    pub mark: u32,
    /// For one that is to be cut.
    pub segments: Option<Segments>,
    /// Does it come in by a device that is not the slot's, or not the uplink?
    pub strange: bool,
}

impl Sample {
    /// As the model takes it.
    pub fn frame(&self, device: u32) -> Frame<'_> {
        Frame { bytes: &self.bytes, vlan: self.vlan, device, mark: self.mark, segments: self.segments }
    }
}

/// Packets, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Episode {
    /// Which of the hosts of `places`.
    pub place: usize,
    /// Flags of the slots.
    pub flags: [u32; SLOTS.len()],
    /// The packets.
    pub samples: Vec<Sample>,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, slot) = match self.hook {
            Hook::Wire => ("wire", 0),
            Hook::Tunnel => ("tunnel", 0),
            Hook::HostLo => ("lo", 0),
            Hook::Container(slot) => ("container", slot),
            Hook::Shaper => ("shaper", 0),
            Hook::ContainerLo(slot) => ("inner-lo", slot),
            Hook::ContainerDevice => ("inner-eth", 0),
        };
        let vlan = self.vlan.map_or("-".into(), |tag| tag.to_string());
        let (size, count) = self.segments.map_or((0, 0), |segments| (segments.size, segments.count));
        write!(f, "{name} {slot} {vlan} {} {size} {count} {} ", self.mark, self.strange)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.flags.map(|flags| flags.to_string()).join(" ");
        writeln!(f, "episode {} {flags}", self.place)?;
        self.samples.iter().try_for_each(|sample| writeln!(f, "{sample}"))
    }
}

/// All cases of a text. Lines that begin with # are for people.
pub fn parse(text: &str) -> Vec<Episode> {
    let mut episodes: Vec<Episode> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().unwrap_or_else(|e| panic!("{line}: word {at}: {e}"));
        if words[0] == "episode" {
            let flags = std::array::from_fn(|slot| number(2 + slot));
            episodes.push(Episode { place: number(1) as usize, flags, samples: Vec::new() });
            continue;
        }
        let slot = number(1) as u16;
        let hook = match words[0] {
            "wire" => Hook::Wire,
            "lo" => Hook::HostLo,
            "container" => Hook::Container(slot),
            "shaper" => Hook::Shaper,
            "inner-lo" => Hook::ContainerLo(slot),
            "inner-eth" => Hook::ContainerDevice,
            other => panic!("{line}: no hook {other}"),
        };
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let sample = Sample {
            hook,
            bytes: words[7].as_bytes().chunks(2).map(byte).collect(),
            vlan: words[2].parse().ok(),
            mark: number(3),
            segments: (number(4) > 0).then(|| Segments { size: number(4) as u16, count: number(5) as u16 }),
            strange: words[6] == "true",
        };
        episodes.last_mut().expect("an episode first").samples.push(sample);
    }
    episodes
}
