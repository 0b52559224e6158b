//! What setup does at boot, when there may be no uplink yet: the ports are reserved before anything else.

use super::ready::{alone, check_namespace};
use super::reserve::{check, look};
use super::run;
use super::setup::{How, Outcome, locked, setup};
use crate::config::Config;
use crate::error::Result;
use crate::host::process::{boot_id, privileged};
use crate::host::sysctl::Proc;
use crate::host::{Facts, HostRecord};
use crate::lease::Ledger;
use crate::net::{Netlink, Netns};
use crate::plan::host::leasable;
use crate::plan::{Action, Step};
use crate::wire::HostSite;

/// Reserves the ports, and makes the rest of the host ready if its uplink is there already. Returns what was reserved, and
/// what came of the rest: the outcome, or why there is no uplink.
pub fn at_boot(config: &Config) -> Result<(Vec<Action>, Result<Outcome>)> {
    let reserved = reserve_alone(config)?;
    let mut netlink = Netlink::route()?;
    match Facts::read(&mut netlink, &Proc::default(), config) {
        Ok(_) => Ok((reserved, Ok(setup(config, How::default())?))),
        Err(e) => Ok((reserved, Err(e))),
    }
}

/// Reserves the ports on a host of which nothing else is known.
fn reserve_alone(config: &Config) -> Result<Vec<Action>> {
    privileged()?;
    let (boot, here) = (boot_id(), Netns::here()?);
    let before = HostRecord::read(&config.state_dir, boot)?;
    check_namespace(&before, here, config)?;
    alone(config, &before)?;
    let ledger = Ledger::at(&config.state_dir);
    let mut netlink = Netlink::route()?;
    check(config, &ledger, before, &mut netlink)?;
    let _lock = locked(&ledger)?;
    let mut record = HostRecord::read(&config.state_dir, boot)?;
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
