//! Setup: make the host ready for containers, once per boot. Putting it back as it was is [`super::undo`]'s.
//!
//! Each change is recorded before it is made, so a run that was killed half-way is finished by the next one and can be
//! undone completely.

use std::thread;
use std::time::{Duration, Instant};

use super::follow::{self, Followed};
use super::ready::{alone, check_namespace, given_now};
use super::{files, reserve, run};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::{boot_id, mount_namespace, privileged};
use crate::host::sysctl::Proc;
use crate::host::{Facts, HostRecord, beside, cgroup2, features};
use crate::lease::lock::{Lock, PATIENCE, is_gone};
use crate::lease::{Lease, Ledger, Stage};
use crate::net::{Netlink, Netns};
use crate::plan::host::{self, Wanted, bpf_directory};
use crate::plan::steer::{Made, host_addresses, host_facts};
use crate::plan::{Action, Step};
use crate::steer::Maps;
use crate::steer::layout::LAYOUTS;
use crate::steer::program::VERSION;
use crate::wire::{HostSite, fair, programs, sockets};

/// What setup did, or would do.
pub struct Outcome {
    /// What the host is like.
    pub facts: Facts,
    /// The actions on the host, in order.
    pub actions: Vec<Action>,
    /// The same for slices that ran already and follow the host.
    pub slices: Vec<Followed>,
    /// Did the data path know the host as it was before?
    pub told: bool,
    /// How many ephemeral ports of its own the host keeps.
    pub host_ports: u32,
    /// What is to be known of this host, one line each: why nothing reserves the ports again at the next boot, or why bind() is not
    /// judged.
    pub gaps: Vec<String>,
}

/// How a host is to be made ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Also make what containers need that are limited on the host.
    pub shaper: bool,
    /// Only say what would be done.
    pub dry: bool,
    /// Programs of another version that can share this one's maps are left to work. Only an operator changes the version: two
    /// that are in use at the same time would replace one another's programs at every attach.
    pub keep_programs: bool,
}

/// Makes the host ready for a container.
pub fn prepare(config: &Config, shaper: bool) -> Result<()> {
    setup(config, How { shaper, keep_programs: true, dry: false }).map(drop)
}

/// Brings a host that is ready, and every slice on it, to what the host is like now. `None` when it is not ready: then there is
/// nothing to follow.
pub fn sync(config: &Config, how: How) -> Result<Option<Outcome>> {
    if !HostRecord::read(&config.state_dir, boot_id())?.ready {
        return Ok(None);
    }
    setup(config, how).map(Some)
}

/// Makes the host ready, and mends what of it is missing.
pub fn setup(config: &Config, how: How) -> Result<Outcome> {
    let mut netlink = Netlink::route()?;
    let facts = Facts::read(&mut netlink, &Proc::default(), config)?;
    let (boot, here) = (boot_id(), Netns::here()?);
    let ledger = Ledger::at(&config.state_dir);
    let before = HostRecord::read(&config.state_dir, boot)?;
    check_namespace(&before, here, config)?;
    if !before.ready && !config.state_dir.exists() {
        // One that is refused makes no directory. Asked again under the lock.
        alone(config, &before)?;
    }
    reserve::check(config, &ledger, before, &mut netlink)?;
    let judged = sockets::wanted(config, here);
    if judged && config.socket_cgroup.is_some() {
        cgroup2::open(config.socket_cgroup.as_deref())?;
    }
    let lock = if how.dry { None } else { Some(quiet(config, &ledger, boot)?) };
    let mut record = HostRecord::read(&config.state_dir, boot)?;
    check_namespace(&record, here, config)?;
    check_view(config, &record)?;
    record.begin(boot, here, &config.state_dir)?;
    if !how.keep_programs {
        sockets::try_again(&mut record);
    }
    let shaper = how.shaper || record.shaper != 0;
    let keeps = how.keep_programs && record.ready && programs::is_converted(&record);
    let version = if keeps { record.version.clone() } else { VERSION.to_owned() };
    let mut site = HostSite::new(config, Some(&facts), &ledger, record, &mut netlink);
    check(&mut site, &facts, &version)?;
    let (release, host_ports) = reserve::look(&mut site)?;
    let sides = beside::inbound(site.netlink, &facts.uplink)?;
    let wanted = Wanted { version, shaper, sockets: judged, sides, kept: files::kept(here) };
    let plan = host::host(config, &facts, &wanted);
    let mut actions = obsolete(&site, &facts, &wanted);
    actions.extend(release);
    let mut gaps: Vec<String> = files::boot_gap(here).into_iter().collect();
    if how.dry {
        actions.extend(run::missing(&mut site, plan)?);
        let (given, loaded) = (site.record.given(), programs::is_loaded(&site, &wanted.version)?);
        // What is not there yet cannot be looked at.
        let slices = if loaded { follow::plan(config, &given)? } else { Vec::new() };
        let told = loaded && !knows(config, &facts, &site.record)?;
        return Ok(Outcome { facts, actions, slices, told, host_ports, gaps });
    }
    look_around(&mut site)?;
    site.save()?;
    let was_ready = site.record.ready;
    actions.iter().try_for_each(|action| act(&mut site, action))?;
    actions.extend(complete(&mut site, plan)?);
    if !site.record.ready {
        site.record.generation = programs::now();
        site.record.ready = true;
    }
    site.record.mount_namespace = site.record.mount_namespace.or_else(mount_namespace);
    site.save()?;
    let missing = site.record.sockets.as_ref().and_then(|sockets| sockets.missing.as_ref());
    gaps.extend(missing.map(|why| format!("bind() is not judged: {why}")));
    let told = was_ready && !knows(config, &facts, &site.record)?;
    if told {
        log::info!("{TOLD}");
    }
    let (made, directory) = (Made::of(&site.record), bpf_directory(&config.state_dir));
    Maps::open(&directory)?.set_host(&host_facts(&facts, made), &host_addresses(&facts))?;
    drop(lock);
    // A process that stands still must keep neither other containers from starting nor slices from following that it does not
    // work on.
    let slices = follow::all(config, if how.keep_programs { Duration::from_secs(1) } else { PATIENCE })?;
    Ok(Outcome { facts, actions, slices, told, host_ports, gaps })
}

/// What is done where [`Outcome::told`].
pub const TOLD: &str = "tell the data path of the host's addresses, MAC, MTU, routes and rp_filter";

/// Does the data path know the host as it is?
fn knows(config: &Config, facts: &Facts, record: &HostRecord) -> Result<bool> {
    let maps = Maps::open(&bpf_directory(&config.state_dir))?;
    maps.has_host(&host_facts(facts, Made::of(record)), &host_addresses(facts))
}

/// Carries out what of `plan` is missing, and returns it.
fn complete(site: &mut HostSite<'_>, plan: Vec<Step>) -> Result<Vec<Action>> {
    let mut done = Vec::new();
    for step in plan {
        // Looked at when what comes before it is there: new programs leave every hook with an old one.
        for action in run::missing(site, vec![step])? {
            act(site, &action)?;
            if !is_missing(site, &action) {
                done.push(action);
            }
        }
    }
    Ok(done)
}

/// Is it one that this kernel cannot do, and that its host does without?
fn is_missing(site: &HostSite<'_>, action: &Action) -> bool {
    matches!(action.step, Step::Sockets { .. })
        && site.record.sockets.as_ref().is_some_and(|sockets| sockets.missing.is_some())
}

/// Carries out an action. What fails on a host that is ready leaves what worked there until then.
fn act(site: &mut HostSite<'_>, action: &Action) -> Result<()> {
    let one = std::slice::from_ref(action);
    if site.record.ready { run::through(site, one) } else { run::forward(site, one) }
}

/// The ledger's lock. Where what is there has to be converted, at a moment at which nobody works on a slice: a process that had
/// the older maps open would go on with them. Whoever wants to begin waits for the lock, and finds the host converted.
fn quiet(config: &Config, ledger: &Ledger, boot: &str) -> Result<Lock> {
    let start = Instant::now();
    loop {
        let lock = locked(ledger)?;
        let record = HostRecord::read(&config.state_dir, boot)?;
        if !record.ready || programs::is_converted(&record) {
            return Ok(lock);
        }
        let worked =
            |lease: &Lease| !matches!(lease.stage, Stage::Attached | Stage::Reserved) && lease.worker.is_alive();
        let Some(lease) = ledger.all()?.into_iter().find(worked) else { return Ok(lock) };
        if start.elapsed() > PATIENCE {
            return Err(Error::Busy(format!(
                "the host cannot be converted to this version while process {} works on {}: end it, or try again",
                lease.worker.pid, lease.id
            )));
        }
        drop(lock);
        thread::sleep(Duration::from_millis(2));
    }
}

/// The ledger's lock, in directories that are there: an undo may remove them until it gives the lock back.
pub(super) fn locked(ledger: &Ledger) -> Result<Lock> {
    loop {
        ledger.create()?;
        match ledger.lock() {
            Err(e) if is_gone(&e) => {}
            lock => {
                let lock = lock?;
                ledger.create()?;
                return Ok(lock);
            }
        }
    }
}

/// Refuses a host that another installation serves, and one whose own data path is out of view. One that was unmounted in this
/// mount namespace is mounted again.
fn check_view(config: &Config, record: &HostRecord) -> Result<()> {
    let directory = bpf_directory(&config.state_dir);
    if record.ready && !programs::is_mounted(&directory) && !programs::is_at_home(record) {
        return Err(Error::unsupported(
            format!("the BPF file system on {} is not visible from this mount namespace", directory.display()),
            "run in the host's own mount namespace; if that is gone, end all containers and run `portslice setup --undo`",
        ));
    }
    alone(config, record)
}

/// Refuses what cannot work before anything is changed.
fn check(site: &mut HostSite<'_>, facts: &Facts, version: &str) -> Result<()> {
    privileged()?;
    let leases = !site.ledger.ids()?.is_empty();
    if site.record.ready {
        LAYOUTS
            .check(Some(site.record.layout), &format!("the data path in {}", site.programs.directory().display()))?;
    }
    let new_fair = site.config.egress_unique_flow_per_container && site.record.fair != facts.uplink.index;
    // Trying what the kernel has takes longer than all the rest, and tells the same as long as it runs.
    if !site.record.ready || site.record.version != version || new_fair {
        let probed = features::probe()?;
        features::require(&probed.pieces)?;
        if new_fair {
            fair::check(site.netlink, &probed, &facts.uplink)?;
        }
        // A leaf of another kind could not take over what waits in this one's.
        if site.record.leaf.is_none() || !leases {
            site.record.leaf = probed.leaf();
        }
        site.record.fresh = probed.fresh;
    }
    site.record.give(given_now(facts, &site.record.fresh, version)?);
    Ok(())
}

/// Says what the host's limits are made of.
fn look_around(site: &mut HostSite<'_>) -> Result<()> {
    match site.record.leaf {
        Some(leaf) => log::info!("bandwidth limits: HTB, packets wait in {}", leaf.name()),
        None => log::info!("bandwidth limits: none, this kernel lacks the HTB qdisc"),
    }
    Ok(())
}

/// What an earlier setup made and this configuration does without.
fn obsolete(site: &HostSite<'_>, facts: &Facts, wanted: &Wanted) -> Vec<Action> {
    let fair = site.record.fair;
    let stale = fair != 0 && (fair != facts.uplink.index || !site.config.egress_unique_flow_per_container);
    let fair = stale.then(|| Step::Fair { index: fair, device: "the uplink".into() });
    let sockets = site.record.sockets.as_ref().filter(|_| !wanted.sockets);
    let sockets =
        sockets.map(|sockets| Step::Sockets { version: sockets.version.clone(), cgroup: sockets.cgroup.clone() });
    let outdated = host::outdated(&site.record, facts, &wanted.sides);
    Action::undo(fair.into_iter().chain(sockets).chain(outdated).chain(files::obsolete(&wanted.kept)).collect())
}
