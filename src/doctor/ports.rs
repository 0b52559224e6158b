//! Ports: the pool, what the host keeps for itself, and sockets of the host on ports of containers.

use super::{Finding, Scene, fail, ok, some_of, unseen};
use crate::error::{Error, Result};
use crate::host::Facts;
use crate::lease::Desk;
use crate::net::Netlink;
use crate::net::diag::{Holder, holders, processes_of};
use crate::plan::grant;
use crate::plan::host::leasable;
use crate::ports::{PortRange, PortSet};
use crate::slice::ready::peek_recorded;
use crate::wire::Host;

/// The pool first: what is wrong with it explains the rest.
pub fn look(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(facts) = &scene.facts {
        findings.push(pool(scene, facts));
        findings.push(left(scene, facts));
    }
    match strangers(scene) {
        Ok(found) => findings.extend(found),
        Err(e) => findings.push(unseen("ports", &e)),
    }
    findings
}

/// A port that the host may give to one of its own connections cannot be leased. On a host that is not prepared the ports are
/// not reserved yet: what setup would do is no finding.
fn pool(scene: &Scene<'_>, facts: &Facts) -> Finding {
    let (config, size) = (scene.config, scene.config.ephemeral_ports_per_container);
    let (pool, capacity) = (config.ephemeral_ports.ports(), config.ephemeral_ports.capacity(size));
    match grant::check_host(config, facts) {
        // What is not reserved of a host that is prepared is told by the look at the host's part.
        Err(Error::Unsupported { what, .. }) if !scene.record.ready => {
            fail("pool", what, "the host's own connections may take ports of containers", scene.command("setup"))
        }
        _ => ok("pool", format!("pool {pool} holds {capacity} blocks of {size}")),
    }
}

/// What of its ephemeral ports the host has for its own connections. Setup refuses to leave it too few.
fn left(scene: &Scene<'_>, facts: &Facts) -> Finding {
    let left = match grant::host_ports(scene.config, facts.ephemeral, &facts.reserved) {
        Ok(left) => return ok("ports", format!("the host keeps {left} ephemeral ports for itself")),
        Err(e) => e,
    };
    let Error::Unsupported { what, remedy } = left else { return unseen("ports", &left) };
    let taken = facts.reserved.union(&leasable(scene.config));
    let command = widened(facts.ephemeral, &taken, scene.config.host_ports_min.into())
        .map(|range| format!("sysctl -w net.ipv4.ip_local_port_range='{} {}'", range.begin(), range.end()));
    let why =
        format!("where the host opens many connections, they fail (EADDRNOTAVAIL), so setup and sync refuse; {remedy}");
    fail("ports", what, why, command.unwrap_or_default())
}

/// The range of the host widened upwards, else downwards, until enough ports besides those `taken` are in it. Ports below 1024
/// are no ephemeral ones.
fn widened(range: PortRange, taken: &PortSet, least: u32) -> Option<PortRange> {
    const LOWEST: u16 = 1024;
    const STEP: usize = 1024;
    let enough = |range: &PortRange| PortSet::from(*range).difference(taken).len() >= least;
    let upwards = PortRange::new(range.begin(), u16::MAX).filter(enough);
    let mut begins = (LOWEST..=range.begin()).rev().step_by(STEP);
    upwards.or_else(|| begins.find_map(|begin| PortRange::new(begin, range.end()).filter(enough)))
}

/// Sockets of the host on ports that are leased: what comes to them goes to the container.
fn strangers(scene: &Scene<'_>) -> Result<Vec<Finding>> {
    // A host that cannot be opened is told of elsewhere.
    let Ok(Some(host)) = peek_recorded(scene.config) else { return Ok(Vec::new()) };
    let all = PortRange::new(1, u16::MAX).expect("1 is below 65535");
    let leased = host.maps.leased(all);
    let (Some(first), Some(last)) = (leased.ranges().first(), leased.ranges().last()) else { return Ok(Vec::new()) };
    let Some(span) = PortRange::new(first.begin(), last.end()) else { return Ok(Vec::new()) };
    let mut found = holders(&mut Netlink::diag()?, span)?;
    // One without a file is what is left of a connection, and goes by itself.
    found.retain(|holder| holder.inode != 0 && leased.contains(holder.port));
    found.sort_unstable_by_key(|holder| (holder.port, holder.inode));
    Ok(if found.is_empty() { Vec::new() } else { vec![name(&host, &found)] })
}

fn name(host: &Host, found: &[Holder]) -> Finding {
    let desk = Desk::of(&host.maps);
    let inodes: Vec<u32> = found.iter().map(|holder| holder.inode).collect();
    let processes = processes_of(&inodes);
    let mut pids: Vec<u32> = processes.iter().map(|(_, process)| process.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    let line = |holder: &Holder| {
        let process = processes.iter().find(|(inode, _)| *inode == holder.inode).map(|(_, process)| process);
        let who = process.map_or("a process".to_owned(), |p| format!("process {} ({})", p.pid, p.name));
        let protocol = if holder.tcp { "TCP" } else { "UDP" };
        format!("{who} has {protocol} port {} of {} open", holder.port, desk.owner(holder.port))
    };
    let mut lines: Vec<String> = found.iter().map(line).collect();
    lines.dedup();
    let why =
        "what is sent to that port goes to the container: the process gets none of it; end it, or give it another port";
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let command = if pids.is_empty() { String::new() } else { format!("kill {}", pids.join(" ")) };
    fail("ports", some_of(&lines), why, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_ports_are_found_below_or_above() {
        let range = |begin, end, taken: &str| {
            let range = widened(PortRange::new(begin, end).unwrap(), &taken.parse::<PortSet>().unwrap(), 1024);
            range.map(|range| (range.begin(), range.end()))
        };
        assert_eq!(range(32768, 60999, "32768-60999"), Some((32768, 65535)), "above");
        assert_eq!(range(32768, 65535, "32768-65535"), Some((31744, 65535)), "below");
        assert_eq!(range(32768, 65535, "31000-31999,32768-65535"), Some((30720, 65535)), "below what is assigned");
        assert_eq!(range(32768, 65535, "1024-65535"), None);
    }
}
