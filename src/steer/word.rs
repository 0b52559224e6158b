//! The word of a port in the map `ports`, as `bpf/ports.h` lays it out: whose a number of one protocol is. What does not live here:
//! the map itself ([`super::maps`], [`super::claims`]).

/// Words of each protocol.
pub(super) const NUMBERS: usize = 65536;

const SLOT: u64 = 0xffff;
const SECOND: u32 = 16;
const CLAIMED: u64 = 1 << 32;
const REUSE: u64 = 1 << 33;
const LOOK: u64 = 1 << 34;
const COUNT: u32 = 36;
const COUNTS: u64 = !0 << COUNT;

/// One unit of the clock of resting ports, in nanoseconds (`REST_UNIT`).
pub(super) const UNIT: u32 = 32;
/// The longest rest, in such units (`REST_MOST`).
pub(super) const MOST_REST: u16 = 32;

/// A word of the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word(pub u64);

/// Whose a port of one protocol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// Nobody's.
    Free,
    /// Leased to a container; `steered`: packets go there already.
    Leased {
        /// Its slot.
        slot: u16,
        /// Do packets go there?
        steered: bool,
    },
    /// Held by sockets: of a container, or of the host (slot 0).
    Claimed {
        /// Its slot.
        slot: u16,
        /// By how many sockets; none: it rests, or has to be looked at.
        sockets: u32,
    },
}

impl Word {
    /// Leased.
    pub(super) fn leased(slot: u16, steered: bool) -> Self {
        Self(u64::from(slot) << SECOND | if steered { slot.into() } else { 0 })
    }

    /// Held by sockets that nothing counts: who looks at the sockets knows when they are gone.
    pub(super) fn looked_after(slot: u16) -> Self {
        Self(CLAIMED | LOOK | u64::from(slot))
    }

    /// The same word, now to be looked at.
    pub(super) fn with_look(self) -> Self {
        Self(self.0 | LOOK)
    }

    /// Does only a look at the sockets tell when it is free?
    pub(super) fn is_looked_after(self) -> bool {
        self.0 & (CLAIMED | LOOK) == CLAIMED | LOOK
    }

    /// What else may stand in a word that is to be `new`: a socket that is just being counted takes its count back itself.
    pub(super) fn replaced_by(self, new: Self) -> Self {
        let passing = if self.0 & CLAIMED == 0 { self.0 & COUNTS } else { 0 };
        Self(passing | new.0)
    }

    /// Whose it is.
    pub(super) fn holding(self) -> Holding {
        let (low, second) = ((self.0 & SLOT) as u16, (self.0 >> SECOND) as u16);
        if self.0 & CLAIMED != 0 {
            return Holding::Claimed { slot: low, sockets: (self.0 >> COUNT) as u32 };
        }
        match (low, second) {
            (0, 0) => Holding::Free,
            (0, slot) => Holding::Leased { slot, steered: false },
            (slot, _) => Holding::Leased { slot, steered: true },
        }
    }

    /// The slot that packets go to; 0 for the host's stack.
    pub(super) fn steered(self) -> u16 {
        (self.0 & SLOT) as u16
    }

    /// Is it claimed by sockets that all share it (UDP), or that all let others take it while it rests (TCP)?
    pub(super) fn is_shared(self) -> bool {
        self.0 & (CLAIMED | REUSE) == CLAIMED | REUSE
    }

    /// Until when a claimed port rests; 0: never.
    pub(super) fn until(self) -> u16 {
        (self.0 >> SECOND) as u16
    }

    /// Does a port that no socket holds still rest, at `now` ([`now`])?
    pub(super) fn rests(self, now: u16) -> bool {
        let until = self.until();
        let left = until.wrapping_sub(now);
        until != 0 && left != 0 && left <= MOST_REST
    }

    /// Is it a claimed port that is nobody's any more, and leads to its last holder still? With how many units ago that began.
    pub(super) fn past_for(self, now: u16) -> Option<u16> {
        let claimed = matches!(self.holding(), Holding::Claimed { sockets: 0, .. });
        let past = claimed && !self.is_looked_after() && !self.rests(now);
        past.then(|| match self.until() {
            0 => u16::MAX,
            since => now.wrapping_sub(since),
        })
    }

    /// How many units more a port rests that does.
    pub(super) fn rest_left(self, now: u16) -> u16 {
        self.until().wrapping_sub(now)
    }
}

/// The clock of resting ports: the kernel's monotonic one, in units of 2^32 ns.
pub(super) fn now() -> u16 {
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    clock.map_or(0, |now| ((now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64) >> UNIT) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_the_header_says() {
        let header = include_str!("bpf/ports.h");
        for (name, value) in [("CLAIMED", CLAIMED), ("REUSE", REUSE), ("LOOK", LOOK)] {
            let line = format!("#define {name} (1ULL << {})", value.trailing_zeros());
            assert!(header.contains(&line), "{line}");
        }
        for line in ["#define COUNT_AT 36", "#define REST_UNIT 32", "#define REST_MOST 32", "#define SECOND_AT 16"] {
            assert!(header.contains(line), "{line}");
        }
    }

    #[test]
    fn leases_and_claims_are_told_apart() {
        assert_eq!(Word(0).holding(), Holding::Free);
        assert_eq!(Word::leased(7, true).holding(), Holding::Leased { slot: 7, steered: true });
        assert_eq!(Word::leased(7, false).holding(), Holding::Leased { slot: 7, steered: false });
        assert_eq!(Word::leased(7, true).steered(), 7);
        assert_eq!(Word::leased(7, false).steered(), 0);
        assert_eq!(Word::looked_after(0).holding(), Holding::Claimed { slot: 0, sockets: 0 });
        // a count that is on its way through belongs to nobody
        assert_eq!(Word(1 << COUNT).holding(), Holding::Free);
        assert_eq!(Word(3 << COUNT | CLAIMED | 9).holding(), Holding::Claimed { slot: 9, sockets: 3 });
        assert_eq!(Word(1 << COUNT).replaced_by(Word::leased(2, true)).0 >> COUNT, 1);
        assert_eq!(Word(1 << COUNT | CLAIMED | 9).replaced_by(Word(0)), Word(0));
    }

    #[test]
    fn a_rest_ends_and_does_not_come_back_soon() {
        let resting = |until: u16| Word(CLAIMED | 9 | u64::from(until) << SECOND);
        assert!(resting(100).rests(99) && resting(100).rests(100 - MOST_REST));
        assert!(!resting(100).rests(100) && !resting(100).rests(101) && !resting(100).rests(40_000));
        assert!(resting(5).rests(65_530), "across the wrap");
        assert!(!resting(0).rests(65_530), "none was ever set");
    }

    #[test]
    fn a_port_that_is_nobodys_tells_since_when() {
        let past = |until: u16, now| Word(CLAIMED | 9 | u64::from(until) << SECOND).past_for(now);
        assert_eq!([past(100, 100), past(100, 103), past(65_530, 4)], [Some(0), Some(3), Some(10)]);
        assert_eq!(past(0, 5), Some(u16::MAX), "nobody said");
        assert_eq!(past(100, 99), None, "it rests");
        for word in [Word(0), Word::leased(9, true), Word::looked_after(9), Word(1 << COUNT | CLAIMED | 9)] {
            assert_eq!(word.past_for(100), None, "{word:?}");
        }
    }
}
