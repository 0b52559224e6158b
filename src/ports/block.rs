//! A block: the power-of-two sized, aligned range of ports that is the ephemeral range of one container.
//!
//! Alignment is what lets one mask say whose a port is, and it keeps two blocks of any size either nested or disjoint.
//! What does not live here: which blocks exist and which one is given out (`pool`).

use super::set::PortRange;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How many ports a block has: a power of two, 16..=16384.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BlockSize(u16);

/// An aligned range of ports: `begin` is a multiple of the size and not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ends", into = "Ends")]
pub struct Block {
    begin: u16,
    size: BlockSize,
}

/// Why a text or number is not a block size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockSizeError {
    /// Not a decimal number.
    #[error("{} is not a number of ports; write a power of two from 16 to 16384, such as 1024", crate::refusal::quoted(.0))]
    NotANumber(String),
    /// A number, but not a size a block can have.
    #[error("{given} is not a power of two from 16 to 16384; {}", nearest(*.given))]
    NotASize {
        /// The number.
        given: i64,
    },
}

/// The two numbers are not the ends of a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{begin}-{end} is not a block; a block has a power of two from 16 to 16384 ports and begins at a multiple of it"
)]
pub struct NotABlock {
    begin: u16,
    end: u16,
}

impl BlockSize {
    /// The smallest, 16 ports (the minimum of Mesos).
    pub const MIN: BlockSize = BlockSize(16);
    /// The largest, 16384 ports: a quarter of all there are.
    pub const MAX: BlockSize = BlockSize(16384);
    /// 1024 ports, what a container gets unless something else is configured or asked.
    pub const DEFAULT: BlockSize = BlockSize(1024);

    /// The size of `ports` ports, if a block can have it.
    pub const fn new(ports: u16) -> Option<Self> {
        if ports.is_power_of_two() && ports >= Self::MIN.0 && ports <= Self::MAX.0 {
            Some(BlockSize(ports))
        } else {
            None
        }
    }

    /// How many ports.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Half of it, unless that is too small for a block.
    pub const fn half(self) -> Option<Self> {
        Self::new(self.0 / 2)
    }
}

impl Block {
    /// The block that begins at `begin`; `None` unless that is a multiple of the size and not 0.
    pub const fn new(begin: u16, size: BlockSize) -> Option<Self> {
        if begin != 0 && begin.is_multiple_of(size.0) { Some(Block { begin, size }) } else { None }
    }

    /// The lowest port.
    pub const fn begin(self) -> u16 {
        self.begin
    }

    /// The highest port, which belongs to the block.
    pub const fn end(self) -> u16 {
        // Cannot overflow: an aligned block never reaches past 65535.
        self.begin + (self.size.0 - 1)
    }

    /// How many ports.
    pub const fn size(self) -> BlockSize {
        self.size
    }

    /// The ports of the block.
    pub fn range(self) -> PortRange {
        PortRange::new(self.begin, self.end()).expect("a block begins above port 0 and below its end")
    }
}

impl TryFrom<i64> for BlockSize {
    type Error = BlockSizeError;

    fn try_from(given: i64) -> Result<Self, BlockSizeError> {
        u16::try_from(given).ok().and_then(BlockSize::new).ok_or(BlockSizeError::NotASize { given })
    }
}

impl From<BlockSize> for u16 {
    fn from(size: BlockSize) -> u16 {
        size.0
    }
}

impl FromStr for BlockSize {
    type Err = BlockSizeError;

    fn from_str(text: &str) -> Result<Self, BlockSizeError> {
        let given: i64 = text.trim().parse().map_err(|_| BlockSizeError::NotANumber(text.to_string()))?;
        given.try_into()
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.range().fmt(f)
    }
}

impl TryFrom<PortRange> for Block {
    type Error = NotABlock;

    fn try_from(range: PortRange) -> Result<Self, NotABlock> {
        let size = u16::try_from(range.len()).ok().and_then(BlockSize::new);
        size.and_then(|size| Block::new(range.begin(), size))
            .ok_or(NotABlock { begin: range.begin(), end: range.end() })
    }
}

impl<'de> Deserialize<'de> for BlockSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(Number)
    }
}

/// By hand, since a derived one would tell an operator that it expected an `i64`.
struct Number;

impl Visitor<'_> for Number {
    type Value = BlockSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number without quotes, a power of two from 16 to 16384")
    }

    fn visit_i64<E: Error>(self, given: i64) -> Result<BlockSize, E> {
        given.try_into().map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, given: u64) -> Result<BlockSize, E> {
        self.visit_i64(given.try_into().unwrap_or(i64::MAX))
    }
}

/// A block as it stands in JSON: both ends, inclusive.
#[derive(Serialize, Deserialize)]
struct Ends {
    begin: u16,
    end: u16,
}

impl From<Block> for Ends {
    fn from(block: Block) -> Self {
        Ends { begin: block.begin, end: block.end() }
    }
}

impl TryFrom<Ends> for Block {
    type Error = NotABlock;

    fn try_from(Ends { begin, end }: Ends) -> Result<Self, NotABlock> {
        PortRange::new(begin, end).ok_or(NotABlock { begin, end })?.try_into()
    }
}

/// The advice for a number that is no size.
fn nearest(given: i64) -> String {
    let above = (16..=16384i64).find(|n| n.count_ones() == 1 && *n >= given);
    match above {
        None => "the largest is 16384".to_string(),
        Some(16) => "the smallest is 16".to_string(),
        Some(above) => format!("the nearest are {} and {above}", above / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two_within_bounds() {
        let valid: Vec<u16> = (0..=u16::MAX).filter(|&n| BlockSize::new(n).is_some()).collect();
        assert_eq!(valid, [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]);
        assert_eq!(BlockSize::MIN.half(), None);
    }

    #[test]
    fn a_refused_size_names_its_neighbours() {
        for (given, advice) in [
            ("1000", "the nearest are 512 and 1024"),
            ("15", "the smallest is 16"),
            ("-1", "the smallest is 16"),
            ("32768", "the largest is 16384"),
            ("99999999999", "the largest is 16384"),
            ("1024KB", "\"1024KB\" is not a number of ports"),
        ] {
            let error = given.parse::<BlockSize>().unwrap_err().to_string();
            assert!(error.contains(advice), "{given}: {error}");
        }
        assert_eq!(" 2048 ".parse::<BlockSize>().unwrap().get(), 2048);
    }

    #[test]
    fn blocks_are_aligned_and_inclusive() {
        let block = Block::new(32768, BlockSize::DEFAULT).unwrap();
        assert_eq!((block.end(), block.to_string()), (33791, "32768-33791".to_string()));
        assert_eq!(Block::new(32769, BlockSize::DEFAULT), None);
        assert_eq!(Block::new(0, BlockSize::MIN), None);
        assert_eq!(Block::new(49152, BlockSize::MAX).unwrap().end(), 65535);
    }

    #[test]
    fn json_is_checked_on_the_way_in() {
        let block = Block::new(32768, BlockSize::DEFAULT).unwrap();
        let text = serde_json::to_string(&block).unwrap();
        assert_eq!(text, r#"{"begin":32768,"end":33791}"#);
        assert_eq!(serde_json::from_str::<Block>(&text).unwrap(), block);
        for bad in [r#"{"begin":32769,"end":33792}"#, r#"{"begin":5,"end":4}"#, r#"{"begin":0,"end":65535}"#] {
            assert!(serde_json::from_str::<Block>(bad).is_err(), "{bad}");
        }
    }
}
