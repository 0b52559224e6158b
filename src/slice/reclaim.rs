//! Reclaim: end what nobody ended. A runtime may never call poststop (crun after a failed hook, a kill -9, a reboot
//! of the daemon), so the kernel is asked what is still alive.

use super::ready::{locked, peek};
use super::state::{State, state};
use super::turn::settle;
use super::{end, run};
use crate::config::Config;
use crate::error::Result;
use crate::host::HostRecord;
use crate::host::process::boot_id;
use crate::host::sysctl::Proc;
use crate::lease::lock::is_gone;
use crate::lease::{Desk, Lease, Ledger, Stage};
use crate::net::link::{self, Link, own_mac};
use crate::net::{Netlink, holders};
use crate::plan::Action;
use crate::request::ContainerId;
use crate::steer::MAX_SLOTS;
use crate::wire::{Host, Site};

/// What [`gc`] found.
enum Finding {
    /// A lease whose container is gone.
    Dead(Box<Lease>),
    /// A change that was killed on the way.
    Torn(Box<Lease>),
    /// A lease of which the kernel has another copy: whoever wrote it was killed in between.
    Copy(Box<Lease>),
    /// A slot that is taken and of which no record is left.
    Lost(u16),
}

/// What [`gc`] did.
#[derive(Default)]
pub struct Reclaimed {
    /// The ids of the slices that ended.
    pub ended: Vec<String>,
    /// Everything that was changed, one line each.
    pub lines: Vec<String>,
}

/// Takes back every dead lease, finishes what was interrupted, and removes devices of ours that no lease explains.
pub fn gc(config: &Config) -> Result<Reclaimed> {
    let ledger = Ledger::at(&config.state_dir);
    let Some(host) = peek(config)? else {
        return forget_all(config, &ledger);
    };
    let mut reclaimed = Reclaimed::default();
    for finding in findings(&ledger, &host)? {
        // one failing lease must not keep the others from being taken back
        let done = match &finding {
            Finding::Dead(lease) => {
                log::info!("{}: its network namespace is gone, taking back block {}", lease.id, lease.block);
                end::end(&ledger, &host, lease)
            }
            Finding::Torn(lease) => settle(&ledger, &host, lease).map(|()| true),
            Finding::Copy(lease) => copy(&ledger, &host, lease),
            Finding::Lost(slot) => clear(&ledger, &host, *slot),
        };
        match done {
            Ok(false) => {}
            Ok(true) => reclaimed.add(&finding),
            Err(e) => log::error!("{e}, while taking back what nobody ended"),
        }
    }
    let Some(_lock) = locked(&ledger, &host)? else { return Ok(reclaimed) };
    ledger.remove_leftovers()?;
    let mut netlink = Netlink::route()?;
    for device in strays(&mut netlink, &host)? {
        netlink.send(link::delete(device.index, &device.name).tolerate(&[libc::ENODEV]))?;
        reclaimed.lines.push(format!("removed device {}, which no lease explains", device.name));
    }
    Ok(reclaimed)
}

impl Reclaimed {
    fn add(&mut self, finding: &Finding) {
        self.lines.push(match finding {
            Finding::Dead(lease) => {
                self.ended.push(lease.id.to_string());
                format!("removed slice of {}: ports {}", lease.id, lease.all_ports())
            }
            Finding::Torn(lease) => format!("undid a change of {} that was interrupted", lease.id),
            Finding::Copy(lease) => format!("wrote the kernel's copy of the lease of {} again", lease.id),
            Finding::Lost(slot) => format!("released slot {slot}, of which no record was left"),
        });
    }
}

/// Takes back what is reserved for one container, if whoever was to create it has ended: nobody takes it up any more.
pub fn withdraw(config: &Config, id: &ContainerId) -> Result<()> {
    let ledger = Ledger::at(&config.state_dir);
    // Nearly every container that is deleted has been there: one look at a file tells.
    let Some(lease) = ledger.read(id)?.filter(|lease| lease.stage == Stage::Reserved) else { return Ok(()) };
    let Some(host) = peek(config)? else { return Ok(()) };
    if state(&lease, &ledger, &host)? == State::Dead {
        end::end(&ledger, &host, &lease)?;
    }
    Ok(())
}

/// The actions that [`gc`] would carry out now.
pub fn plan(config: &Config) -> Result<Vec<Action>> {
    let (ledger, Some(host)) = (Ledger::at(&config.state_dir), peek(config)?) else { return Ok(Vec::new()) };
    let mut actions = Vec::new();
    for finding in findings(&ledger, &host)? {
        if let Finding::Dead(lease) = finding {
            actions.extend(end::actions(&lease, &host));
        }
    }
    Ok(actions)
}

/// What [`sweep`] found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Swept {
    /// How many leases were taken back.
    pub ended: usize,
    /// Slices that every member left and whose namespace lives.
    pub deserted: usize,
}

/// Takes back leases whose namespace has ended. It is for an attach that found no room, and for the poststop of a container
/// that is no member.
pub fn sweep(ledger: &Ledger, host: &Host) -> Result<Swept> {
    let mut swept = Swept::default();
    let desk = Desk::of(&host.maps);
    let mut netlink = Netlink::route()?;
    for slot in desk.leased() {
        let entry = host.maps.slot(slot)?;
        if entry.ifindex != 0 && host.maps.device(slot)? == Some(entry.ifindex) {
            if let Ok(Some(lease)) = desk.record(slot) {
                if is_dying(&lease, host, &mut netlink)? {
                    swept.ended += usize::from(end::end(ledger, host, &lease)?);
                } else {
                    swept.deserted += usize::from(lease.members.is_empty());
                }
            }
            continue;
        }
        let lease = match desk.record(slot) {
            Ok(Some(lease)) => lease,
            Ok(None) => {
                swept.ended += usize::from(clear(ledger, host, slot)?);
                continue;
            }
            Err(_) => continue,
        };
        if state(&lease, ledger, host)? == State::Dead {
            swept.ended += usize::from(end::end(ledger, host, &lease)?);
        }
    }
    Ok(swept)
}

/// Has the namespace ended, although its device is still there? The kernel takes devices away some time after the last
/// process of a namespace. Where a member still runs, nothing is asked.
fn is_dying(lease: &Lease, host: &Host, netlink: &mut Netlink) -> Result<bool> {
    let ended = lease.stage == Stage::Attached && lease.members.iter().all(|member| member.runs() == Some(false));
    Ok(ended && !Site::of(lease, host, &Proc::default(), netlink).lives()?)
}

/// The slot of a device, if it is the host's end of a pair of installation `instance`.
pub fn slot_of(device: &Link, instance: u32) -> Option<u16> {
    let mac = device.mac?;
    let slot = u16::from_be_bytes([mac[4], mac[5]]);
    (slot != 0 && slot < MAX_SLOTS && mac == own_mac(instance, slot)).then_some(slot)
}

/// The host was not prepared in this boot: whatever the ledger holds of containers died with the last one. Returns whether
/// that was forgotten: a host that was prepared meanwhile has new containers, maybe of the same ids.
pub fn forget(config: &Config, ledger: &Ledger, ids: &[ContainerId]) -> Result<bool> {
    let mut there = false;
    for id in ids {
        there |= ledger.bytes(id)?.is_some() || ledger.linked(id)?.is_some();
    }
    if !there {
        return Ok(false);
    }
    let _lock = match ledger.lock() {
        Err(e) if is_gone(&e) => return Ok(false),
        lock => lock?,
    };
    if HostRecord::read(&config.state_dir, boot_id())?.ready {
        return Ok(false);
    }
    for id in ids {
        ledger.unlink_if_there(id)?;
        ledger.erase_file(id)?;
    }
    Ok(true)
}

fn findings(ledger: &Ledger, host: &Host) -> Result<Vec<Finding>> {
    let desk = Desk::of(&host.maps);
    let mut findings = Vec::new();
    let leases = ledger.all()?;
    for lease in &leases {
        match state(lease, ledger, host)? {
            State::Dead => findings.push(Finding::Dead(Box::new(lease.clone()))),
            State::Torn => findings.push(Finding::Torn(Box::new(lease.clone()))),
            State::Live if is_abandoned(lease) => findings.push(Finding::Dead(Box::new(lease.clone()))),
            State::Live if differs(lease, ledger, host)? => findings.push(Finding::Copy(Box::new(lease.clone()))),
            State::Live | State::Worked => {}
        }
    }
    for slot in desk.leased().filter(|slot| !leases.iter().any(|lease| lease.slot == *slot)) {
        match desk.record(slot) {
            Ok(Some(lease)) if state(&lease, ledger, host)? == State::Dead => {
                findings.push(Finding::Dead(Box::new(lease)));
            }
            Ok(Some(lease)) => log::warn!("{}: its lease is lost: run `portslice fsck --rebuild`", lease.id),
            Ok(None) => findings.push(Finding::Lost(slot)),
            Err(e) => log::warn!("{e}"),
        }
    }
    Ok(findings)
}

/// Has everybody left the namespace, which lives on in the kernel alone, for data that its sockets could not send? It would
/// keep the device on the host for minutes. Asked only of a slice whose members' processes were named and are gone: looking for
/// holders takes long.
fn is_abandoned(lease: &Lease) -> bool {
    let over = !lease.members.is_empty() && lease.members.iter().all(|member| member.runs() == Some(false));
    over && !holders::is_held(lease.netns_id)
}

/// Is the kernel's copy of a lease another one?
fn differs(lease: &Lease, ledger: &Ledger, host: &Host) -> Result<bool> {
    Ok(host.maps.book.read(lease.slot)? != ledger.bytes(&lease.id)?)
}

/// Writes the kernel's copy of a lease anew, if it still differs and nobody is about to write it.
fn copy(ledger: &Ledger, host: &Host, lease: &Lease) -> Result<bool> {
    let Some(_lock) = locked(ledger, host)? else { return Ok(false) };
    let there = ledger.read(&lease.id)?.filter(|there| there.epoch == lease.epoch && there.stage == Stage::Attached);
    let Some(lease) = there else { return Ok(false) };
    let differs = differs(&lease, ledger, host)?;
    if differs {
        ledger.write(&lease, &host.maps.book)?;
    }
    Ok(differs)
}

/// Gives back a slot without a record, unless it got one meanwhile: whoever enters a lease holds the lock until it is
/// written. Returns whether it was given back.
fn clear(ledger: &Ledger, host: &Host, slot: u16) -> Result<bool> {
    let Some(_lock) = locked(ledger, host)? else { return Ok(false) };
    let desk = Desk::of(&host.maps);
    let lost = desk.leased().any(|leased| leased == slot)
        && desk.record(slot)?.is_none()
        && !ledger.all()?.iter().any(|lease| lease.slot == slot);
    if lost {
        host.maps.clear_slot(slot)?;
        host.maps.clear_device(slot)?;
        run::fault();
        desk.clear(slot);
    }
    Ok(lost)
}

/// Devices of ours in namespaces that live, in slots that nobody has.
fn strays(netlink: &mut Netlink, host: &Host) -> Result<Vec<Link>> {
    let leased: Vec<u16> = Desk::of(&host.maps).leased().collect();
    let mut strays = Vec::new();
    for device in link::all(netlink)? {
        let stray = slot_of(&device, host.instance).is_some_and(|slot| !leased.contains(&slot));
        if stray && link::namespace_lives(netlink, &device)? {
            strays.push(device);
        }
    }
    Ok(strays)
}

fn forget_all(config: &Config, ledger: &Ledger) -> Result<Reclaimed> {
    let ids = ledger.ids()?;
    if !forget(config, ledger, &ids)? {
        return Ok(Reclaimed::default());
    }
    let lines = ids.iter().map(|id| format!("removed lease of {id}, which an earlier boot left")).collect();
    Ok(Reclaimed { ended: ids.iter().map(ToString::to_string).collect(), lines })
}
