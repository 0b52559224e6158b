//! Which ports a container gets: block and assigned ports, or the reason why not.

use super::host::leasable;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::Facts;
use crate::lease::Member;
use crate::net::diag::Holder;
use crate::ports::pool::{Full, View, auto};
use crate::ports::{Block, PortNames, PortRange, PortSet};
use crate::request::{PortsAsked, Request};

/// What a decision rests on besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What the operator set.
    pub config: &'a Config,
    /// Ports of all leases.
    pub leased: &'a PortSet,
    /// Blocks that were given back a short while ago.
    pub resting: &'a PortSet,
    /// Where the search for a block begins.
    pub block_from: u16,
    /// Where the search for ports of the host's choice begins.
    pub auto_from: u16,
    /// Sockets of the host in the pool and in `ports`.
    pub holders: &'a [Holder],
    /// The same as a set.
    pub used: &'a PortSet,
}

/// The ports a container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Ephemeral ports.
    pub block: Block,
    /// Listening ports.
    pub ports: PortSet,
}

/// Why a request cannot be granted. All but `Error` leave it to the caller to find out who is in the way.
#[derive(Debug)]
pub enum Refusal {
    /// Complete.
    Error(Error),
    /// A process of the host has an assigned port open.
    Socket(Holder),
    /// A port is leased to another container.
    Leased(u16),
    /// No block is free.
    Full(Full),
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

/// How many ephemeral ports of its own the host keeps. Refuses a configuration that leaves it fewer than `host_ports_min`.
/// `ephemeral`: the range that its connections come from; `reserved`: what is reserved in it, by others or by us.
pub fn host_ports(config: &Config, ephemeral: PortRange, reserved: &PortSet) -> Result<u32> {
    let (range, ours) = (PortSet::from(ephemeral), leasable(config));
    let left = range.difference(reserved).difference(&ours).len();
    let least = config.host_ports_min;
    if left >= u32::from(least) || range.first_overlap(&ours).is_none() {
        return Ok(left);
    }
    let ports = if config.ports.is_empty() { String::new() } else { format!(" and ports {}", config.ports) };
    Err(Error::unsupported(
        format!(
            "ephemeral_ports {}{ports} would leave the host {left} ephemeral ports of its own ({ephemeral}), \
             fewer than host_ports_min ({least})",
            config.ephemeral_ports.ports()
        ),
        "choose fewer, or widen net.ipv4.ip_local_port_range, or lower host_ports_min",
    ))
}

/// Decides. Ports are assigned first, since a block has a choice and they have none. `last`: the block that the container
/// had before.
pub fn grant(request: &Request, last: Option<Block>, at: &Situation<'_>) -> Result<Grant, Refusal> {
    let ports = assigned(&request.ports, at)?;
    let size = request.ephemeral_ports.unwrap_or(at.config.ephemeral_ports_per_container);
    // A number that stands for another one must not be one of its own as well.
    let taken = at.leased.union(at.used).union(&request.ports.names.inside());
    let view = View { taken: &taken, resting: at.resting, cursor: at.block_from };
    let block = at.config.ephemeral_ports.choose(size, &view, last).map_err(Refusal::Full)?;
    Ok(Grant { block, ports })
}

/// Refuses members of one slice whose port names are in each other's way, or in that of the slice's own ports, its `block` and
/// those that are `leased` to it: programs inside would mean two things by one number.
pub fn named(members: &[Member], block: Block, leased: &PortSet) -> Result<()> {
    let (mut all, mut inside) = (PortNames::default(), PortSet::empty());
    for member in members {
        let refuse = |why: String| Err(Error::invalid(format!("port names of container {}", member.id), why));
        all = match all.union(&member.port_names) {
            Ok(all) => all,
            Err(why) => return refuse(why.to_string()),
        };
        let own = member.port_names.inside();
        if let Some(range) = own.first_overlap(&block.range().into()) {
            let why = format!("{range} lies in its block {block}, from which its connections come; choose other names");
            return refuse(why);
        }
        inside = inside.union(&own);
        if let Some(range) = inside.first_overlap(leased) {
            let why =
                format!("{range} is a port of its own as well; choose another name, or give that port another name");
            return refuse(why);
        }
    }
    Ok(())
}

/// The listening ports that answer `asked`, none of them leased to anybody.
pub fn assigned(asked: &PortsAsked, at: &Situation<'_>) -> Result<PortSet, Refusal> {
    if let Some(range) = asked.set.difference(&at.config.ports).ranges().first() {
        let assignable = if at.config.ports.is_empty() { "empty".into() } else { at.config.ports.to_string() };
        let why = match at.config.ephemeral_ports.ports().first_touching(*range) {
            Some(_) => format!("they belong to the pool of ephemeral ports {}", at.config.ephemeral_ports.ports()),
            None => format!("they are not in the config key ports ({assignable})"),
        };
        let what = format!("ports {range} cannot be assigned");
        return Err(Error::invalid(what, format!("{why}; ask for others")).into());
    }
    if let Some(range) = asked.set.first_overlap(at.leased) {
        return Err(Refusal::Leased(range.begin()));
    }
    if let Some(holder) = at.holders.iter().find(|h| asked.set.contains(h.port)) {
        return Err(Refusal::Socket(*holder));
    }
    if asked.auto == 0 {
        return Ok(asked.set.clone());
    }
    let taken = at.leased.union(at.used).union(&asked.set);
    let chosen = auto(asked.auto, &at.config.ports, &taken, at.auto_from).ok_or_else(|| {
        let free = at.config.ports.difference(&taken).len();
        Error::Exhausted(format!(
            "auto:{} needs {} ports of the config key ports ({}), {free} are free: widen it, or end containers",
            asked.auto, asked.auto, at.config.ports
        ))
    })?;
    Ok(asked.set.union(&chosen))
}

/// The refusal of a full pool: names the pool, how much it holds, who holds it, and what would fit. `holders` are the first
/// of `count` leases; `used`: ports of the pool that sockets of the host hold.
pub fn exhausted(full: &Full, config: &Config, holders: &[String], count: usize, used: &PortSet) -> Error {
    let pool = config.ephemeral_ports.ports();
    let mut holders = holders.to_vec();
    if count > holders.len() {
        holders.push(format!("{} more", count - holders.len()));
    }
    let holders = if holders.is_empty() { "nobody".into() } else { holders.join(", ") };
    let used = pool.intersection(used);
    let sockets = match used.ranges().first() {
        Some(range) => format!("; sockets of the host hold {} ports of it, {range} among them", used.len()),
        None => String::new(),
    };
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
        "pool {pool} has no free block of {} ports: it holds {}, leased to {holders}{sockets}{resting}; {fits}",
        full.size, full.capacity
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_nobodys_way() {
        let member = |names: &str| {
            let text = r#"{"id":"web","pid":null,"ports":"","asked":{},"labels":{},"created":0}"#;
            let member: Member = serde_json::from_str(text).unwrap();
            Member { port_names: names.parse().unwrap(), ..member }
        };
        let block = Block::new(32768, crate::ports::BlockSize::new(1024).unwrap()).unwrap();
        let leased: PortSet = "31000-31009".parse().unwrap();
        for (members, words) in [
            (&["31000:80", "31001:81"][..], None),
            (&["31000:80", "31001:80"], Some("ports 31000 and 31001 are both named 80")),
            (&["31000:80", "31001:33791"], Some("33791 lies in its block 32768-33791")),
            (&["31000:33792", "31001:32767"], None),
            (&["31000:31001"], Some("port names of container web: 31001 is a port of its own as well")),
            (&["31000-31001:31001-31002"], Some("31001-31002 is a port of its own as well")),
        ] {
            let members: Vec<Member> = members.iter().map(|names| member(names)).collect();
            let done = named(&members, block, &leased).map_err(|e| e.to_string());
            match words {
                None => done.unwrap(),
                Some(words) => assert!(done.as_ref().is_err_and(|line| line.contains(words)), "{words}: {done:?}"),
            }
        }
    }

    #[test]
    fn the_host_keeps_ports_of_its_own() {
        let set = |text: &str| if text.is_empty() { PortSet::empty() } else { text.parse().unwrap() };
        // pool, ports, range, reserved, least: how many are left
        for (pool, ports, range, reserved, least, left) in [
            ("32768-57343", "", (32768, 60999), "", 1024, Ok(3656)),
            ("32768-57343", "", (32768, 60999), "32768-57343,60000-60999", 1024, Ok(2656)),
            ("32768-57343", "58000-58999", (32768, 60999), "", 1024, Ok(2656)),
            ("32768-57343", "58000-60999", (32768, 60999), "", 1024, Err(656)),
            ("32768-61439", "", (32768, 60999), "", 1024, Err(0)),
            ("32768-61439", "", (32768, 60999), "", 0, Ok(0)),
            // what is apart takes nothing from it
            ("32768-57343", "", (60000, 60099), "", 1024, Ok(100)),
            ("32768-57343", "", (57344, 60999), "57344-60999", 1024, Ok(0)),
        ] {
            let text = format!("ephemeral_ports = \"{pool}\"\nports = \"{ports}\"\nhost_ports_min = {least}");
            let config = Config::parse(&text, "f").unwrap();
            let range = PortRange::new(range.0, range.1).unwrap();
            let found = host_ports(&config, range, &set(reserved));
            match left {
                Ok(left) => assert_eq!(found.unwrap(), left, "{text}"),
                Err(left) => {
                    let line = found.unwrap_err().to_string();
                    assert!(line.contains(&format!("would leave the host {left} ephemeral ports")), "{line}");
                    assert!(line.contains(pool) && line.contains("host_ports_min (1024)"), "{line}");
                }
            }
        }
    }
}
