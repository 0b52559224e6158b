//! Reserving the ports that may be leased: what setup does first, and at boot before there is an uplink.

use super::ready::{alone, check_namespace};
use super::run;
use super::setup::{How, Outcome, locked, setup};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::{boot_id, missing_capability};
use crate::host::sysctl::Proc;
use crate::host::{Facts, HostRecord};
use crate::lease::{Desk, Ledger};
use crate::net::{Netlink, Netns};
use crate::plan::host::{bpf_directory, leasable};
use crate::plan::{Action, Step, grant};
use crate::ports::{PortRange, PortSet};
use crate::steer::Maps;
use crate::wire::{HostSite, reserve};

/// Reserves the ports, and makes the rest of the host ready if its uplink is there already. Returns what was reserved, and
/// what came of the rest: the outcome, or why there is no uplink.
pub fn at_boot(config: &Config) -> Result<(Vec<Action>, Result<Outcome>)> {
    let reserved = reserve_alone(config)?;
    let mut netlink = Netlink::route()?;
    match Facts::read(&mut netlink, &Proc::default(), config.uplink.as_deref()) {
        Ok(_) => Ok((reserved, Ok(setup(config, How::default())?))),
        Err(e) => Ok((reserved, Err(e))),
    }
}

/// Reserves the ports on a host of which nothing else is known.
fn reserve_alone(config: &Config) -> Result<Vec<Action>> {
    if let Some(capability) = missing_capability() {
        return Err(Error::unsupported(format!("this process lacks {capability}"), "run as root"));
    }
    let (boot, here) = (boot_id(), Netns::current()?.id);
    let before = HostRecord::read(&config.state_dir, &boot)?;
    check_namespace(&before, here, config)?;
    alone(config, &before)?;
    let ledger = Ledger::at(&config.state_dir);
    let mut netlink = Netlink::route()?;
    check(config, &ledger, before, &mut netlink)?;
    let _lock = locked(&ledger)?;
    let mut record = HostRecord::read(&config.state_dir, &boot)?;
    check_namespace(&record, here, config)?;
    record.begin(boot, here, &config.state_dir)?;
    let mut site = HostSite::new(config, None, &ledger, record, &mut netlink);
    let (mut actions, _) = look(&mut site)?;
    actions.extend(run::missing(&mut site, vec![Step::Reserve { ports: leasable(config) }])?);
    site.save()?;
    for action in &actions {
        run::forward(&mut site, std::slice::from_ref(action))?;
    }
    site.save()?;
    Ok(actions)
}

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
    Ok(PortRange::new(1, u16::MAX).map_or_else(PortSet::empty, |all| Desk::of(&maps).taken(all)))
}
