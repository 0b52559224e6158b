//! The data path as a part of the host: its file system, its programs, the devices they are hooked to, and the shaper.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount as mount_at, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{HostSite, shaper};
use crate::error::{Error, Result};
use crate::net::{filter, link, qdisc};
use crate::plan::limits::{self, Place};
use crate::steer::{Maps, layout, program};

/// Is there a BPF file system?
pub fn is_mounted(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts one.
pub fn mount(site: &mut HostSite<'_>, directory: &Path) -> Result<()> {
    if is_mounted(directory) {
        return Ok(());
    }
    site.record.mounted = true;
    site.save()?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(Error::file("create", directory))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at(Some("bpf"), directory, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|e| Error::file("mount a BPF file system on", directory)(e.into()))
}

/// Unmounts it, if it was ours; its directory goes as well.
pub fn unmount(site: &mut HostSite<'_>, directory: &Path) -> Result<()> {
    if is_mounted(directory) {
        if !site.record.mounted {
            return Ok(());
        }
        umount2(directory, MntFlags::MNT_DETACH).map_err(|e| Error::file("unmount", directory)(e.into()))?;
        site.record.mounted = false;
    }
    match fs::remove_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", directory)(e)),
        _ => Ok(()),
    }
}

/// Are the programs of this version loaded and pinned?
pub fn is_loaded(site: &HostSite<'_>, version: &str) -> bool {
    site.record.ready && site.record.version == version && site.programs.open("from_wire").is_ok()
}

/// Loads and pins them. Maps that are pinned already are used, so leases survive an upgrade.
pub fn load(site: &mut HostSite<'_>) -> Result<()> {
    if site.record.ready && site.record.layout != layout::LAYOUT {
        // There are no containers: nobody needs what the old maps hold, and these programs could not read it.
        site.programs.forget_maps()?;
        site.record.ready = false;
    }
    site.programs.load()?;
    site.record.version = program::VERSION.into();
    site.record.layout = layout::LAYOUT;
    if site.record.ready {
        shaper::renew(site.netlink, &site.programs)?;
    } else {
        // One of an earlier preparation would steer by maps that are gone.
        shaper::remove(site.netlink, site.record.instance)?;
        site.record.shaper = 0;
    }
    site.save()
}

/// Unpins everything.
pub fn unload(site: &mut HostSite<'_>) -> Result<()> {
    let directory = site.directory().to_path_buf();
    if !is_mounted(&directory) {
        return Ok(());
    }
    // The kernel itself puts maps.debug and progs.debug into a bpffs; they cannot be removed.
    let pinned = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().contains('.');
    for entry in fs::read_dir(&directory).map_err(Error::file("list", &directory))?.flatten().filter(pinned) {
        fs::remove_file(entry.path()).map_err(Error::file("remove", entry.path()))?;
    }
    site.record.version.clear();
    Ok(())
}

/// Hooks a program to a device: through tcx, or where the kernel has none (before 6.6) as a filter of clsact.
pub fn hook(site: &mut HostSite<'_>, program: &'static str, index: u32, device: &str) -> Result<()> {
    if program == "from_wire" {
        if site.record.ready && site.record.uplink != index {
            site.programs.detach_tcx(program)?;
        }
        site.record.uplink = index;
        site.save()?;
    }
    site.record.tcx = site.programs.attach_tcx(program, index, device)?;
    if site.record.tcx {
        return Ok(());
    }
    match site.netlink.send(filter::add_clsact(index, device)) {
        Ok(()) => {
            site.record.clsact.push(index);
            site.save()?;
        }
        // Another program's clsact: share it, and leave it behind.
        Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EEXIST) => {}
        Err(e) => return Err(e),
    }
    let opened = site.programs.open(program)?;
    site.netlink.send(filter::add_ingress(index, device, opened.as_fd(), program, 0))
}

/// Is it hooked there?
pub fn is_hooked(site: &mut HostSite<'_>, program: &str, index: u32) -> Result<bool> {
    // New programs are hooked anew.
    if !site.record.ready || site.record.version != program::VERSION {
        return Ok(false);
    }
    if program == "from_wire" && site.record.uplink != index {
        return Ok(false);
    }
    if site.record.tcx {
        return Ok(site.programs.is_hooked(program, index));
    }
    let id = site.programs.id(program)?;
    Ok(filter::ingress(site.netlink, index)?.iter().any(|filter| filter.runs(program) && filter.runs_program(id)))
}

/// Takes it off, and clsact with it if that was ours.
pub fn unhook(site: &mut HostSite<'_>, program: &str, index: u32) -> Result<()> {
    site.programs.detach_tcx(program)?;
    if site.record.tcx || index == 0 {
        return Ok(());
    }
    // A device that is gone took its filters along.
    let Some(device) = link::at(site.netlink, index)? else { return Ok(()) };
    let remove = if site.record.clsact.contains(&index) {
        filter::delete_clsact(index, &device.name)
    } else {
        filter::delete_ingress(index, &device.name)
    };
    site.netlink.send(remove.tolerate(&[libc::ENOENT, libc::EINVAL]))?;
    site.record.clsact.retain(|known| *known != index);
    Ok(())
}

/// Makes the shaper, and in it the classes of all containers that had one.
pub fn shape(site: &mut HostSite<'_>) -> Result<()> {
    let shaper = shaper::make(site.netlink, &site.programs, site.record.instance)?;
    for lease in site.ledger.all()? {
        if let (Some(shape), true, Some(leaf)) =
            (lease.terms.egress, limits::need_shaper(&lease.terms), site.record.leaf)
        {
            let throttle = limits::throttle(Place::Shaper, shape, leaf);
            let class = shaper::class(lease.slot, lease.terms.second.egress);
            site.netlink.batch(&[
                qdisc::class(shaper, shaper::NAME, class, &shape),
                qdisc::leaf(shaper, shaper::NAME, class, &throttle),
            ])?;
        }
    }
    Maps::open(site.directory())?.set_shaper(shaper)?;
    site.record.shaper = shaper;
    site.save()
}
