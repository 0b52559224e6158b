//! Reserving the ports that may be leased: what is asked before it is done, and what setup does first.

use crate::config::Config;
use crate::error::Result;
use crate::host::HostRecord;
use crate::host::sysctl::Proc;
use crate::lease::Ledger;
use crate::net::Netlink;
use crate::plan::host::{bpf_directory, leasable};
use crate::plan::{Action, Step, grant};
use crate::ports::{PortRange, PortSet};
use crate::steer::Maps;
use crate::wire::{HostSite, reserve};

/// Refuses a configuration that leaves the host too few ephemeral ports, before anything is written, the lock among it.
pub fn check(config: &Config, ledger: &Ledger, record: HostRecord, netlink: &mut Netlink) -> Result<()> {
    look(&mut HostSite::new(config, None, ledger, record, netlink)).map(drop)
}

/// What is reserved and no longer needed, as the actions that release it; and how many ephemeral ports of its own the host
/// keeps then. Refuses a configuration that leaves it too few.
pub fn look(site: &mut HostSite<'_>) -> Result<(Vec<Action>, u32)> {
    let wanted = leasable(site.config);
    reserve::recall(site, &wanted)?;
    let mut stale = site.record.reserved.as_ref().map_or_else(PortSet::empty, |ours| ours.added.difference(&wanted));
    if !stale.is_empty() {
        stale = stale.difference(&leased(site)?);
    }
    let proc = Proc::default();
    let mut settings = proc.here();
    let reserved = settings.reserved_ports()?.difference(&stale);
    let left = grant::host_ports(site.config, settings.ephemeral_range()?, &reserved)?;
    let release = if stale.is_empty() { Vec::new() } else { Action::undo(vec![Step::Reserve { ports: stale }]) };
    Ok((release, left))
}

/// The ports of all containers: those that keep theirs when the pool gets smaller have them until they end.
fn leased(site: &HostSite<'_>) -> Result<PortSet> {
    if !site.record.ready {
        return Ok(PortSet::empty());
    }
    let maps = Maps::open(&bpf_directory(&site.config.state_dir))?;
    Ok(PortRange::new(1, u16::MAX).map_or_else(PortSet::empty, |all| maps.leased(all)))
}
