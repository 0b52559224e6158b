//! Claims one by one, for people: which port, whose, and by how many sockets.
//!
//! What does not live here: how ports are claimed and given back ([`super::claims`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::maps::Maps;
use super::word::{Holding, NUMBERS, UNIT, Word, now};

/// A port of one protocol that sockets hold without a lease, or that rests after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The port.
    pub port: u16,
    /// Of UDP, else of TCP.
    pub udp: bool,
    /// The slot of whoever holds it; 0 is the host.
    pub slot: u16,
    /// By what.
    pub held: Held,
}

/// What keeps a claimed port from everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// So many sockets, connections whose listener is gone among them.
    Sockets(u32),
    /// Sockets that the programs did not see begin: nobody counts them.
    Uncounted,
    /// No socket. Connections may be in TIME_WAIT for so much longer.
    Rests(Duration),
}

impl Maps {
    /// The claim of a port; `None` for one that is free or leased.
    pub fn claim(&self, port: u16, udp: bool) -> Option<Claim> {
        let at = usize::from(port) + if udp { NUMBERS } else { 0 };
        let (mut found, now) = (None, now());
        self.each_word(at..at + 1, |at, word| found = claim_of(at, word, now));
        found
    }

    /// All claims, TCP's first, by the slot of who holds them.
    pub fn all_claims(&self) -> BTreeMap<u16, Vec<Claim>> {
        let (mut all, now) = (BTreeMap::<u16, Vec<Claim>>::new(), now());
        self.each_word(0..2 * NUMBERS, |at, word| {
            if let Some(claim) = claim_of(at, word, now) {
                all.entry(claim.slot).or_default().push(claim);
            }
        });
        all
    }
}

fn claim_of(at: usize, word: Word, now: u16) -> Option<Claim> {
    let Holding::Claimed { slot, sockets } = word.holding() else { return None };
    let held = match sockets {
        1.. => Held::Sockets(sockets),
        0 if word.is_looked_after() => Held::Uncounted,
        0 if word.rests(now) => Held::Rests(Duration::from_nanos(u64::from(word.rest_left(now)) << UNIT)),
        0 => return None,
    };
    Some(Claim { port: (at % NUMBERS) as u16, udp: at >= NUMBERS, slot, held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_who_holds_a_port_and_by_what() {
        const CLAIMED: u64 = 1 << 32;
        let of = |word| claim_of(NUMBERS + 53, Word(word), 100);
        let claim = |held| Some(Claim { port: 53, udp: true, slot: 9, held });
        assert_eq!(of(2 << 36 | CLAIMED | 9), claim(Held::Sockets(2)));
        assert_eq!(of(Word::looked_after(9).0), claim(Held::Uncounted));
        assert_eq!(of(CLAIMED | 110 << 16 | 9), claim(Held::Rests(Duration::from_nanos(10 << 32))));
        assert_eq!(of(CLAIMED | 100 << 16 | 9), None, "its rest is over");
        assert_eq!(of(Word::leased(9, true).0), None);
        assert_eq!(claim_of(80, Word(1 << 36 | CLAIMED), 0).map(|claim| (claim.udp, claim.slot)), Some((false, 0)));
    }
}
