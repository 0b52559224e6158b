//! Which of the host's addresses containers carry. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Beside;
use crate::config::Addresses;

/// Most addresses that containers are given: each costs the kernel more the more there are, and thousands make the start of a
/// container take seconds.
pub const MOST: usize = 256;

/// The addresses that containers are to carry, if there were no end: the uplink's first.
pub fn candidates(uplink: Vec<IpAddr>, beside: &[Beside], wanted: &Addresses) -> Candidates {
    let own: Vec<IpAddr> = uplink.iter().copied().filter(|ip| wanted.has(*ip, true)).collect();
    let others = beside.iter().flat_map(|device| &device.addresses).copied();
    let mut others: Vec<IpAddr> = others.filter(|ip| !uplink.contains(ip) && wanted.has(*ip, false)).collect();
    let mut known = BTreeSet::new();
    others.retain(|ip| known.insert(*ip));
    Candidates { uplink: own, others }
}

/// See [`candidates`].
pub struct Candidates {
    uplink: Vec<IpAddr>,
    others: Vec<IpAddr>,
}

impl Candidates {
    /// How many.
    pub fn count(&self) -> usize {
        self.uplink.len() + self.others.len()
    }

    /// Those that containers do carry: the uplink's, as many as they can, then those of other devices while there is room.
    pub fn carried(self) -> Vec<IpAddr> {
        let mut addresses = most_of(self.uplink);
        addresses.extend(self.others);
        addresses.truncate(MOST);
        addresses
    }
}

/// What containers carry of the uplink's addresses: all of them, or as many as they can, the primary one of each family among
/// them. Which ones does not change when another is added, so that connections from them go on: the kernel lists IPv4 addresses
/// in the order in which they came, IPv6 addresses the newest first (`ipv6_link_dev_addr`, net/ipv6/addrconf.c).
fn most_of(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    if addresses.len() <= MOST {
        return addresses;
    }
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    let most = MOST.saturating_sub(v6.len()).max(MOST / 2);
    v4.truncate(most);
    let newer = v6.len().saturating_sub(MOST - v4.len());
    if newer > 0 {
        v6.drain(1..=newer);
    }
    v4.extend(v6);
    v4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(v4: u32, v6: u128) -> Vec<IpAddr> {
        let v4 = (0..v4).map(|i| IpAddr::from((0x0a00_0001 + i).to_be_bytes()));
        // the newest first
        let v6 = (0..v6).rev().map(|i| IpAddr::from((0xfd00 << 112 | i).to_be_bytes()));
        v4.chain(v6).collect()
    }

    #[test]
    fn what_containers_carry_has_an_end() {
        for (v4, v6) in [(1, 1), (0, 256), (200, 56), (128, 128)] {
            assert_eq!(most_of(many(v4, v6)), many(v4, v6), "{v4} and {v6}");
        }
        for (v4, v6, of_v4) in
            [(5000, 0, 256), (0, 5000, 0), (300, 1, 255), (1, 300, 1), (200, 200, 128), (200, 100, 156)]
        {
            let given = most_of(many(v4, v6));
            assert_eq!(given.len(), MOST, "{v4} and {v6}");
            assert_eq!(given.iter().filter(|ip| ip.is_ipv4()).count(), of_v4, "{v4} and {v6}");
            for family in [many(v4, 0), many(0, v6)] {
                assert!(
                    family.first().is_none_or(|primary| given.contains(primary)),
                    "{v4} and {v6}: a primary address"
                );
            }
        }
    }

    #[test]
    fn one_more_changes_nothing_but_the_primary_address() {
        for (before, after) in [(many(300, 1), many(301, 1)), (many(1, 300), many(1, 301))] {
            let (before, after) = (most_of(before), most_of(after));
            assert!(before.iter().filter(|ip| !after.contains(ip)).count() <= 1);
        }
    }
}
