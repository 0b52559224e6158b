//! The programs that translate between the name of a port and the port (`bpf/names.bpf.c`).
//!
//! They are loaded with those at the sockets ([`super::sockets`]) and attached to the same cgroup, behind them, only while a container
//! has a name. What does not live here: the names ([`super::names`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use aya::EbpfLoader;
use fs2::FileExt;

use super::find::{self, Mine};
use super::names::Needed;
use super::pins::{self, NAMING_NAMES, Programs};
use super::program::Object;
use super::shared::open;
use super::sys::{self, Kind};
use crate::error::{Error, Result};

/// The hook of each program; those from [`DATAGRAMS`] on serve unconnected UDP alone.
const HOOKS: [u32; 12] = [
    sys::CGROUP_INET4_BIND,
    sys::CGROUP_INET6_BIND,
    sys::CGROUP_INET4_GETSOCKNAME,
    sys::CGROUP_INET6_GETSOCKNAME,
    sys::CGROUP_INET4_GETPEERNAME,
    sys::CGROUP_INET6_GETPEERNAME,
    sys::CGROUP_INET4_CONNECT,
    sys::CGROUP_INET6_CONNECT,
    sys::CGROUP_UDP4_SENDMSG,
    sys::CGROUP_UDP6_SENDMSG,
    sys::CGROUP_UDP4_RECVMSG,
    sys::CGROUP_UDP6_RECVMSG,
];
const DATAGRAMS: usize = 8;

static OBJECT: Object = Object {
    bytes: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/names.o")),
    what: "the programs of port names",
    remedy: "run a newer kernel (6.1 has all that they need), built with CONFIG_CGROUP_BPF; without them set socket_rules = \"off\"",
};

/// Held by whoever decides which programs are attached.
pub struct Deciding {
    _directory: File,
}

impl Programs {
    /// Loads the programs of names and pins them; they are attached by [`Self::attach_naming`].
    pub(super) fn load_naming(&self) -> Result<()> {
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(self.directory());
        let pinned = self.pin_beside(&OBJECT, &mut loader, &NAMING_NAMES, |map| open(self.directory(), map));
        pinned.inspect_err(|_| self.forget_programs_beside(&NAMING_NAMES))?;
        self.take_over(&NAMING_NAMES)
    }

    /// Waits until nobody else decides which programs of names are attached.
    pub fn decide_naming(&self) -> Result<Deciding> {
        let lock = || {
            let directory = File::open(self.directory())?;
            directory.lock_exclusive()?;
            Ok(Deciding { _directory: directory })
        };
        lock().map_err(Error::file("lock", self.directory()))
    }

    /// Attaches the programs of names that are `needed` to a cgroup, and detaches the others. A link that stands there gets the
    /// program that is pinned now; one to another cgroup, or that somebody detached, is made anew.
    pub fn attach_naming(&self, (cgroup, id): (BorrowedFd<'_>, u64), needed: Needed, _: &Deciding) -> Result<()> {
        let (attached, others) = NAMING_NAMES.split_at(attached(needed));
        for (name, hook) in attached.iter().zip(HOOKS) {
            let (program, pin) = (self.open(name)?, self.link_path(name));
            let fail = |e: io::Error| Error::Bpf { doing: format!("attach {name} to the cgroup"), why: e.to_string() };
            if let Some((Kind::Link, link)) = pins::pinned(&pin)? {
                let info = sys::link_info(link.as_fd()).map_err(fail)?;
                if info.cgroup == Some(id) {
                    if info.program != sys::program_info(program.as_fd()).map_err(fail)?.id {
                        sys::link_update(link.as_fd(), program.as_fd()).map_err(fail)?;
                    }
                    continue;
                }
                // One that was detached is off already, and says so.
                let _ = sys::link_detach(link.as_fd());
                pins::remove(&pin)?;
            }
            let link = sys::cgroup_attach(program.as_fd(), cgroup, hook).map_err(fail)?;
            sys::object_pin(link.as_fd(), &pin).map_err(Error::file("pin link", &pin))?;
        }
        others.iter().try_for_each(|name| self.detach_naming(name))
    }

    /// Detaches the programs of names that are not `needed`.
    pub fn detach_unneeded(&self, needed: Needed, _: &Deciding) -> Result<()> {
        NAMING_NAMES[attached(needed)..].iter().try_for_each(|name| self.detach_naming(name))
    }

    /// Are the programs of names attached that are `needed`, as they are pinned, to the cgroup of this id, and no others?
    pub fn naming_is_attached(&self, id: u64, needed: Needed) -> Result<bool> {
        let (attached, others) = NAMING_NAMES.split_at(attached(needed));
        for name in attached {
            let link = sys::object_get(&self.link_path(name)).and_then(|link| sys::link_info(link.as_fd()));
            let program = sys::object_get(&self.path(name)).and_then(|program| sys::program_info(program.as_fd()));
            match (link, program) {
                (Ok(link), Ok(program)) if link.cgroup == Some(id) && link.program == program.id => {}
                _ => return Ok(false),
            }
        }
        Ok(!others.iter().any(|name| self.link_path(name).exists()))
    }

    /// Are the programs and their maps pinned, and those of `ports` and `book` that are pinned now theirs?
    pub fn naming_is_loaded(&self) -> Result<bool> {
        let maps = [self.map_id("ports")?, self.map_id("book")?, self.map_id("namespaces")?, self.map_id("names")?];
        for name in NAMING_NAMES {
            let program = sys::object_get(&self.path(name)).and_then(|program| sys::program_info(program.as_fd()));
            let Ok(program) = program else { return Ok(false) };
            // that of ports is none that every program reads
            if ![maps[1], maps[2], maps[3]].iter().all(|map| map.is_some_and(|map| program.maps.contains(&map))) {
                return Ok(false);
            }
        }
        Ok(maps[0].is_some())
    }

    /// Takes all of them off, also where somebody else holds a link. A link that is not ours by `mine` stays attached.
    pub(super) fn remove_naming(&self, mine: Mine<'_>) -> Result<()> {
        for name in NAMING_NAMES {
            let doing = |e: io::Error| Error::Bpf { doing: format!("detach {name}"), why: e.to_string() };
            if let Some((Kind::Link, link)) = pins::pinned(&self.link_path(name))? {
                let info = sys::link_info(link.as_fd()).map_err(doing)?;
                if info.cgroup != Some(0) && find::is_ours(info.program, mine)? {
                    sys::link_detach(link.as_fd()).map_err(doing)?;
                }
            }
        }
        self.unpin_some(&NAMING_NAMES, &pins::NAMING_MAPS)
    }

    pub(super) fn naming_pins(&self) -> impl Iterator<Item = PathBuf> {
        let programs = NAMING_NAMES.iter().flat_map(|name| [self.path(name), self.link_path(name)]);
        programs.chain(pins::NAMING_MAPS.iter().map(|map| self.directory().join(map)))
    }

    fn detach_naming(&self, name: &str) -> Result<()> {
        let pin = self.link_path(name);
        if let Some((Kind::Link, link)) = pins::pinned(&pin)? {
            // What was detached already is to be so.
            let _ = sys::link_detach(link.as_fd());
            pins::remove(&pin)?;
        }
        Ok(())
    }
}

/// How many of the programs are to be attached.
fn attached(needed: Needed) -> usize {
    match needed {
        Needed { udp: true, .. } => HOOKS.len(),
        Needed { any: true, .. } => DATAGRAMS,
        Needed { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_attached() {
        let needed = |any, udp| attached(Needed { any, udp });
        assert_eq!([needed(false, false), needed(true, false), needed(true, true)], [0, 8, 12]);
    }
}
