//! Making the host ready for containers, once per boot. Putting it back as it was is [`super::undo`]'s.
//!
//! The first attach after a boot does it, or `portslice setup`; from then on every verb only opens what is pinned.
//! Each change is recorded before it is made, so a run that was killed half-way is finished by the next one and can
//! be undone completely.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{fair, shaper};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::facts::online_cpus;
use crate::host::process::{boot_id, missing_capability};
use crate::host::record::Reserved;
use crate::host::sysctl::{Proc, Setting};
use crate::host::{Facts, HostRecord, features, sysctl};
use crate::lease::Ledger;
use crate::net::netns::NetnsId;
use crate::net::qdisc::{self, Leaf};
use crate::net::{Holders, Netlink, Netns, filter};
use crate::plan::limits::{self, Place};
use crate::plan::steer::host_facts;
use crate::ports::PortSet;
use crate::stats::{Groups, Sources};
use crate::steer::{Maps, Programs, maps, program};
use std::os::fd::AsFd;

/// lo has this index in every namespace (LOOPBACK_IFINDEX).
pub(super) const LO: u32 = 1;

/// Settings of lo without which it refuses what the data path hands to it: packets with a source address of the host,
/// and those from and to 127.0.0.0/8. Only lo's own are changed, never `all`.
const LO_SETTINGS: [(&str, &str); 2] = [("ipv4/conf/lo/accept_local", "1"), ("ipv4/conf/lo/route_localnet", "1")];

pub(super) const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// A host that is ready.
pub struct Host {
    /// The data path's maps.
    pub maps: Maps,
    /// The data path's programs.
    pub programs: Programs,
    /// Settings that containers get because the operator tuned the host.
    pub copied: Vec<Setting>,
    /// What packets wait in behind a limit; `None`: this kernel has no limits.
    pub leaf: Option<Leaf>,
    /// The device whose classes shape what containers send, if there was need for one.
    pub shaper: Option<u32>,
    /// `HostRecord::instance`.
    pub instance: u32,
    generation: u64,
}

impl Host {
    /// Where this host's containers are counted.
    pub fn sources(&self, groups: Groups) -> Sources<'_> {
        Sources { maps: &self.maps, shaper: self.shaper, cpus: online_cpus(), groups, holders: Holders::default() }
    }

    /// Is the host still as it was when this was opened? Asked under the ledger's lock: `setup --undo` may have come
    /// in between, and these maps would be nobody's.
    pub fn is_current(&self, config: &Config) -> Result<bool> {
        let record = HostRecord::read(&config.state_dir, &boot_id())?;
        Ok(record.ready && record.generation == self.generation)
    }
}

/// Where maps, programs and links are pinned.
pub fn bpf_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("bpf")
}

/// What is wanted of the host besides being ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The shaper: some container is to be limited on the host.
    pub shaper: bool,
    /// A new look at everything that is found out once, for an operator who changed the host's settings.
    pub anew: bool,
}

/// Opens the prepared host, preparing it first if need be, and tells the data path what changed about it since.
pub fn ready(config: &Config, netlink: &mut Netlink, facts: &Facts, here: NetnsId, wanted: Wanted) -> Result<Host> {
    let boot = boot_id();
    let mut record = HostRecord::read(&config.state_dir, &boot)?;
    check_namespace(&record, here, config)?;
    if wanted.anew || !is_current(&record, config, facts, wanted, netlink)? {
        let ledger = Ledger::at(&config.state_dir);
        ledger.create()?;
        let _lock = ledger.flock()?;
        // somebody else may have done it while we waited
        record = HostRecord::read(&config.state_dir, &boot)?;
        if wanted.anew || !is_prepared(&record, config, facts) {
            record.boot = boot;
            record.netns = Some(here);
            record = prepare(config, netlink, facts, &ledger, record)?;
        }
        if !is_current(&record, config, facts, wanted, netlink)? {
            record.shaper = make_shaper(config, netlink, &ledger, record.clone())?;
        }
    }
    let host = open(config, &record)?;
    let uplink = &facts.addresses;
    host.maps.set_host(&host_facts(facts, record.fair != 0), uplink, &facts.others)?;
    Ok(host)
}

/// Opens the prepared host without changing anything; `None` when it is not prepared.
pub fn peek(config: &Config) -> Result<Option<Host>> {
    let record = HostRecord::read(&config.state_dir, &boot_id())?;
    if !record.ready {
        return Ok(None);
    }
    check_namespace(&record, Netns::current()?.id, config)?;
    open(config, &record).map(Some)
}

/// Reserves pool and `ports` on the host, so that its own connections never take them. Returns everything that is
/// reserved then, `None` when nothing had to be added.
pub fn reserve(config: &Config) -> Result<Option<PortSet>> {
    let ours = config.ephemeral_ports.ports().union(&config.ports);
    let ledger = Ledger::at(&config.state_dir);
    let added = ours.difference(&Proc::default().here().reserved_ports()?);
    if added.is_empty() {
        return Ok(None);
    }
    ledger.create()?;
    let _lock = ledger.flock()?;
    let boot = boot_id();
    let mut record = HostRecord::read(&config.state_dir, &boot)?;
    let here = Netns::current()?.id;
    check_namespace(&record, here, config)?;
    record.boot = boot;
    record.netns = Some(here);
    record.reserved = Some(match record.reserved.take() {
        Some(earlier) => Reserved { added: earlier.added.union(&added), ..earlier },
        None => Reserved { before: sysctl::read(RESERVED)?.unwrap_or_default(), added },
    });
    save(&ledger, config, &record)?;
    let wanted = Proc::default().here().reserved_ports()?.union(&ours);
    sysctl::write(RESERVED, &wanted.to_string())?;
    Ok(Some(wanted))
}

fn is_prepared(record: &HostRecord, config: &Config, facts: &Facts) -> bool {
    let (uplink, fair) = (facts.uplink.index, config.egress_unique_flow_per_container);
    let current = record.ready && record.version == program::VERSION && record.uplink == uplink;
    current && record.fair == if fair { uplink } else { 0 }
}

/// Is nothing left to do? A shaper that was made is asked for: somebody may have deleted it.
fn is_current(
    record: &HostRecord,
    config: &Config,
    facts: &Facts,
    wanted: Wanted,
    netlink: &mut Netlink,
) -> Result<bool> {
    let needs_shaper = wanted.shaper || (wanted.anew && record.shaper != 0);
    Ok(is_prepared(record, config, facts) && (!needs_shaper || shaper::find(netlink)? == Some(record.shaper)))
}

/// Makes the shaper, and in it the classes of all containers that had one.
fn make_shaper(config: &Config, netlink: &mut Netlink, ledger: &Ledger, mut record: HostRecord) -> Result<u32> {
    let directory = bpf_directory(&config.state_dir);
    record.shaper = shaper::make(netlink, &Programs::at(&directory), record.instance)?;
    for lease in ledger.all()? {
        if let (Some(shape), true, Some(leaf)) = (lease.terms.egress, limits::need_shaper(&lease.terms), record.leaf) {
            let throttle = limits::throttle(Place::Shaper, shape, leaf);
            let class = shaper::class(lease.slot, lease.terms.second.egress);
            netlink.batch(&[
                qdisc::class(record.shaper, shaper::NAME, class, &shape),
                qdisc::leaf(record.shaper, shaper::NAME, class, &throttle),
            ])?;
        }
    }
    Maps::open(&directory)?.set_shaper(record.shaper)?;
    save(ledger, config, &record)?;
    Ok(record.shaper)
}

pub(super) fn check_namespace(record: &HostRecord, here: NetnsId, config: &Config) -> Result<()> {
    match record.netns {
        Some(known) if known != here => Err(Error::unsupported(
            format!("state directory {} belongs to another network namespace", config.state_dir.display()),
            "run in the host's own namespace, or give this one a state directory of its own (--state-dir)",
        )),
        _ => Ok(()),
    }
}

pub(super) fn open(config: &Config, record: &HostRecord) -> Result<Host> {
    let directory = bpf_directory(&config.state_dir);
    if !is_bpffs(&directory) {
        return Err(Error::unsupported(
            format!("the BPF file system on {} is not visible from this mount namespace", directory.display()),
            "run in the host's own mount namespace (a service with PrivateMounts or MountFlags is not)",
        ));
    }
    Ok(Host {
        maps: Maps::open(&directory)?,
        programs: Programs::at(&directory),
        copied: record.copied.clone(),
        leaf: record.leaf,
        shaper: (record.shaper != 0).then_some(record.shaper),
        instance: record.instance,
        generation: record.generation,
    })
}

fn prepare(
    config: &Config,
    netlink: &mut Netlink,
    facts: &Facts,
    ledger: &Ledger,
    mut record: HostRecord,
) -> Result<HostRecord> {
    if let Some(capability) = missing_capability() {
        return Err(Error::unsupported(
            format!("this process lacks {capability}"),
            "run as root (hooks are run by the runtime, which has to be root)",
        ));
    }
    let probed = features::probe()?;
    features::require(&probed.pieces)?;
    if config.egress_unique_flow_per_container {
        fair::check(netlink, &probed, &facts.uplink)?;
    }
    record.identify()?;
    record.copied = Proc::default().here().copied()?;
    record.copied.retain(|setting| !probed.fresh.contains(setting));
    if record.ready && record.layout != maps::LAYOUT && !ledger.all()?.is_empty() {
        return Err(Error::unsupported(
            "this version's data path cannot share the running one's maps",
            "end all containers, run `portslice setup --undo`, then `portslice setup`",
        ));
    }

    // a leaf of another kind could not take over what waits in this one's
    if record.leaf.is_none() || ledger.all()?.is_empty() {
        record.leaf = probed.leaf();
        match record.leaf {
            Some(leaf) => log::info!("bandwidth limits: HTB, packets wait in {}", leaf.name()),
            None => log::info!("bandwidth limits: none, this kernel lacks the HTB qdisc"),
        }
    }
    let uplink_moved = record.ready && record.uplink != facts.uplink.index;
    for (key, value) in LO_SETTINGS {
        record.remember(key, &sysctl::read(key)?.unwrap_or_default(), value);
    }
    let directory = bpf_directory(&config.state_dir);
    record.mounted |= !is_bpffs(&directory);
    save(ledger, config, &record)?;
    mount_bpffs(&directory)?;

    let programs = Programs::at(&directory);
    if record.ready && record.layout != maps::LAYOUT {
        // there are no containers: nobody needs what the old maps hold, and these programs could not read it
        programs.forget_maps()?;
        record.ready = false;
    }
    programs.load()?;
    record.version = program::VERSION.into();
    record.layout = maps::LAYOUT;
    for (key, value) in LO_SETTINGS {
        if !sysctl::write(key, value)? {
            return Err(Error::unsupported(
                format!("this kernel has no setting net.{}", key.replace('/', ".")),
                "a kernel with IPv4 networking is needed",
            ));
        }
    }
    if record.ready {
        shaper::renew(netlink, &programs)?;
    } else {
        // one of an earlier preparation would steer by maps that are gone
        shaper::remove(netlink)?;
        record.shaper = 0;
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
                    save(ledger, config, &record)?;
                }
                // another program's clsact: share it, and leave it behind
                Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EEXIST) => {}
                Err(e) => return Err(e),
            }
            let program = programs.open(name)?;
            netlink.send(filter::add_ingress(index, device, program.as_fd(), name, 0))?;
        }
    }
    // recorded before it is made, so that a run that is killed in between leaves something to undo
    if record.fair != 0 && (record.fair != facts.uplink.index || !config.egress_unique_flow_per_container) {
        fair::remove(netlink, record.fair)?;
        record.fair = 0;
    }
    if config.egress_unique_flow_per_container {
        record.fair = facts.uplink.index;
        save(ledger, config, &record)?;
        fair::make(netlink, &programs, &facts.uplink)?;
    }
    if !record.ready {
        record.generation = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    }
    record.ready = true;
    save(ledger, config, &record)?;
    Ok(record)
}

pub(super) fn save(ledger: &Ledger, config: &Config, record: &HostRecord) -> Result<()> {
    ledger.replace(&HostRecord::path(&config.state_dir), &record.encode())
}

pub(super) fn is_bpffs(directory: &Path) -> bool {
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
