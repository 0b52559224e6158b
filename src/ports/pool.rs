//! The choice of a free block, and of free single ports, as pure arithmetic on port sets.
//!
//! Both are next-fit: the search goes on where the last one ended and comes back round, so that what was given back
//! rests as long as possible while peers may still hold TIME_WAIT state for it. Mesos takes the lowest free block and
//! reuses it at once. What does not live here: who holds what and for how long it rests (`ledger`), and which ports the
//! host itself uses (`host`); the caller puts both into the [`View`].

use super::block::{Block, BlockSize};
use super::set::{PortRange, PortSet};
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The ports on this host that may be leased as blocks. Not empty, nothing below 1024.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Pool {
    ports: PortSet,
}

/// What is gone from the pool at the moment of a choice.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Leased, or in use on the host: never given out.
    pub taken: &'a PortSet,
    /// Given back a short while ago: given out only to the container that had it.
    pub resting: &'a PortSet,
    /// Where the search begins: one past the block given out last. Any value will do.
    pub cursor: u16,
}

/// No block of the asked size is free. The numbers are what an operator needs to decide what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// The size asked for.
    pub size: BlockSize,
    /// How many blocks of that size the pool holds in all.
    pub capacity: u32,
    /// How many of them only rest and become free by themselves.
    pub resting: u32,
    /// The largest size of which a block is free now; always below `size`.
    pub largest_fit: Option<BlockSize>,
}

impl Pool {
    /// A pool of these ports. Refused when there are none, or one of them is below 1024: those belong to services.
    pub fn new(ports: PortSet) -> Result<Pool> {
        let Some(first) = ports.ranges().first() else {
            return Err(Error::invalid("empty pool", "give the ports that may be leased, such as 32768-57343"));
        };
        if first.begin() < 1024 {
            let why = format!("port {} is below 1024; give ports from 1024 to 65535", first.begin());
            return Err(Error::invalid(format!("pool {ports}"), why));
        }
        Ok(Pool { ports })
    }

    /// The ports of the pool.
    pub fn ports(&self) -> &PortSet {
        &self.ports
    }

    /// How many aligned blocks of `size` the pool holds; ports that make no whole aligned block do not count.
    pub fn capacity(&self, size: BlockSize) -> u32 {
        let step = u32::from(size.get());
        let blocks = |range: &PortRange| {
            let first = u32::from(range.begin()).div_ceil(step);
            ((u32::from(range.end()) + 1) / step).saturating_sub(first)
        };
        self.ports.ranges().iter().map(blocks).sum()
    }

    /// A block of `size` for a container: `preferred`, the block it had before, if it has that size, lies in the pool
    /// and is not taken (it may rest, for it is the same container coming back); otherwise the first free one at or
    /// after the cursor, and from the bottom when there is none.
    pub fn choose(&self, size: BlockSize, view: &View<'_>, preferred: Option<Block>) -> Result<Block, Full> {
        let again = preferred.filter(|block| {
            block.size() == size
                && self.ports.contains_range(block.range())
                && view.taken.first_touching(block.range()).is_none()
        });
        let gone = view.taken.union(view.resting);
        again
            .or_else(|| self.free(size, &gone, view.cursor).next())
            .or_else(|| self.free(size, &gone, 0).next())
            .ok_or_else(|| self.full(size, view.taken, &gone))
    }

    /// The blocks that begin at or after `from` and have no port in `gone`, ascending, in one walk along both lists.
    fn free<'a>(&'a self, size: BlockSize, gone: &'a PortSet, from: u16) -> impl Iterator<Item = Block> + 'a {
        let step = u32::from(size.get());
        let mut at = u32::from(from);
        let mut pool = self.ports.ranges();
        let mut gone = gone.ranges();
        gone = &gone[gone.partition_point(|range| range.end() < from)..];
        std::iter::from_fn(move || {
            loop {
                let range = pool.first()?;
                at = at.max(u32::from(range.begin())).next_multiple_of(step);
                let last = at + step - 1;
                if last > u32::from(range.end()) {
                    pool = &pool[1..];
                    continue;
                }
                while gone.first().is_some_and(|range| u32::from(range.end()) < at) {
                    gone = &gone[1..];
                }
                match gone.first() {
                    // Past everything that is in the way, however many blocks that is.
                    Some(range) if u32::from(range.begin()) <= last => at = u32::from(range.end()) + 1,
                    _ => {
                        let block = Block::new(at as u16, size);
                        at += step;
                        return block;
                    }
                }
            }
        })
    }

    fn full(&self, size: BlockSize, taken: &PortSet, gone: &PortSet) -> Full {
        // Nothing of this size is free, so what is untaken rests.
        let resting = self.free(size, taken, 0).count() as u32;
        let mut smaller = std::iter::successors(size.half(), |size| size.half());
        let largest_fit = smaller.find(|&size| self.free(size, gone, 0).next().is_some());
        Full { size, capacity: self.capacity(size), resting, largest_fit }
    }
}

/// Takes `n` single ports out of `from` that are not in `taken`: for `auto:N`. One contiguous run if there is one, the
/// first at or after `cursor` and then from the bottom; otherwise port by port in the same order. `None` if fewer than
/// `n` are left.
pub fn auto(n: u16, from: &PortSet, taken: &PortSet, cursor: u16) -> Option<PortSet> {
    let free = from.difference(taken);
    let wanted = u32::from(n);
    if free.len() < wanted {
        return None;
    }
    if n == 0 {
        return Some(PortSet::empty());
    }
    let ahead = |range: &PortRange| PortRange::new(range.begin().max(cursor), range.end());
    let behind = |range: &PortRange| PortRange::new(range.begin(), range.end().min(cursor.saturating_sub(1)));
    let ranges = || free.ranges().iter();
    let run = ranges().filter_map(ahead).chain(ranges().copied()).find(|range| range.len() >= wanted);
    if let Some(run) = run {
        return PortRange::new(run.begin(), run.begin() + (n - 1)).map(PortSet::from);
    }
    let mut missing = wanted;
    let take = |range: PortRange| {
        let taken = missing.min(range.len());
        missing -= taken;
        let past = u32::from(range.begin()) + taken;
        PortRange::new(range.begin(), (past - 1) as u16)
    };
    Some(ranges().filter_map(ahead).chain(ranges().filter_map(behind)).map_while(take).collect())
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ports.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Pool::new(PortSet::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Full { size, capacity, resting, largest_fit } = self;
        write!(f, "no block of {size} ports is free: the pool holds {capacity}, {resting} of them resting; ")?;
        match largest_fit {
            Some(fit) => write!(f, "a block of {fit} would fit"),
            None => f.write_str("no smaller block would fit either"),
        }
    }
}

impl std::error::Error for Full {}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    fn pool(text: &str) -> Pool {
        Pool::new(set(text)).unwrap()
    }

    fn size(ports: u16) -> BlockSize {
        BlockSize::new(ports).unwrap()
    }

    #[test]
    fn what_is_no_pool() {
        assert!(Pool::new(PortSet::empty()).unwrap_err().to_string().contains("such as 32768-57343"));
        let error = Pool::new(set("1000-2000")).unwrap_err().to_string();
        assert_eq!(error, "pool 1000-2000: port 1000 is below 1024; give ports from 1024 to 65535");
    }

    #[test]
    fn the_seed_example_holds_24() {
        assert_eq!(pool("32768-57344").capacity(size(1024)), 24);
        assert_eq!(pool("1025-2047,4096-5119").capacity(size(1024)), 1);
        assert_eq!(pool("1024-65535").capacity(size(16384)), 3);
        assert_eq!(pool("1024-1030").capacity(size(16)), 0);
    }

    #[test]
    fn goes_on_at_the_cursor_and_comes_round() {
        let pool = pool("32768-36863");
        let (taken, resting) = (set("34000,36863"), PortSet::empty());
        let at = |cursor| {
            pool.choose(size(1024), &View { taken: &taken, resting: &resting, cursor }, None).unwrap().to_string()
        };
        assert_eq!(at(0), "32768-33791");
        assert_eq!(at(32769), "34816-35839");
        assert_eq!(at(34817), "32768-33791");
        assert_eq!(at(65535), "32768-33791");
    }

    #[test]
    fn the_old_block_comes_back_even_from_its_rest() {
        let pool = pool("32768-36863");
        let (taken, resting) = (set("32768-33791"), set("33792-34815"));
        let view = View { taken: &taken, resting: &resting, cursor: 0 };
        let block = |begin| Block::new(begin, size(1024));
        assert_eq!(pool.choose(size(1024), &view, block(33792)).ok(), block(33792));
        assert_eq!(pool.choose(size(1024), &view, block(32768)).ok(), block(34816));
        assert_eq!(pool.choose(size(1024), &view, block(1024)).ok(), block(34816));
        assert_eq!(pool.choose(size(1024), &view, Block::new(33792, size(512))).ok(), block(34816));
    }

    #[test]
    fn a_full_pool_says_what_would_help() {
        let pool = pool("32768-36863");
        let (taken, resting) = (set("32768-34000,34816-36000"), set("36100"));
        let full = pool.choose(size(1024), &View { taken: &taken, resting: &resting, cursor: 7 }, None).unwrap_err();
        assert_eq!(full, Full { size: size(1024), capacity: 4, resting: 0, largest_fit: Some(size(512)) });
        let (taken, resting) = (set("32768-34815"), set("34900,35840-36863"));
        let full = pool.choose(size(1024), &View { taken: &taken, resting: &resting, cursor: 7 }, None).unwrap_err();
        assert_eq!((full.resting, full.largest_fit), (2, Some(size(512))));
        assert!(full.to_string().contains("the pool holds 4, 2 of them resting; a block of 512 would fit"));
    }

    #[test]
    fn auto_prefers_a_run() {
        let ports = set("31000-31009,31100");
        let auto = |n, taken, cursor| auto(n, &ports, &set(taken), cursor).map(|ports| ports.to_string());
        assert_eq!(auto(3, "", 31005).as_deref(), Some("31005-31007"));
        assert_eq!(auto(3, "", 31008).as_deref(), Some("31000-31002"));
        assert_eq!(auto(1, "", 31010).as_deref(), Some("31100"));
        assert_eq!(auto(3, "31001,31003,31005,31007", 31004).as_deref(), Some("31004,31006,31008"));
        assert_eq!(
            auto(7, "31001,31003,31005,31007", 31008).as_deref(),
            Some("31000,31002,31004,31006,31008-31009,31100")
        );
        assert_eq!(auto(11, "", 0).as_deref(), Some("31000-31009,31100"));
        assert_eq!(auto(12, "", 0), None);
        assert_eq!(auto(0, "", 0).as_deref(), Some(""));
    }
}
