//! An inclusive range of ports, and a set of ranges.
//!
//! Sets are kept as sorted, disjoint, merged ranges and combined by walking two such lists side by side, so a
//! 10 000-port range costs as much as one port. What does not live here: which port belongs to whom (`lease`), and
//! whether a port is in use on the host (`host`). The text form is in `text`.

use std::cmp::{max, min};

/// A range of ports, both ends included, 1..=65535, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    begin: u16,
    end: u16,
}

/// A set of ports. Parses from and prints as "31000-31009,31100"; the empty set is the empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    /// Sorted; between two neighbours at least one port is missing.
    ranges: Vec<PortRange>,
}

impl PortRange {
    /// The range from `begin` to `end`, both included; `None` if it would be reversed or contain port 0.
    pub const fn new(begin: u16, end: u16) -> Option<Self> {
        if begin == 0 || begin > end { None } else { Some(PortRange { begin, end }) }
    }

    /// The lowest port.
    pub const fn begin(self) -> u16 {
        self.begin
    }

    /// The highest port, which belongs to the range.
    pub const fn end(self) -> u16 {
        self.end
    }

    /// How many ports, 1..=65535.
    #[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u32 {
        self.end as u32 - self.begin as u32 + 1
    }

    /// Whether `port` is in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.begin <= port && port <= self.end
    }

    /// The ports that are in both.
    pub fn overlap(self, other: PortRange) -> Option<PortRange> {
        PortRange::new(max(self.begin, other.begin), min(self.end, other.end))
    }
}

impl PortSet {
    /// The set without ports.
    pub const fn empty() -> Self {
        PortSet { ranges: Vec::new() }
    }

    /// Whether there is no port in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ports, 0..=65535.
    pub fn len(&self) -> u32 {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.get(self.first_ending_at_or_after(port)).is_some_and(|range| range.begin <= port)
    }

    /// The ranges, ascending, as few as possible: neighbours never touch.
    pub fn ranges(&self) -> &[PortRange] {
        &self.ranges
    }

    /// Every port, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|range| range.begin..=range.end)
    }

    /// Adds a range; ports that are in the set already stay.
    pub fn insert(&mut self, range: PortRange) {
        // Ranges that touch the new one are replaced too, hence the ports just outside it.
        let from = self.first_ending_at_or_after(range.begin - 1);
        let past = range.end.saturating_add(1);
        let until = from + self.ranges[from..].partition_point(|have| have.begin <= past);
        let merged = match self.ranges[from..until] {
            [] => range,
            [only] => PortRange { begin: min(only.begin, range.begin), end: max(only.end, range.end) },
            [first, .., last] => PortRange { begin: min(first.begin, range.begin), end: max(last.end, range.end) },
        };
        self.ranges.splice(from..until, [merged]);
    }

    /// The ports that are in at least one of the two.
    pub fn union(&self, other: &PortSet) -> PortSet {
        let (mut a, mut b) = (self.ranges.as_slice(), other.ranges.as_slice());
        let mut ranges = Vec::with_capacity(a.len() + b.len());
        loop {
            let from = match (a.first(), b.first()) {
                (Some(x), Some(y)) if x.begin <= y.begin => &mut a,
                (_, Some(_)) => &mut b,
                (Some(_), None) => &mut a,
                (None, None) => return PortSet { ranges },
            };
            push_merging(&mut ranges, from[0]);
            *from = &from[1..];
        }
    }

    /// The ports that are in both.
    pub fn intersection(&self, other: &PortSet) -> PortSet {
        PortSet { ranges: self.overlaps(other).collect() }
    }

    /// The ports of this set that are not in `other`.
    pub fn difference(&self, other: &PortSet) -> PortSet {
        let mut ranges = Vec::with_capacity(self.ranges.len() + other.ranges.len());
        let mut cuts = other.ranges.as_slice();
        for range in &self.ranges {
            let mut at = u32::from(range.begin);
            while let Some(&cut) = cuts.first()
                && cut.begin <= range.end
            {
                push_span(&mut ranges, at, u32::from(cut.begin));
                at = max(at, u32::from(cut.end) + 1);
                if cut.end > range.end {
                    // It may cut the next range as well.
                    break;
                }
                cuts = &cuts[1..];
            }
            push_span(&mut ranges, at, u32::from(range.end) + 1);
        }
        PortSet { ranges }
    }

    /// The lowest ports the two have in common, as one range of `self` and one of `other` overlap.
    pub fn first_overlap(&self, other: &PortSet) -> Option<PortRange> {
        self.overlaps(other).next()
    }

    /// The lowest range of the set that has a port in common with `range`, whole. Logarithmic.
    pub fn first_touching(&self, range: PortRange) -> Option<PortRange> {
        let first = *self.ranges.get(self.first_ending_at_or_after(range.begin))?;
        (first.begin <= range.end).then_some(first)
    }

    /// Whether every port of this set is in `other`.
    pub fn is_subset(&self, other: &PortSet) -> bool {
        self.ranges.iter().all(|&range| other.contains_range(range))
    }

    /// Whether every port of `range` is in the set. Logarithmic.
    pub fn contains_range(&self, range: PortRange) -> bool {
        // Ranges are merged, so a covered range lies within a single one.
        self.first_touching(range).is_some_and(|have| have.begin <= range.begin && range.end <= have.end)
    }

    fn first_ending_at_or_after(&self, port: u16) -> usize {
        self.ranges.partition_point(|range| range.end < port)
    }

    fn overlaps<'a>(&'a self, other: &'a PortSet) -> impl Iterator<Item = PortRange> + 'a {
        let (mut a, mut b) = (self.ranges.as_slice(), other.ranges.as_slice());
        std::iter::from_fn(move || {
            while let (Some(&x), Some(&y)) = (a.first(), b.first()) {
                // The one that ends first cannot overlap anything further.
                if x.end < y.end {
                    a = &a[1..]
                } else {
                    b = &b[1..]
                }
                if let Some(common) = x.overlap(y) {
                    return Some(common);
                }
            }
            None
        })
    }

    /// Adds a port, at once where none in the set is above it; number 0 is none.
    pub fn push(&mut self, port: u16) {
        let Some(next) = PortRange::new(port, port) else { return };
        if self.ranges.last().is_none_or(|last| last.begin <= port) {
            push_merging(&mut self.ranges, next);
        } else {
            self.insert(next);
        }
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut sorted: Vec<PortRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut ranges = Vec::with_capacity(sorted.len());
        for range in sorted {
            push_merging(&mut ranges, range);
        }
        PortSet { ranges }
    }
}

impl From<PortRange> for PortSet {
    fn from(range: PortRange) -> Self {
        PortSet { ranges: vec![range] }
    }
}

/// Appends a range that does not begin before the last one.
fn push_merging(ranges: &mut Vec<PortRange>, next: PortRange) {
    match ranges.last_mut() {
        Some(last) if u32::from(next.begin) <= u32::from(last.end) + 1 => last.end = max(last.end, next.end),
        _ => ranges.push(next),
    }
}

/// Appends the ports from `begin` up to but without `past`, if there are any. Both fit: they come from ranges.
fn push_span(ranges: &mut Vec<PortRange>, begin: u32, past: u32) {
    if begin < past {
        ranges.push(PortRange { begin: begin as u16, end: (past - 1) as u16 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    #[test]
    fn insert_swallows_what_it_touches() {
        let mut ports = set("10-20,30-40,50-60");
        ports.insert(PortRange::new(21, 49).unwrap());
        assert_eq!(ports.to_string(), "10-60");
        ports.insert(PortRange::new(65535, 65535).unwrap());
        ports.insert(PortRange::new(1, 1).unwrap());
        ports.insert(PortRange::new(62, 62).unwrap());
        assert_eq!(ports.to_string(), "1,10-60,62,65535");
    }

    #[test]
    fn ports_in_order_become_ranges() {
        let mut ports = PortSet::empty();
        [0, 1, 2, 3, 10, 65534, 65535].into_iter().for_each(|port| ports.push(port));
        assert_eq!(ports.to_string(), "1-3,10,65534-65535");
        [11, 5, 65535].into_iter().for_each(|port| ports.push(port));
        assert_eq!(ports.to_string(), "1-3,5,10-11,65534-65535");
    }

    #[test]
    fn algebra_at_the_ends_of_the_number_range() {
        assert_eq!(set("1-65535").difference(&set("1,65535")).to_string(), "2-65534");
        assert_eq!(set("1-65535").difference(&set("1-65535")), PortSet::empty());
        assert_eq!(set("5-10,20-30").difference(&set("8-25")).to_string(), "5-7,26-30");
        assert_eq!(set("5-10,20-30").first_overlap(&set("11-19,29-65535")), PortRange::new(29, 30));
        assert_eq!(set("65535").union(&set("65534")).to_string(), "65534-65535");
        assert!(set("6,21-22").is_subset(&set("5-10,20-30")));
        assert!(!set("10-20").is_subset(&set("5-10,20-30")));
    }
}
