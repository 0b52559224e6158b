//! The index: what a decision needs to know of all leases, in 40 bytes each, and its text.
//!
//! What does not live here: locking, files, and the leases themselves ([`super::ledger`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::Lease;
use crate::ports::PortSet;
use crate::ports::{Block, BlockSize};
use crate::request::ContainerId;

/// First line of the index: name and version of the format.
const HEADER: &str = "portslice-index 1";

/// What the index knows of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub id: ContainerId,
    /// Its slot.
    pub slot: u16,
    /// Its block.
    pub block: Block,
    /// Its assigned ports.
    pub ports: PortSet,
}

impl Entry {
    /// What the index shall know of a lease.
    pub fn of(lease: &Lease) -> Self {
        Entry { id: lease.id.clone(), slot: lease.slot, block: lease.block, ports: lease.listening() }
    }
}

/// A block that somebody had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The block.
    pub block: Block,
    /// Whose it was: it comes back to the same container.
    pub id: ContainerId,
    /// Unix time at which it became free, in seconds.
    pub freed: u64,
}

/// What a decision needs to know, and what it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Leases in force, by slot.
    pub entries: BTreeMap<u16, Entry>,
    /// Blocks that rest, by first port.
    pub past: BTreeMap<u16, Past>,
    /// Where the search for the next block begins.
    pub cursor: u16,
    /// The slot given out last.
    pub last_slot: u16,
    /// The epoch given out last.
    pub epoch: u32,
}

/// The index as text: one line for each lease (`L slot begin size ports id`) and each resting block
/// (`P begin size freed id`). A change touches its own lines; writing and parsing a thousand of them anew would take
/// half a millisecond under the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines(String);

impl Lines {
    pub(super) fn of(index: &Index) -> Self {
        let mut lines = Self::default();
        index.entries.values().for_each(|e| lines.add(e));
        index.past.values().for_each(|p| lines.rest(p));
        lines
    }

    pub(super) fn add(&mut self, e: &Entry) {
        let ports = if e.ports.is_empty() { "-".to_owned() } else { e.ports.to_string() };
        self.0.push_str(&format!("L {} {} {} {ports} {}\n", e.slot, e.block.begin(), e.block.size().get(), e.id));
    }

    pub(super) fn rest(&mut self, p: &Past) {
        self.0.push_str(&format!("P {} {} {} {}\n", p.block.begin(), p.block.size().get(), p.freed, p.id));
    }

    /// The whole file.
    pub(super) fn with_head(&self, index: &Index) -> String {
        format!("{HEADER} {} {} {}\n{}", index.cursor, index.last_slot, index.epoch, self.0)
    }

    /// Removes the line that begins with `start`, which ends in a blank.
    pub(super) fn remove(&mut self, start: &str) {
        let begin =
            if self.0.starts_with(start) { Some(0) } else { self.0.find(&format!("\n{start}")).map(|at| at + 1) };
        if let Some(begin) = begin {
            let end = self.0[begin..].find('\n').map_or(self.0.len(), |at| begin + at + 1);
            self.0.replace_range(begin..end, "");
        }
    }
}

/// Reads the words of one line.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn word(&mut self) -> Option<&'a str> {
        let bytes = self.0.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        let end = bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len());
        let word = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or("");
        Some(word)
    }

    fn number(&mut self) -> Option<u64> {
        let digits = self.word()?.as_bytes();
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        digits.iter().try_fold(0u64, |n, d| d.is_ascii_digit().then(|| 10 * n + u64::from(d - b'0')))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        self.number()?.try_into().ok()
    }

    fn block(&mut self) -> Option<Block> {
        let begin = self.small()?;
        Block::new(begin, BlockSize::new(self.small()?)?)
    }
}

impl Index {
    /// The entry of a container.
    pub fn find(&self, id: &ContainerId) -> Option<&Entry> {
        self.entries.values().find(|e| e.id == *id)
    }

    /// Ports of all blocks and assigned ports in force.
    pub fn taken(&self) -> PortSet {
        let ranges = self.entries.values().flat_map(|e| e.ports.ranges().iter().copied().chain([e.block.range()]));
        PortSet::from_iter(ranges)
    }

    /// The block a container had last, if nobody else had it since.
    pub fn last_block(&self, id: &ContainerId, size: BlockSize) -> Option<Block> {
        self.past.values().find(|p| p.id == *id && p.block.size() == size).map(|p| p.block)
    }

    /// Blocks that became free less than `cooldown` before `now`.
    pub fn resting(&self, cooldown: Duration, now: u64) -> PortSet {
        let young = |p: &&Past| now.saturating_sub(p.freed) < cooldown.as_secs();
        PortSet::from_iter(self.past.values().filter(young).map(|p| p.block.range()))
    }

    /// The slot after the one given out last that nobody has: a freed slot rests as long as possible, because its
    /// device may outlive its lease for a moment.
    pub fn free_slot(&self, slots: u16) -> Option<u16> {
        let after = (self.last_slot + 1..slots).chain(1..=self.last_slot.min(slots - 1));
        after.into_iter().find(|slot| !self.entries.contains_key(slot))
    }

    /// `None` when the text is not what [`Locked::save`] wrote.
    pub(super) fn parse(text: &str) -> Option<(Self, Lines)> {
        // the last line must be whole
        if !text.ends_with('\n') {
            return None;
        }
        let (head, lines) = text.split_once('\n')?;
        let mut head = Words(head.strip_prefix(HEADER)?.strip_prefix(' ')?);
        let mut index =
            Index { cursor: head.small()?, last_slot: head.small()?, epoch: head.small()?, ..Index::default() };
        let mut entries = Vec::new();
        for line in lines.lines() {
            let mut words = Words(line);
            match words.word()? {
                "L" => {
                    let (slot, block) = (words.small()?, words.block()?);
                    let ports = match words.word()? {
                        "-" => PortSet::empty(),
                        set => set.parse().ok()?,
                    };
                    let id = words.word()?.parse().ok()?;
                    entries.push((slot, Entry { id, slot, block, ports }));
                }
                "P" => {
                    let (block, freed) = (words.block()?, words.number()?);
                    let id = words.word()?.parse().ok()?;
                    index.past.insert(block.begin(), Past { block, id, freed });
                }
                _ => return None,
            }
        }
        index.entries = entries.into_iter().collect();
        Some((index, Lines(lines.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_index_is_noticed() {
        let text = "portslice-index 1 32768 1 1\nL 1 32768 16 - a\n";
        assert!(Index::parse(text).is_some());
        for cut in 0..text.len() {
            assert_eq!(Index::parse(&text[..cut]).map(|(i, _)| i.entries.len()), (cut == 28).then_some(0), "{cut}");
        }
        for bad in ["L 1 32769 16 - a", "L x 32768 16 - a", "L 1 32768 17 - a", "Q", "L 1 32768 16 9-1 a", "P 1"] {
            assert_eq!(Index::parse(&format!("portslice-index 1 0 0 0\n{bad}\n")), None, "{bad}");
        }
    }

    #[test]
    fn slots_rest_as_long_as_possible() {
        let entry = |slot| {
            let block = Block::new(32768 + 16 * slot, BlockSize::MIN).unwrap();
            (slot, Entry { id: format!("c{slot}").parse().unwrap(), slot, block, ports: PortSet::empty() })
        };
        let mut index = Index { last_slot: 2, entries: BTreeMap::from([entry(2)]), ..Index::default() };
        assert_eq!(index.free_slot(5), Some(3));
        index.last_slot = 4;
        assert_eq!(index.free_slot(5), Some(1));
        index.entries.extend([entry(1), entry(3), entry(4)]);
        assert_eq!(index.free_slot(5), None);
    }
}
