//! Fsck: compare everything that is remembered with the kernel, and rebuild what is lost.
//!
//! A lease stands in two places, as a file and in the kernel's book; maps and devices follow from it. Each is compared with
//! the others. Rebuilding writes the file from the book or the book from the file, and the maps from both.

use serde::Serialize;

use super::ready::{given_now, locked, open, peek_recorded};
use super::run;
use super::state::{State, state};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::boot_id;
use crate::host::sysctl::Proc;
use crate::host::{Facts, Given, HostRecord, beside};
use crate::lease::ledger::{decode, encode};
use crate::lease::{Desk, Lease, Ledger, Stage};
use crate::net::{Netlink, Netns};
use crate::plan::slice::{Surroundings, follow, slice, steered};
use crate::plan::steer::{Made, host_addresses, host_facts};
use crate::plan::{Step, host as host_plan};
use crate::steer::{TenantState, find};
use crate::wire::{Carry, Host, HostSite, Others, Site, sockets};

/// What a difference concerns: why it matters and what mends it follows from that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A record: of the host, or of a slice, its copies and links and what the tables say of it. Rebuilding mends it.
    Record,
    /// A container that ended, or a change of one that was killed.
    Ended,
    /// What the data path knows of the host.
    Facts,
    /// A part of the host or of a slice.
    Step(Box<Step>),
    /// What the container itself altered in its namespace. It stays so.
    Altered,
}

/// Something that is not as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it concerns.
    #[serde(skip)]
    pub about: About,
    /// The container, or `host`.
    pub of: String,
    /// What differs, one line.
    pub what: String,
    /// Whether it was put right.
    pub mended: bool,
}

/// Looks at everything.
pub fn fsck(config: &Config) -> Result<Vec<Difference>> {
    let ledger = Ledger::at(&config.state_dir);
    if lost_record(config)?.is_some() {
        return Ok(vec![differs("host", About::Record, RECORD_LOST)]);
    }
    let Some(host) = peek_recorded(config)? else { return Ok(Vec::new()) };
    let mut netlink = Netlink::route()?;
    let present = Present::read(config, &host, &mut netlink)?;
    let mut all = look_at_host(config, &present, &host, &ledger, &mut netlink)?;
    let desk = Desk::of(&host.maps);
    let (mut slots, mut unread) = (Vec::new(), Vec::new());
    let place = Place { ledger: &ledger, host: &host, present: &present, others: &Others::default() };
    for id in ledger.ids()? {
        match ledger.read(&id) {
            Ok(Some(lease)) => {
                slots.push(lease.slot);
                all.extend(look_at_lease(&lease, &place, &mut netlink)?);
            }
            Ok(None) => {}
            Err(e) => {
                all.push(differs(id.as_str(), About::Record, e.to_string()));
                unread.push(id);
            }
        }
    }
    for slot in desk.leased().filter(|slot| !slots.contains(slot)) {
        let about = match desk.record(slot) {
            Ok(Some(lease)) if unread.contains(&lease.id) => continue,
            // Without the kernel's copy there is nothing to restore it from.
            Ok(None) => About::Ended,
            _ => About::Record,
        };
        all.push(differs(&desk.name(slot), about, format!("slot {slot} is leased, and its lease is lost")));
    }
    Ok(all)
}

/// Looks at one slice, and at what of the host it cannot do without: the programs that lead to it. `others`: what was made of
/// its network on purpose by somebody else.
pub fn check(config: &Config, lease: &Lease, others: &Others) -> Result<Vec<Difference>> {
    let gone = || Error::NotFound(format!("the host is not prepared: container {} has no network", lease.id));
    let (ledger, host) = (Ledger::at(&config.state_dir), peek_recorded(config)?.ok_or_else(gone)?);
    let mut netlink = Netlink::route()?;
    let present = Present::read(config, &host, &mut netlink)?;
    let mut all = look_at_host(config, &present, &host, &ledger, &mut netlink)?;
    all.retain(|difference| match &difference.about {
        About::Step(step) => {
            matches!(**step, Step::Mount { .. } | Step::Load { .. } | Step::Hook { .. } | Step::Sockets { .. })
        }
        _ => false,
    });
    let place = Place { ledger: &ledger, host: &host, present: &present, others };
    all.extend(look_at_lease(lease, &place, &mut netlink)?);
    Ok(all)
}

/// Restores what is lost. `dry`: only says what would be restored.
pub fn rebuild(config: &Config, dry: bool) -> Result<Vec<Difference>> {
    let mut all = Vec::new();
    let ledger = Ledger::at(&config.state_dir);
    if let Some(record) = lost_record(config)? {
        all.push(Difference { mended: !dry, ..differs("host", About::Record, RECORD_LOST) });
        if dry {
            return Ok(all);
        }
        ledger.create()?;
        let _lock = ledger.lock()?;
        ledger.replace(&HostRecord::path(&config.state_dir), &record)?;
    }
    let Some(host) = peek_recorded(config)? else { return Ok(all) };
    restore(&ledger, &host, dry, &mut all)?;
    if !dry {
        all.extend(fsck(config)?);
    }
    Ok(all)
}

const RECORD_LOST: &str = "its record is lost, and the kernel still has it";

fn differs(of: &str, about: About, what: impl Into<String>) -> Difference {
    Difference { about, of: of.to_owned(), what: what.into(), mended: false }
}

/// The host record that only the kernel has: of an installation of this state directory, in this namespace.
fn lost_record(config: &Config) -> Result<Option<Vec<u8>>> {
    let path = HostRecord::path(&config.state_dir);
    if path.exists() && HostRecord::read(&config.state_dir, boot_id()).is_ok() {
        return Ok(None);
    }
    let here = Netns::here()?;
    for other in find::installations()? {
        let Ok(record) = serde_json::from_slice::<HostRecord>(&other.record) else { continue };
        if record.ready && record.netns == Some(here) && record.state_dir == config.state_dir {
            // It is of use only where what it speaks of is to be seen.
            open(config, &record)?;
            return Ok(Some(other.record));
        }
    }
    Ok(None)
}

/// Writes what is lost: files from the book, the book from files, and the tables from both. Under the lock, since it decides
/// what is taken. `dry`: only says what would be written.
fn restore(ledger: &Ledger, host: &Host, dry: bool, all: &mut Vec<Difference>) -> Result<()> {
    let Some(_lock) = locked(ledger, host)? else { return Ok(()) };
    if !dry {
        ledger.create()?;
    }
    let desk = Desk::of(&host.maps);
    let write = |lease: &Lease| if dry { Ok(()) } else { ledger.write(lease, &host.maps.book) };
    let mut mended = |of: &str, what: &str| all.push(Difference { mended: !dry, ..differs(of, About::Record, what) });
    for slot in host.maps.book.slots()? {
        let Some(bytes) = host.maps.book.read(slot)? else { continue };
        let lease = decode(&bytes, std::path::Path::new("the kernel's book"))?;
        if ledger.read(&lease.id).is_ok_and(|there| there.is_some()) {
            continue;
        }
        write(&lease)?;
        mended(lease.id.as_str(), "its lease is restored from the kernel");
    }
    for lease in ledger.all()? {
        if host.maps.book.read(lease.slot).ok().flatten() != Some(encode(&lease)?) {
            write(&lease)?;
            mended(lease.id.as_str(), "the kernel's copy of its lease is written again");
        } else if !linked(&lease, ledger) {
            write(&lease)?;
            mended(lease.id.as_str(), "the links to its members are made again");
        }
        if lease.stage != Stage::Attached || state(&lease, ledger, host)? != State::Live {
            continue;
        }
        if let Some(port) = lease.all_ports().iter().find(|port| stranger(host, *port, lease.slot)) {
            log::error!("{}: port {port} of its lease is {} now", lease.id, desk.owner(port));
            continue;
        }
        if as_entered(&lease, host) {
            continue;
        }
        mended(lease.id.as_str(), "its slot and its ports are entered again");
        if !dry {
            let cursor = desk.cursor();
            desk.enter(&lease)?;
            // What was given out last is not what is entered again.
            if cursor.epoch >= lease.epoch {
                host.maps.tenants.set_cursor(cursor);
            }
            host.maps.publish(&steered(&lease, &lease.state()), lease.slot);
        }
    }
    Ok(())
}

/// Is the lease found by the id of each of its members?
fn linked(lease: &Lease, ledger: &Ledger) -> bool {
    lease.members.iter().all(|member| ledger.of_member(&member.id).is_ok_and(|found| found.is_some()))
}

/// Is the port another slice's?
fn stranger(host: &Host, port: u16, slot: u16) -> bool {
    host.maps.owner(port).is_some_and(|owner| owner.slot != slot)
}

/// Do the tables say of a lease what it says itself?
fn as_entered(lease: &Lease, host: &Host) -> bool {
    let tenant = host.maps.tenants.get(lease.slot);
    let (is, reserved) = host.maps.owned(lease.slot);
    tenant.state == TenantState::Leased
        && (tenant.netns, tenant.stamp) == (lease.netns_id.ino, lease.given)
        && is == steered(lease, &lease.state())
        && is.union(&reserved) == lease.all_ports()
}

/// Where a slice is looked at.
struct Place<'a> {
    ledger: &'a Ledger,
    host: &'a Host,
    present: &'a Present,
    others: &'a Others,
}

fn look_at_lease(lease: &Lease, place: &Place<'_>, netlink: &mut Netlink) -> Result<Vec<Difference>> {
    let (name, &Place { ledger, host, present, others }) = (lease.id.as_str(), place);
    match state(lease, ledger, host)? {
        State::Worked => return Ok(Vec::new()),
        State::Dead => {
            return Ok(vec![differs(name, About::Ended, "its container is gone: `portslice gc` takes it back")]);
        }
        State::Torn => {
            let what = "a change of it was interrupted: `portslice gc` takes that back";
            return Ok(vec![differs(name, About::Ended, what)]);
        }
        State::Live => {}
    }
    let mut lines = Vec::new();
    match host.maps.book.read(lease.slot) {
        Ok(Some(bytes)) if Some(&bytes) == ledger.bytes(&lease.id)?.as_ref() => {}
        Ok(Some(_)) => lines.push("its lease and the kernel's copy of it differ".to_owned()),
        Ok(None) => lines.push("the kernel has no copy of its lease".to_owned()),
        Err(e) => lines.push(e.to_string()),
    }
    if !linked(lease, ledger) {
        lines.push("a member has no link to it".to_owned());
    }
    if !as_entered(lease, host) {
        lines.push("the data path's tables do not say of it what its lease says".to_owned());
    }
    let leaf = host.leaf.unwrap_or_default();
    let sockets = host.maps.namespaces.is_some();
    let around = Surroundings { given: &present.given, instance: host.instance, leaf, own: &[], sockets };
    let mut site = Site { others: Some(others), ..Site::of(lease, host, &present.proc, netlink) };
    let mut all: Vec<Difference> = lines.into_iter().map(|line| differs(name, About::Record, line)).collect();
    for step in slice(lease, &around) {
        match step {
            Step::Furnish(_) => all.extend(look_inside(lease, &mut site, step, host, present)),
            step => all.extend(look_at_steps(name, &mut site, vec![step])),
        }
    }
    Ok(all)
}

/// What differs in the namespace of a slice: because the slice is behind the host, or because the container altered what it was
/// given last.
fn look_inside(lease: &Lease, site: &mut Site<'_>, step: Step, host: &Host, present: &Present) -> Vec<Difference> {
    let name = lease.id.as_str();
    let altered = |line: String| differs(name, About::Altered, line);
    if lease.given == host.given.generation && present.given.same(&host.given) {
        return run::differences(site, std::slice::from_ref(&step)).into_iter().map(altered).collect();
    }
    let last = present.record.given.iter().find(|given| given.generation == lease.given);
    let step = follow(lease, last, &present.given, &present.record.fresh);
    let mut from_last = Vec::new();
    if let Step::Furnish(furniture) = &step
        && let Some(last) = &furniture.last
    {
        from_last = run::differences(site, &[Step::Furnish(last.clone())]);
    }
    let mut all = look_at_steps(name, site, vec![step]);
    for difference in all.iter_mut().filter(|difference| from_last.contains(&difference.what)) {
        difference.about = About::Altered;
    }
    all
}

fn look_at_host(
    config: &Config,
    present: &Present,
    host: &Host,
    ledger: &Ledger,
    netlink: &mut Netlink,
) -> Result<Vec<Difference>> {
    let (facts, record) = (&present.facts, present.record.clone());
    let made = Made::of(&record);
    let wanted = host_plan::Wanted {
        version: record.version.clone(),
        sockets: sockets::wanted(config, Netns::current()?.id),
        shaper: record.shaper != 0,
        sides: beside::inbound(netlink, &facts.uplink)?,
        kept: host_plan::Kept::default(),
    };
    let mut site = HostSite::new(config, Some(facts), ledger, record, netlink);
    let plan = host_plan::host(config, facts, &wanted);
    let mut all = look_at_steps("host", &mut site, plan);
    if !host.maps.has_host(&host_facts(facts, made), &host_addresses(facts))? {
        let what = "the data path knows the host as it was: its addresses, MAC, MTU, routes or rp_filter changed since";
        all.push(differs("host", About::Facts, what));
    } else if !present.given.same(&host.given) {
        let what = "containers are given the host as it was: its routes, settings or programs changed since";
        all.push(differs("host", About::Facts, what));
    }
    Ok(all)
}

/// The host as it is now.
struct Present {
    facts: Facts,
    /// What containers are to be given of it.
    given: Given,
    /// What was done to it.
    record: HostRecord,
    /// Where settings are read.
    proc: Proc,
}

impl Present {
    fn read(config: &Config, host: &Host, netlink: &mut Netlink) -> Result<Self> {
        let facts = Facts::read(netlink, &Proc::default(), config)?;
        let record = HostRecord::read(&config.state_dir, boot_id())?;
        let given = given_now(&facts, &record.fresh, &host.given.version)?;
        Ok(Present { given, facts, record, proc: Proc::private() })
    }
}

fn look_at_steps(of: &str, site: &mut impl Carry, steps: Vec<Step>) -> Vec<Difference> {
    let mut all = Vec::new();
    for step in steps {
        let lines = run::differences(site, std::slice::from_ref(&step));
        all.extend(lines.into_iter().map(|line| differs(of, About::Step(Box::new(step.clone())), line)));
    }
    all
}
