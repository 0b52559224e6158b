//! Putting the host back as it was before it was made ready.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, umount2};

use super::prepare::{LO, RESERVED, bpf_directory, check_namespace, is_bpffs, open, save};
use super::{fair, reclaim, shaper};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::HostRecord;
use crate::host::process::boot_id;
use crate::host::record::Reserved;
use crate::host::sysctl::{self, Proc};
use crate::lease::Ledger;
use crate::net::{Netlink, Netns, filter, link};
use crate::ports::PortSet;
use crate::steer::Programs;

/// Puts the host back as it was before the first attach. Refused while there are containers.
pub fn undo(config: &Config) -> Result<()> {
    let directory = &config.state_dir;
    if !directory.exists() {
        return Ok(());
    }
    let ledger = Ledger::at(directory);
    ledger.create()?;
    let mut record = HostRecord::read(directory, &boot_id())?;
    check_namespace(&record, Netns::current()?.id, config)?;
    let mut netlink = Netlink::route()?;
    let mut locked = ledger.lock()?;
    record = HostRecord::read(directory, &boot_id())?;
    if record.ready
        && let Ok(host) = open(config, &record)
    {
        reclaim::sweep(config, &mut locked, &ledger, &host, &mut netlink)?;
        if let Some(first) = locked.index.entries.values().next() {
            return Err(Error::Busy(format!(
                "{} containers are attached, {} among them: detach them first (`portslice detach ID`)",
                locked.index.entries.len(),
                first.id
            )));
        }
    }
    // from here on a run that is killed leaves a host that is prepared anew, or undone by the next run
    record.ready = false;
    save(&ledger, config, &record)?;

    let programs = Programs::at(&bpf_directory(directory));
    for (name, index) in [("from_wire", record.uplink), ("from_lo", LO)] {
        programs.detach_tcx(name)?;
        unfilter(&mut netlink, &record, index)?;
    }
    shaper::remove(&mut netlink)?;
    if record.fair != 0 {
        fair::remove(&mut netlink, record.fair)?;
    }
    for changed in record.changed.iter().rev() {
        if sysctl::read(&changed.key)?.as_deref() == Some(&changed.now) {
            sysctl::write(&changed.key, &changed.before)?;
        }
    }
    if let Some(reserved) = &record.reserved {
        unreserve(reserved)?;
    }
    unmount(&bpf_directory(directory), record.mounted)?;
    ledger.remove()?;
    drop(locked);
    remove(&HostRecord::path(directory))?;
    // the directory may hold what others put there; then it stays
    let _ = fs::remove_dir(directory);
    Ok(())
}

/// Takes our filter off a device, and clsact with it if that was ours.
fn unfilter(netlink: &mut Netlink, record: &HostRecord, index: u32) -> Result<()> {
    if record.tcx || index == 0 {
        return Ok(());
    }
    // a device that is gone took its filters along
    let Some(device) = link::at(netlink, index)? else { return Ok(()) };
    let remove = if record.clsact.contains(&index) {
        filter::delete_clsact(index, &device.name)
    } else {
        filter::delete_ingress(index, &device.name)
    };
    netlink.send(remove.tolerate(&[libc::ENOENT, libc::EINVAL]))
}

/// Takes out what we put in; what others added meanwhile stays.
fn unreserve(reserved: &Reserved) -> Result<()> {
    let left = Proc::default().here().reserved_ports()?.difference(&reserved.added);
    let text = left.to_string();
    // the kernel's own text may differ from ours in form, and an empty list is written as a line end
    let before: PortSet = reserved.before.parse().unwrap_or_default();
    let text = if left == before { &reserved.before } else { &text };
    sysctl::write(RESERVED, &format!("{text}\n")).map(drop)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

fn unmount(directory: &Path, ours: bool) -> Result<()> {
    if is_bpffs(directory) {
        if ours {
            umount2(directory, MntFlags::MNT_DETACH).map_err(|e| Error::file("unmount", directory)(e.into()))?;
        } else {
            for entry in fs::read_dir(directory).map_err(Error::file("list", directory))?.flatten() {
                fs::remove_file(entry.path()).map_err(Error::file("remove", entry.path()))?;
            }
            return Ok(());
        }
    }
    match fs::remove_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", directory)(e)),
        _ => Ok(()),
    }
}
