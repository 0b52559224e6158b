//! What a container gets: slot, block and assigned ports, or the reason why not.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::Facts;
use crate::lease::index::Index;
use crate::net::diag::Holder;
use crate::ports::Block;
use crate::ports::pool::{Full, View, auto};
use crate::ports::{PortRange, PortSet};
use crate::request::{PortsAsked, Request};
use crate::steer::maps::MAX_SLOTS;

/// What a decision rests on besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What the operator set.
    pub config: &'a Config,
    /// What is leased.
    pub index: &'a Index,
    /// Sockets of the host in the pool and in `ports`.
    pub holders: &'a [Holder],
    /// The same as a set.
    pub used: &'a PortSet,
    /// Unix time, in seconds.
    pub now: u64,
}

/// What a container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Index in the data path's maps.
    pub slot: u16,
    /// Distinguishes this tenant of the slot.
    pub epoch: u32,
    /// Ephemeral ports.
    pub block: Block,
    /// Listening ports.
    pub ports: PortSet,
}

/// Why a request cannot be granted. `Socket` leaves it to the caller to find the process.
#[derive(Debug)]
pub enum Refusal {
    /// Complete.
    Error(Error),
    /// A process of the host has an assigned port open.
    Socket(Holder),
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Refusal::Error(e)
    }
}

/// Refuses a configuration that the host's own port use contradicts: a port that the host may give to one of its
/// connections cannot be leased.
pub fn check_host(config: &Config, facts: &Facts) -> Result<()> {
    let exposed = PortSet::from(facts.ephemeral).difference(&facts.reserved);
    for (key, ports) in [("ephemeral_ports", config.ephemeral_ports.ports()), ("ports", &config.ports)] {
        if let Some(range) = ports.first_overlap(&exposed) {
            return Err(Error::unsupported(
                format!("{key} {ports} overlaps the host's own ephemeral ports {} at {range}", facts.ephemeral),
                "run `portslice setup`, which reserves them (net.ipv4.ip_local_reserved_ports), or choose others",
            ));
        }
    }
    Ok(())
}

/// Decides. Ports are assigned first, since a block has a choice and they have none.
pub fn grant(request: &Request, at: &Situation<'_>) -> Result<Grant, Refusal> {
    let leased = at.index.taken();
    let ports = assigned(&request.ports, at, &leased)?;

    let size = request.ephemeral_ports.unwrap_or(at.config.ephemeral_ports_per_container);
    let taken = leased.union(at.used);
    let resting = at.index.resting(at.config.block_cooldown, at.now);
    let view = View { taken: &taken, resting: &resting, cursor: at.index.cursor };
    let block = at
        .config
        .ephemeral_ports
        .choose(size, &view, at.index.last_block(&request.id, size))
        .map_err(|full| exhausted(&full, at))?;
    let slot = at.index.free_slot(MAX_SLOTS).ok_or_else(|| {
        Error::Exhausted(format!("all {} slots are taken: a host carries no more containers", MAX_SLOTS - 1))
    })?;
    Ok(Grant { slot, epoch: at.index.epoch.wrapping_add(1), block, ports })
}

/// The listening ports that answer `asked`, none of them among `leased`.
pub fn assigned(asked: &PortsAsked, at: &Situation<'_>, leased: &PortSet) -> Result<PortSet, Refusal> {
    if let Some(range) = asked.set.difference(&at.config.ports).ranges().first() {
        let assignable = if at.config.ports.is_empty() { "empty".into() } else { at.config.ports.to_string() };
        let why = match at.config.ephemeral_ports.ports().first_touching(*range) {
            Some(_) => format!("they belong to the pool of ephemeral ports {}", at.config.ephemeral_ports.ports()),
            None => format!("they are not in the config key ports ({assignable})"),
        };
        return Err(
            Error::invalid(format!("ports {range} cannot be assigned"), format!("{why}; ask for others")).into()
        );
    }
    if let Some(range) = asked.set.first_overlap(leased) {
        return Err(Error::PortInUse(taken_by_lease(range, at.index)).into());
    }
    if let Some(holder) = at.holders.iter().find(|h| asked.set.contains(h.port)) {
        return Err(Refusal::Socket(*holder));
    }
    if asked.auto == 0 {
        return Ok(asked.set.clone());
    }
    let taken = leased.union(at.used).union(&asked.set);
    // next-fit like the blocks: start behind the newest lease that has assigned ports
    let newest = at.index.entries.get(&at.index.last_slot).and_then(|e| e.ports.ranges().last().copied());
    let cursor = newest.map_or(0, |r| r.end().saturating_add(1));
    let chosen = auto(asked.auto, &at.config.ports, &taken, cursor).ok_or_else(|| {
        let free = at.config.ports.difference(&taken).len();
        Error::Exhausted(format!(
            "auto:{} needs {} ports of the config key ports ({}), {free} are free: widen it, or end containers",
            asked.auto, asked.auto, at.config.ports
        ))
    })?;
    Ok(asked.set.union(&chosen))
}

fn taken_by_lease(range: PortRange, index: &Index) -> String {
    let touches = |ports: &PortSet| ports.first_touching(range).is_some();
    let owner = index.entries.values().find(|e| touches(&e.ports) || touches(&e.block.range().into()));
    let id = owner.map_or_else(|| "another container".into(), |e| format!("container {}", e.id));
    format!("port {} is leased to {id}: ask for another port, or end that container", range.begin())
}

/// Names the pool, how much it holds, who holds it, and what would fit.
fn exhausted(full: &Full, at: &Situation<'_>) -> Error {
    const SHOWN: usize = 8;
    let pool = at.config.ephemeral_ports.ports();
    let entries: Vec<_> = at.index.entries.values().collect();
    let mut holders: Vec<String> = entries.iter().take(SHOWN).map(|e| e.id.to_string()).collect();
    if entries.len() > SHOWN {
        holders.push(format!("{} more", entries.len() - SHOWN));
    }
    let holders = if holders.is_empty() { "nobody".into() } else { holders.join(", ") };
    let resting = match full.resting {
        0 => String::new(),
        n => format!("; {n} rest (block_cooldown)"),
    };
    let fits = match full.largest_fit {
        Some(size) => format!("a block of {size} would fit: ask for it"),
        None if full.capacity == 0 => format!("the pool is too small for any block of {}", full.size),
        None => "end a container, or widen the config key ephemeral_ports".into(),
    };
    Error::Exhausted(format!(
        "pool {pool} has no free block of {} ports: it holds {}, leased to {holders}{resting}; {fits}",
        full.size, full.capacity
    ))
}
