//! Making the host ready for containers, once per boot, and putting it back as it was.
//!
//! The first attach after a boot does it, or `portslice setup`; from then on every verb only opens what is pinned.
//! Each change is recorded before it is made, so a run that was killed half-way is finished by the next one and can
//! be undone completely.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::{boot_id, missing_capability};
use crate::host::{Facts, HostRecord, features, sysctl};
use crate::lease::Ledger;
use crate::net::netns::NetnsId;
use crate::net::{Netlink, Netns, filter, link};
use crate::plan::steer::host_facts;
use crate::ports::PortSet;
use crate::steer::{Maps, Programs, maps, program};
use std::os::fd::AsFd;

/// lo has this index in every namespace (LOOPBACK_IFINDEX).
const LO: u32 = 1;

/// Settings of lo without which it refuses what the data path hands to it: packets with a source address of the host,
/// and those from and to 127.0.0.0/8. Only lo's own are changed, never `all`.
const LO_SETTINGS: [(&str, &str); 2] = [("ipv4/conf/lo/accept_local", "1"), ("ipv4/conf/lo/route_localnet", "1")];

const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// A host that is ready.
pub struct Host {
    /// The data path's maps.
    pub maps: Maps,
    /// The data path's programs.
    pub programs: Programs,
}

/// Where maps, programs and links are pinned.
pub fn bpf_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("bpf")
}

/// Opens the prepared host, preparing it first if need be, and tells the data path what changed about it since.
pub fn ready(config: &Config, netlink: &mut Netlink, facts: &Facts, here: NetnsId) -> Result<Host> {
    let boot = boot_id();
    let mut record = HostRecord::read(&config.state_dir, &boot)?;
    check_namespace(&record, here, config)?;
    if !is_current(&record, facts) {
        let ledger = Ledger::at(&config.state_dir);
        ledger.create()?;
        let _lock = ledger.flock()?;
        // somebody else may have done it while we waited
        record = HostRecord::read(&config.state_dir, &boot)?;
        if !is_current(&record, facts) {
            record.boot = boot;
            record.netns = Some(here);
            prepare(config, netlink, facts, &ledger, record)?;
        }
    }
    let host = open(config)?;
    let uplink = &facts.addresses;
    host.maps.set_host(&host_facts(facts), uplink, &facts.others)?;
    Ok(host)
}

/// Opens the prepared host without changing anything; `None` when it is not prepared.
pub fn peek(config: &Config) -> Result<Option<Host>> {
    let record = HostRecord::read(&config.state_dir, &boot_id())?;
    if !record.ready {
        return Ok(None);
    }
    check_namespace(&record, Netns::current()?.id, config)?;
    open(config).map(Some)
}

/// Reserves pool and `ports` on the host, so that its own connections never take them.
pub fn reserve(config: &Config) -> Result<Option<PortSet>> {
    let before = sysctl::read(RESERVED)?.unwrap_or_default();
    let reserved = sysctl::reserved_ports()?;
    let wanted = reserved.union(config.ephemeral_ports.ports()).union(&config.ports);
    if wanted == reserved {
        return Ok(None);
    }
    let ledger = Ledger::at(&config.state_dir);
    ledger.create()?;
    let _lock = ledger.flock()?;
    let boot = boot_id();
    let mut record = HostRecord::read(&config.state_dir, &boot)?;
    let here = Netns::current()?.id;
    check_namespace(&record, here, config)?;
    record.boot = boot;
    record.netns = Some(here);
    record.remember(RESERVED, &before);
    ledger.replace(&HostRecord::path(&config.state_dir), &record.encode())?;
    sysctl::write(RESERVED, &wanted.to_string())?;
    Ok(Some(wanted))
}

/// Puts the host back as it was before the first attach. Refused while there are leases.
pub fn undo(config: &Config) -> Result<()> {
    let directory = &config.state_dir;
    if !directory.exists() {
        return Ok(());
    }
    let ledger = Ledger::at(directory);
    let leases = ledger.all()?;
    if let Some(first) = leases.first() {
        return Err(Error::Busy(format!(
            "{} containers are attached, {} among them: detach them first (`portslice detach ID`)",
            leases.len(),
            first.id
        )));
    }
    let record = HostRecord::read(directory, &boot_id())?;
    check_namespace(&record, Netns::current()?.id, config)?;
    let lock = ledger.flock()?;
    let mut netlink = Netlink::route()?;
    let programs = Programs::at(&bpf_directory(directory));
    for (name, index) in [("from_wire", record.uplink), ("from_lo", LO)] {
        programs.detach_tcx(name)?;
        if record.tcx || index == 0 {
            continue;
        }
        // a device that is gone took its filters along
        if let Some(device) = link::at(&mut netlink, index)? {
            let remove = if record.clsact.contains(&index) {
                filter::delete_clsact(index, &device.name)
            } else {
                filter::delete_ingress(index, &device.name)
            };
            netlink.send(remove.tolerate(&[libc::ENOENT, libc::EINVAL]))?;
        }
    }
    for (key, value) in record.before.iter().rev() {
        // an empty value clears a list only with its line end
        sysctl::write(key, &format!("{value}\n"))?;
    }
    unmount(&bpf_directory(directory), record.mounted)?;
    ledger.remove()?;
    drop(lock);
    match fs::remove_file(HostRecord::path(directory)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Error::file("remove", HostRecord::path(directory))(e));
        }
        _ => {}
    }
    // the directory may hold what others put there; then it stays
    let _ = fs::remove_dir(directory);
    Ok(())
}

fn is_current(record: &HostRecord, facts: &Facts) -> bool {
    record.ready && record.version == program::version() && record.uplink == facts.uplink.index
}

fn check_namespace(record: &HostRecord, here: NetnsId, config: &Config) -> Result<()> {
    match record.netns {
        Some(known) if known != here => Err(Error::unsupported(
            format!("state directory {} belongs to another network namespace", config.state_dir.display()),
            "run in the host's own namespace, or give this one a state directory of its own (--state-dir)",
        )),
        _ => Ok(()),
    }
}

fn open(config: &Config) -> Result<Host> {
    let directory = bpf_directory(&config.state_dir);
    if !is_bpffs(&directory) {
        return Err(Error::unsupported(
            format!("the BPF file system on {} is not visible from this mount namespace", directory.display()),
            "run in the host's own mount namespace (a service with PrivateMounts or MountFlags is not)",
        ));
    }
    Ok(Host { maps: Maps::open(&directory)?, programs: Programs::at(&directory) })
}

fn prepare(
    config: &Config,
    netlink: &mut Netlink,
    facts: &Facts,
    ledger: &Ledger,
    mut record: HostRecord,
) -> Result<()> {
    if let Some(capability) = missing_capability() {
        return Err(Error::unsupported(
            format!("this process lacks {capability}"),
            "run as root (hooks are run by the runtime, which has to be root)",
        ));
    }
    features::require(&features::probe()?)?;
    if record.ready && record.layout != maps::LAYOUT && !ledger.all()?.is_empty() {
        return Err(Error::unsupported(
            "this version's data path cannot share the running one's maps",
            "end all containers, run `portslice setup --undo`, then `portslice setup`",
        ));
    }

    let path = HostRecord::path(&config.state_dir);
    let uplink_moved = record.ready && record.uplink != facts.uplink.index;
    for (key, _) in LO_SETTINGS {
        record.remember(key, &sysctl::read(key)?.unwrap_or_default());
    }
    let directory = bpf_directory(&config.state_dir);
    record.mounted |= !is_bpffs(&directory);
    ledger.replace(&path, &record.encode())?;
    mount_bpffs(&directory)?;

    let programs = Programs::at(&directory);
    programs.load()?;
    record.version = program::version();
    record.layout = maps::LAYOUT;
    for (key, value) in LO_SETTINGS {
        if !sysctl::write(key, value)? {
            return Err(Error::unsupported(
                format!("this kernel has no setting net.{}", key.replace('/', ".")),
                "a kernel with IPv4 networking is needed",
            ));
        }
    }
    if uplink_moved {
        programs.detach_tcx("from_wire")?;
    }
    record.uplink = facts.uplink.index;
    let uplink = &facts.uplink.name;
    record.tcx =
        programs.attach_tcx("from_wire", facts.uplink.index, uplink)? && programs.attach_tcx("from_lo", LO, "lo")?;
    if !record.tcx {
        for (name, index, device) in [("from_wire", facts.uplink.index, uplink.as_str()), ("from_lo", LO, "lo")] {
            match netlink.send(filter::add_clsact(index, device)) {
                Ok(()) => {
                    record.clsact.push(index);
                    ledger.replace(&path, &record.encode())?;
                }
                // another program's clsact: share it, and leave it behind
                Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EEXIST) => {}
                Err(e) => return Err(e),
            }
            let program = programs.open(name)?;
            netlink.send(filter::add_ingress(index, device, program.as_fd(), name, 0))?;
        }
    }
    record.ready = true;
    ledger.replace(&path, &record.encode())
}

fn is_bpffs(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs(directory: &Path) -> Result<()> {
    if is_bpffs(directory) {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(Error::file("create", directory))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), directory, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|e| Error::file("mount a BPF file system on", directory)(e.into()))
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
