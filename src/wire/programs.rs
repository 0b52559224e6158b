//! The data path as a part of the host: its file system, its programs and maps, and the shaper. What does not live here: hooking
//! the programs to devices ([`super::hook`]).

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::mount::{MntFlags, MsFlags, mount as mount_at, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{HostSite, shaper};
use crate::error::{Error, Result};
use crate::host::HostRecord;
use crate::host::process::mount_namespace;
use crate::host::record::FORMAT;
use crate::lease::ledger::{decode, encode};
use crate::net::qdisc;
use crate::plan::limits::{self, Place};
use crate::steer::layout::{LAYOUT, LAYOUTS};
use crate::steer::{Book, Maps, program};

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
    site.record.mount_namespace = mount_namespace();
    site.save()?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(Error::file("create", directory))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at(Some("bpf"), directory, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|e| Error::file("mount a BPF file system on", directory)(e.into()))
}

/// Was it mounted in this mount namespace, so that somebody unmounted it where it is not to be seen?
pub fn is_at_home(record: &HostRecord) -> bool {
    record.mount_namespace.is_some() && record.mount_namespace == mount_namespace()
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

/// Are the programs of this version loaded, and is every pin the one that they left?
pub fn is_loaded(site: &HostSite<'_>, version: &str) -> Result<bool> {
    if !is_of(&site.record, version) || !is_mounted(site.directory()) {
        return Ok(false);
    }
    let lacking = site.programs.lacking()?;
    Ok(lacking.programs.is_empty() && !lacking.maps)
}

fn is_of(record: &HostRecord, version: &str) -> bool {
    record.ready && record.version == version && is_converted(record)
}

/// Are the records and the maps in the form of this version?
pub fn is_converted(record: &HostRecord) -> bool {
    record.format == FORMAT && record.layout == LAYOUT
}

/// Loads and pins them. Pins that are missing come from the kernel, as far as it has what they were; maps that are pinned are
/// used, so leases survive an upgrade; what is pinned there and is not ours is refused.
pub fn load(site: &mut HostSite<'_>, version: &str) -> Result<()> {
    let record = site.record.clone();
    let mine = |theirs: &[u8]| record.is_mine(theirs);
    site.programs.restore(&mine)?;
    site.programs.check(&mine)?;
    let mut loaded = program::VERSION;
    if is_of(&record, version) && (version == loaded || site.programs.lacking()?.programs.is_empty()) {
        // What is pinned again as it was leaves every filter as it is.
        site.programs.load_some(&site.programs.lacking()?.programs)?;
        loaded = version;
    } else if record.ready && record.layout != LAYOUT {
        convert(site)?;
    } else {
        if record.layout != 0 && record.layout != LAYOUT {
            // An undo that was killed left them, and nobody needs what they hold.
            site.programs.forget_maps()?;
        }
        site.programs.load()?;
    }
    if record.ready && !is_converted(&record) {
        renumber(site)?;
    }
    (site.record.format, site.record.layout) = (FORMAT, LAYOUT);
    site.record.version = loaded.into();
    if site.record.ready {
        shaper::renew(site.netlink, &site.programs)?;
    } else {
        // One of an earlier preparation would steer by maps that are gone.
        shaper::remove(site.netlink, site.record.instance)?;
        site.record.shaper = 0;
    }
    site.save()
}

/// New maps and programs, with what the older maps hold. Verbs that have the older ones open find out when they lock the ledger.
fn convert(site: &mut HostSite<'_>) -> Result<()> {
    LAYOUTS.check(Some(site.record.layout), &format!("the data path in {}", site.directory().display()))?;
    site.programs.load_converting()?;
    site.record.generation = now();
    log::info!("maps of layout {} are converted to layout {LAYOUT}", site.record.layout);
    Ok(())
}

/// Writes the leases in this version's format, in the kernel and as files.
fn renumber(site: &HostSite<'_>) -> Result<()> {
    let book = Book::open(site.directory())?;
    for slot in book.slots()? {
        let Some(bytes) = book.read(slot)? else { continue };
        let lease = match decode(&bytes, Path::new(&format!("of slot {slot} in the kernel's book"))) {
            Ok(lease) => lease,
            Err(e) => {
                log::warn!("{e}");
                continue;
            }
        };
        match site.ledger.bytes(&lease.id)? {
            Some(_) => site.ledger.write(&lease, &book)?,
            None => book.write(slot, &encode(&lease)?)?,
        }
    }
    Ok(())
}

/// Which preparation this is, for [`HostRecord::generation`].
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// Unpins everything of ours.
pub fn unload(site: &mut HostSite<'_>) -> Result<()> {
    if is_mounted(site.directory()) {
        let record = site.record.clone();
        site.programs.check(&|theirs| record.is_mine(theirs))?;
        site.programs.unpin()?;
        site.record.version.clear();
    }
    Ok(())
}

/// Makes the shaper, and in it the classes of all containers that had one. One that is there gets its program again.
pub fn shape(site: &mut HostSite<'_>) -> Result<()> {
    let found = shaper::find(site.netlink, site.record.instance)?;
    if found.is_some() && found == Some(site.record.shaper) {
        return shaper::renew(site.netlink, &site.programs);
    }
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
