//! Opening the prepared host. Preparing it is [`super::setup`]'s; from then on every verb only opens what is pinned.

use std::time::Instant;

use crate::config::{Config, SocketRules};
use crate::error::{Error, Result};
use crate::host::process::{boot_id, in_the_hosts_user_namespace, missing_capability};
use crate::host::sysctl::{Proc, Setting};
use crate::host::{Facts, Given, HostRecord};
use crate::lease::Ledger;
use crate::lease::lock::{Lock, PATIENCE, is_gone};
use crate::net::netns::NetnsId;
use crate::net::{Netlink, Netns};
use crate::plan::host::bpf_directory;
use crate::plan::steer::{Made, asks_fib, host_addresses, host_facts};
use crate::steer::layout::LAYOUTS;
use crate::steer::program::VERSION;
use crate::steer::{Maps, Programs, find};
use crate::wire::{Host, programs, shaper, sockets};

/// Makes the host ready, with the shaper if that is needed: [`super::setup::prepare`], or a command that does it.
pub type Preparer<'a> = &'a dyn Fn(&Config, bool) -> Result<()>;

/// Opens the prepared host. One that is not prepared, or about which something changed since, is prepared first, which lets
/// every slice follow the change.
pub fn ready(
    config: &Config,
    netlink: &mut Netlink,
    facts: &mut Facts,
    shaper: bool,
    prepare: Preparer<'_>,
) -> Result<Host> {
    let start = Instant::now();
    loop {
        if let Some(host) = open_current(config, netlink, facts, shaper)? {
            return Ok(host);
        }
        // It may change again, or be undone, while it is prepared.
        if start.elapsed() > PATIENCE {
            return Err(Error::Busy("the host changes faster than it can be prepared: try again".into()));
        }
        prepare(config, shaper)?;
        *facts = Facts::read(netlink, &Proc::default(), config)?;
    }
}

/// Opens the prepared host without changing anything; `None` when it is not prepared. A host that is served all the same,
/// by an installation whose record is not to be seen here, is refused.
pub fn peek(config: &Config) -> Result<Option<Host>> {
    loop {
        if let Some(host) = peek_recorded(config)? {
            return Ok(Some(host));
        }
        let record = HostRecord::read(&config.state_dir, boot_id())?;
        match alone(config, &record) {
            // It may have been set up between the two looks.
            Err(_) if HostRecord::read(&config.state_dir, boot_id())?.ready => {}
            done => return done.map(|()| None),
        }
    }
}

/// The same, from the record alone.
pub fn peek_recorded(config: &Config) -> Result<Option<Host>> {
    loop {
        let record = HostRecord::read(&config.state_dir, boot_id())?;
        if !record.ready {
            return Ok(None);
        }
        check_namespace(&record, Netns::here()?, config)?;
        match open(config, &record) {
            // It was undone while it was opened.
            Err(_) if !is_of(&HostRecord::read(&config.state_dir, boot_id())?, record.generation) => {}
            opened => return opened.map(Some),
        }
    }
}

/// What containers are to be given of the host now. `fresh`: settings that a namespace has by itself; `version`: of the
/// programs.
pub fn given_now(facts: &Facts, fresh: &[Setting], version: &str) -> Result<Given> {
    let mut copied = Proc::default().here().copied()?;
    copied.retain(|setting| !fresh.contains(setting));
    Ok(Given::of(facts, &copied, version))
}

/// Refuses a host that another installation serves than the one of `record`, by what the kernel has: what a directory does
/// not tell may be there all the same.
pub fn alone(config: &Config, record: &HostRecord) -> Result<()> {
    let others = match others(record) {
        // Whoever may not look may not change anything either.
        Err(e) if missing_capability().is_some() => {
            log::debug!("{e}");
            return Ok(());
        }
        others => others?,
    };
    let Some(theirs) = others.first() else { return Ok(()) };
    if theirs.state_dir == config.state_dir {
        return Err(Error::unsupported(
            format!(
                "this host is served by an installation whose record {} is lost, or not visible here",
                HostRecord::path(&config.state_dir).display()
            ),
            "run `portslice fsck --rebuild` in the host's own mount namespace, which restores it from the kernel",
        ));
    }
    Err(Error::unsupported(
        format!("this host is served already, by the installation in {}", theirs.state_dir.display()),
        "use that one (--state-dir), or run its `portslice setup --undo` first",
    ))
}

/// The records of installations that serve this namespace and are not the one of `record`, from the kernel.
pub fn others(record: &HostRecord) -> Result<Vec<HostRecord>> {
    in_the_hosts_user_namespace()?;
    let here = Netns::here()?;
    let mut others = Vec::new();
    for installation in find::installations()? {
        let Ok(theirs) = serde_json::from_slice::<HostRecord>(&installation.record) else { continue };
        if theirs.ready && theirs.netns == Some(here) && theirs.instance != record.instance {
            others.push(theirs);
        }
    }
    Ok(others)
}

/// Takes the ledger's lock for a verb that opened `host`. `None` when that host was undone meanwhile, even if it was set up
/// anew: its maps are nobody's, and every lease of the new one would look dead in them.
pub fn locked(ledger: &Ledger, host: &Host) -> Result<Option<Lock>> {
    locked_if(ledger, |record| is_of(record, host.generation))
}

/// The same for a verb that gives a container what `host` says: `None` also when that is no longer what containers are given.
/// A slice that is entered later than a change is known would not be among those that follow it.
pub fn locked_as_given(ledger: &Ledger, host: &Host) -> Result<Option<Lock>> {
    let given = |record: &HostRecord| record.given.last().map(|given| given.generation);
    locked_if(ledger, |record| is_of(record, host.generation) && given(record) == Some(host.given.generation))
}

fn locked_if(ledger: &Ledger, holds: impl Fn(&HostRecord) -> bool) -> Result<Option<Lock>> {
    let lock = match ledger.lock() {
        Err(e) if is_gone(&e) => return Ok(None),
        lock => lock?,
    };
    Ok(holds(&HostRecord::read(ledger.state_dir(), boot_id())?).then_some(lock))
}

fn is_of(record: &HostRecord, generation: u64) -> bool {
    record.ready && record.generation == generation
}

/// Refuses a state directory that is another namespace's.
pub fn check_namespace(record: &HostRecord, here: NetnsId, config: &Config) -> Result<()> {
    match record.netns {
        Some(known) if known != here => Err(Error::unsupported(
            format!("state directory {} belongs to another network namespace", config.state_dir.display()),
            "run in the host's own namespace, or give this one a state directory of its own (--state-dir)",
        )),
        _ => Ok(()),
    }
}

/// Is every program and map pinned, as far as names tell? What is out of view is not missed.
fn is_whole(record: &HostRecord, config: &Config) -> bool {
    let directory = bpf_directory(&config.state_dir);
    let programs = Programs::at(&directory);
    let judged = record.sockets.as_ref().is_some_and(|sockets| sockets.missing.is_none());
    let pinned =
        programs::is_mounted(&directory) && programs.are_pinned() && (!judged || programs.sockets_are_pinned());
    pinned || !programs::is_at_home(record)
}

/// Are there programs at the sockets if and only if there are to be? Those of another version are an operator's to replace.
fn is_judged_as_asked(record: &HostRecord, config: &Config) -> Result<bool> {
    if record.version != VERSION {
        return Ok(true);
    }
    match (&record.sockets, config.socket_rules) {
        (Some(_), SocketRules::Auto) | (None, SocketRules::Off) => Ok(true),
        (Some(sockets), SocketRules::Require) => Ok(sockets.missing.is_none()),
        (Some(_), SocketRules::Off) => Ok(false),
        (None, _) => Ok(!sockets::wanted(config, Netns::here()?)),
    }
}

/// Opens what is pinned; where the pins are out of view, what the kernel has all the same.
pub fn open(config: &Config, record: &HostRecord) -> Result<Host> {
    in_the_hosts_user_namespace()?;
    let directory = bpf_directory(&config.state_dir);
    if !programs::is_mounted(&directory) {
        if programs::is_at_home(record) {
            return Err(Error::unsupported(
                format!("somebody unmounted the BPF file system on {}", directory.display()),
                "run `portslice setup`, which mounts it again",
            ));
        }
        return Err(Error::unsupported(
            format!("the BPF file system on {} is not visible from this mount namespace", directory.display()),
            "run in the host's own mount namespace (a service with PrivateMounts or MountFlags is not)",
        ));
    }
    if !programs::is_converted(record) {
        let path = HostRecord::path(&config.state_dir);
        LAYOUTS.check(Some(record.layout), &format!("the data path of {}", path.display()))?;
        return Err(Error::unsupported(
            format!("{} was written by an older portslice", path.display()),
            "run `portslice setup`, which converts it; containers run on meanwhile",
        ));
    }
    Ok(Host {
        maps: Maps::open(&directory)?,
        programs: Programs::at(&directory),
        instance: record.instance,
        given: record.given(),
        leaf: record.leaf,
        shaper: (record.shaper != 0).then_some(record.shaper),
        generation: record.generation,
        sockets: record.sockets.clone().filter(|sockets| sockets.missing.is_none()),
    })
}

/// The prepared host, if nothing is left to do about it. A shaper that was made is asked for: somebody may have deleted it.
fn open_current(config: &Config, netlink: &mut Netlink, facts: &Facts, shaper: bool) -> Result<Option<Host>> {
    let record = HostRecord::read(&config.state_dir, boot_id())?;
    check_namespace(&record, Netns::here()?, config)?;
    let (uplink, fair) = (facts.uplink.index, config.egress_unique_flow_per_container);
    let prepared = record.ready
        && programs::is_converted(&record)
        && is_whole(&record, config)
        && record.uplink == uplink
        && record.fair == if fair { uplink } else { 0 }
        // setup alone knows whether another device needs it
        && (record.fib != 0 || !asks_fib(facts))
        && is_judged_as_asked(&record, config)?;
    if !prepared || (shaper && shaper::find(netlink, record.instance)? != Some(record.shaper)) {
        return Ok(None);
    }
    let host = open(config, &record)?;
    // The settings are setup's to look at: reading them takes as long as all the rest.
    let same = host.given.same(&Given::of(facts, &host.given.copied, &host.given.version))
        && host.maps.has_host(&host_facts(facts, Made::of(&record)), &host_addresses(facts))?;
    Ok(same.then_some(host))
}
