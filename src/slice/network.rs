//! A network as a whole, for whoever attaches containers to networks: whether it takes another one, and ending what is attached
//! to it and should not be.

use super::detach::{By, detach};
use super::ready::peek;
use super::reclaim::sweep;
use super::refused::{InTheWay, refused};
use super::wanted::{assignable, span};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::Facts;
use crate::host::process::missing_capability;
use crate::host::sysctl::Proc;
use crate::lease::{Desk, Lease, Ledger, Stage};
use crate::net::{Netlink, diag};
use crate::plan::grant::{Refusal, check_host};
use crate::ports::pool::View;
use crate::request::{Attachment, ContainerId};

use crate::wire::Host;

/// Fails, with the reason, when no container that asks for nothing in particular could be attached now. A host that is not
/// prepared yet is fine: the first attach prepares it.
pub fn takes_another(config: &Config) -> Result<()> {
    if let Some(capability) = missing_capability() {
        return Err(Error::unsupported(
            format!("{capability} is missing"),
            "run as root, in the host's own namespaces",
        ));
    }
    let mut netlink = Netlink::route()?;
    let facts = Facts::read(&mut netlink, &Proc::private(), config)?;
    check_host(config, &facts)?;
    let Some(host) = peek(config)? else { return Ok(()) };
    match has_room(config, &host) {
        // What is in the way may belong to containers whose end nobody told us of.
        Err(_) if sweep(&Ledger::at(&config.state_dir), &host)?.ended > 0 => has_room(config, &host),
        room => room,
    }
}

/// Is a slot free, and a block of the default size?
fn has_room(config: &Config, host: &Host) -> Result<()> {
    let desk = Desk::of(&host.maps);
    if desk.free_slot().is_none() {
        return Err(Error::Exhausted("all slots are taken: a host carries no more containers".to_owned()));
    }
    let range = span(&assignable(config));
    let holders = range.map_or(Ok(Vec::new()), |range| diag::holders(&mut Netlink::diag()?, range))?;
    let used = diag::ports_of(&holders);
    let leased = range.map_or_else(Default::default, |range| desk.taken(range));
    let (taken, resting) = (leased.union(&used), desk.resting(config.block_cooldown));
    let view = View { taken: &taken, resting: &resting, cursor: desk.cursor().block };
    let chosen = config.ephemeral_ports.choose(config.ephemeral_ports_per_container, &view, None);
    let in_the_way = InTheWay { config, desk, used: &used };
    chosen.map(drop).map_err(|full| refused(Refusal::Full(full), &in_the_way))
}

/// Ends every attachment to `network` that `listed` does not have, and nothing else. Goes on after a failure, and returns the
/// first.
pub fn keep_only(config: &Config, network: &str, listed: impl Fn(&ContainerId, &Attachment) -> bool) -> Result<()> {
    let ledger = Ledger::at(&config.state_dir);
    let mut first = Ok(());
    for lease in ledger.all()?.iter().filter(|lease| !is_worked_on(lease)) {
        for member in &lease.members {
            let Some(attachment) = member.attachment.as_ref().filter(|it| it.network == network) else { continue };
            if listed(&member.id, attachment) {
                continue;
            }
            log::info!("{}: is not listed in network {network} any more", member.id);
            let done = detach(config, &member.id, &By::Network(attachment.clone())).map(drop);
            first = first.and(done);
        }
    }
    first
}

/// One that is being attached is not listed yet.
fn is_worked_on(lease: &Lease) -> bool {
    lease.stage != Stage::Attached && lease.worker.is_alive()
}
