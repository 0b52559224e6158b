//! Claims: ports that sockets hold without a lease, of containers that may (open ports) and of the host, and what a container may
//! claim.
//!
//! The programs at the sockets claim, count and give back (`bpf/claim.h`). User space says who may claim what, frees what an ended
//! container left, and looks after what the programs did not see begin. What does not live here: leases of ports
//! ([`super::maps`]), and which ports a container is to be offered (`plan`).

use std::collections::BTreeMap;
use std::io;

use super::maps::Maps;
use super::namespaces::HOST;
use super::offers::Offer;
use super::word::{Holding, NUMBERS, Word, now};
use crate::error::{Error, Result};
use crate::ports::PortSet;

/// What a container holds by its sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// TCP ports that sockets of it hold, connections whose listener is gone among them.
    pub tcp: PortSet,
    /// UDP ports.
    pub udp: PortSet,
    /// TCP ports that none holds any more and that rest for it, because connections may be in TIME_WAIT.
    pub resting: PortSet,
}

impl Claims {
    /// Does it hold nothing, not even resting ports?
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty() && self.resting.is_empty()
    }
}

/// Ports whose end the programs do not see: their places in the map, and the words that stood there.
#[derive(Debug, Default)]
pub struct Uncounted(Vec<(usize, Word)>);

impl Maps {
    /// Lets a container claim ports by bind(): any of `ports` that is free, `limit` at one time. What it holds already stays its
    /// own. Nothing where no program at the sockets claims.
    pub fn offer(&self, slot: u16, ports: &PortSet, limit: u32) -> Result<()> {
        let Some(offers) = &self.offers else { return Ok(()) };
        let offer = Offer { ports: ports.clone(), limit };
        let failed = |e: io::Error| failed("offer ports to slot", slot, &e);
        if offers.get(slot).map_err(failed)?.as_ref() == Some(&offer) {
            return Ok(());
        }
        if ports.is_empty() { offers.forget(slot) } else { offers.set(slot, &offer) }.map_err(failed)
    }

    /// What a container may claim; `None`: nothing.
    pub fn offered(&self, slot: u16) -> Result<Option<Offer>> {
        let Some(offers) = &self.offers else { return Ok(None) };
        offers.get(slot).map_err(|e| failed("look up the offer of slot", slot, &e))
    }

    /// Takes an offer back: nothing more is claimed.
    pub fn withdraw_offer(&self, slot: u16) -> Result<()> {
        let Some(offers) = &self.offers else { return Ok(()) };
        offers.forget(slot).map_err(|e| failed("take back the offer of slot", slot, &e))
    }

    /// What a container holds by its sockets now; what the host holds for slot 0.
    pub fn claims(&self, slot: u16) -> Claims {
        let (mut tcp, mut udp, mut resting) = (PortSet::empty(), PortSet::empty(), PortSet::empty());
        let now = now();
        self.each_claimed(slot, |at, word, sockets| {
            let port = (at % NUMBERS) as u16;
            match (sockets, at < NUMBERS) {
                (0, _) if !word.is_looked_after() => {
                    if word.rests(now) {
                        resting.push(port);
                    }
                }
                (_, true) => tcp.push(port),
                (_, false) => udp.push(port),
            }
        });
        Claims { tcp, udp, resting }
    }

    /// Frees everything that the sockets of a container hold, resting ports as well, and forgets its offer. Its namespace must be
    /// forgotten already ([`super::Namespaces::leave`]): what its sockets do from then on counts for nobody.
    pub fn free_claims(&self, slot: u16) -> Result<()> {
        let Some(offers) = &self.offers else { return Ok(()) };
        self.withdraw_offer(slot)?;
        if offers.has_claimed(slot) {
            self.each_claimed(slot, |at, _, _| {
                self.change(at, |word| {
                    matches!(word.holding(), Holding::Claimed { slot: of, .. } if of == slot).then_some(Word(0))
                });
            });
            offers.clear(slot);
        }
        Ok(())
    }

    /// Frees everything that sockets hold, of the host as well: for when nobody counts them any more.
    pub fn forget_claims(&self) {
        self.each_word(0..2 * NUMBERS, |at, _| {
            self.change(at, |word| matches!(word.holding(), Holding::Claimed { .. }).then_some(Word(0)));
        });
    }

    /// Gives back those of `ports` that `slot` still has leased, as ports that it may claim: each is looked after, since sockets may
    /// sit there that nothing counts. A look frees the others ([`Self::free_unheld`]).
    pub fn withdraw_to_claims(&self, ports: &PortSet, slot: u16) {
        let is_its = |word: Word| matches!(word.holding(), Holding::Leased { slot: of, .. } if of == slot);
        let places = ports.iter().flat_map(|port| [usize::from(port), NUMBERS + usize::from(port)]);
        let turn = |at: &usize| {
            self.change(*at, |word| is_its(word).then(|| word.replaced_by(Word::looked_after(slot)))).is_some()
        };
        self.count_claims(slot, places.filter(turn).count() as u64);
    }

    /// Has sockets be looked after that the programs did not see begin: `held` are the ports of all sockets of the host (slot 0) or
    /// of a container, TCP and UDP. Only a look at the sockets tells when such a port is free ([`Self::free_unheld`]). A port that
    /// somebody else has stays his.
    pub fn look_after(&self, slot: u16, tcp: &PortSet, udp: &PortSet) {
        let keys = tcp.iter().map(usize::from).chain(udp.iter().map(|port| NUMBERS + usize::from(port)));
        for at in keys {
            let before = self.change(at, |word| match word.holding() {
                Holding::Free => Some(Word::looked_after(slot)),
                Holding::Claimed { slot: of, .. } if of == slot => Some(word.with_look()),
                // what rests for another and is held here was taken while nobody looked
                Holding::Claimed { sockets: 0, .. } if !word.is_looked_after() => Some(Word::looked_after(slot)),
                Holding::Claimed { .. } | Holding::Leased { .. } => None,
            });
            // one that the programs counted is counted as held already
            let counted = |word: Word| matches!(word.holding(), Holding::Claimed { sockets: 1.., .. });
            if before.is_some_and(|word| !counted(word) && !word.is_looked_after()) {
                self.count_claims(slot, 1);
            }
        }
    }

    /// Ports without a counted socket of which only a look tells whether they are free, by the slot that has them: nobody counted
    /// what sits there, or the programs let it rest as long as a connection may be in TIME_WAIT, which nobody tells them the end of.
    /// Where a look does not tell of every socket (one of TCP that is only bound, before Linux 6.8), its count does.
    pub fn uncounted(&self) -> BTreeMap<u16, Uncounted> {
        let (mut found, now) = (BTreeMap::<_, Uncounted>::new(), now());
        self.each_word(0..2 * NUMBERS, |at, word| {
            if let Holding::Claimed { slot, sockets: 0 } = word.holding()
                && (word.is_looked_after() || word.rests(now))
            {
                found.entry(slot).or_default().0.push((at, word));
            }
        });
        found
    }

    /// Frees those of `uncounted` that no socket of `slot` holds. `tcp` and `udp` are the ports of all sockets there are, connections
    /// in TIME_WAIT among them, and are asked for after [`Self::uncounted`]: who binds meanwhile keeps his.
    pub fn free_unheld(&self, slot: u16, uncounted: &Uncounted, (tcp, udp): (&PortSet, &PortSet)) {
        for (at, then) in &uncounted.0 {
            let port = (at % NUMBERS) as u16;
            let is_held = if *at < NUMBERS { tcp.contains(port) } else { udp.contains(port) };
            if is_held || self.change(*at, |word| (word == *then).then_some(Word(0))).is_none() {
                continue;
            }
            if then.is_looked_after() {
                self.count_claims(slot, 1u64.wrapping_neg());
            } else if let Some(offers) = self.offers.as_ref().filter(|_| slot != HOST) {
                offers.end_rest(slot, then.until());
            }
        }
    }

    /// Has ports that nobody holds lead to the host again, whoever had them last. Those that ended just now do not yet: a last packet
    /// may be on its way.
    pub fn forget_past(&self) {
        /// Units: more than four seconds.
        const AGE: u16 = 2;
        let now = now();
        self.each_word(0..2 * NUMBERS, |at, word| {
            if word.past_for(now).is_some_and(|units| units >= AGE) {
                self.change(at, |again| (again == word).then_some(Word(0)));
            }
        });
    }

    /// So many held ports more, or less, than the programs count; of a container.
    pub(super) fn count_claims(&self, slot: u16, by: u64) {
        if let Some(offers) = self.offers.as_ref().filter(|_| slot != HOST) {
            offers.count(slot, by);
        }
    }

    /// Each word that sockets of `slot` hold, or that rests for it, by its place in the map.
    fn each_claimed(&self, slot: u16, mut found: impl FnMut(usize, Word, u32)) {
        self.each_word(0..2 * NUMBERS, |at, word| {
            if let Holding::Claimed { slot: of, sockets } = word.holding()
                && of == slot
            {
                found(at, word, sockets);
            }
        });
    }
}

fn failed(doing: &str, slot: u16, e: &io::Error) -> Error {
    Error::Bpf { doing: format!("{doing} {slot}"), why: e.to_string() }
}
