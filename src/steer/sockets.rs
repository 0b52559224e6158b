//! The programs at the sockets (`bpf/sockets.bpf.c`): loading them, and attaching them to a cgroup.
//!
//! They share the map `ports` with the data path, are bound to its maps as its own programs are, and are found by them again. What
//! does not live here: which network namespace is whose ([`super::namespaces`]), and the cgroup (`host::cgroup2`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::EbpfLoader;

use super::find::{self, Mine};
use super::pins::{self, NAMING_MAPS, Programs, SOCKET_MAPS, SOCKET_NAMES};
use super::program::Object;
use super::shared::open;
use super::sys::{self, Kind};
use crate::error::{Error, Result};

/// The hook of each program.
const HOOKS: [u32; 7] = [
    sys::CGROUP_INET_SOCK_RELEASE,
    sys::CGROUP_SOCK_OPS,
    sys::CGROUP_INET4_BIND,
    sys::CGROUP_INET6_BIND,
    sys::CGROUP_INET4_POST_BIND,
    sys::CGROUP_INET6_POST_BIND,
    sys::CGROUP_SYSCTL,
];

/// What tells the loader where the kernel keeps what (CONFIG_DEBUG_INFO_BTF). Without it a socket that the kernel made, as MPTCP
/// does, is one like others: its port is free when its container ends.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

static OBJECT: Object = Object {
    bytes: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockets.o")),
    what: "the programs at the sockets",
    remedy: "run a newer kernel (6.1 has all that they need), built with CONFIG_CGROUP_BPF; without them set socket_rules = \"off\"",
};

impl Programs {
    /// Loads them and pins them. Maps that are pinned already are used, so that what is known of containers survives an upgrade;
    /// a program that is attached stays so until [`Self::attach_sockets`].
    pub fn load_sockets(&self) -> Result<()> {
        let knows_kernel = u32::from(Path::new(KERNEL_TYPES).exists());
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(self.directory());
        loader.override_global("knows_kernel", &knows_kernel, true);
        let pinned = self.pin_beside(&OBJECT, &mut loader, &SOCKET_NAMES, |map| open(self.directory(), map));
        pinned.inspect_err(|_| self.forget_programs_beside(&SOCKET_NAMES))?;
        self.take_over(&SOCKET_NAMES)?;
        self.load_naming()
    }

    /// Attaches them to a cgroup, each by a link that is pinned. A link that stands there gets the program that is pinned now, at
    /// one moment; one to another cgroup is taken off.
    pub fn attach_sockets(&self, cgroup: BorrowedFd<'_>, id: u64) -> Result<()> {
        for (name, hook) in SOCKET_NAMES.into_iter().zip(HOOKS) {
            let (program, pin) = (self.open(name)?, self.link_path(name));
            let fail = |e: io::Error| Error::Bpf { doing: format!("attach {name} to the cgroup"), why: e.to_string() };
            if let Some((Kind::Link, link)) = pins::pinned(&pin)? {
                if sys::link_info(link.as_fd()).map_err(fail)?.cgroup == Some(id) {
                    sys::link_update(link.as_fd(), program.as_fd()).map_err(fail)?;
                    continue;
                }
                // One that was detached is off already, and says so.
                let _ = sys::link_detach(link.as_fd());
                pins::remove(&pin)?;
            }
            let link = sys::cgroup_attach(program.as_fd(), cgroup, hook).map_err(|e| match e.raw_os_error() {
                Some(libc::EPERM) => taken(name),
                _ => fail(e),
            })?;
            sys::object_pin(link.as_fd(), &pin).map_err(Error::file("pin link", &pin))?;
        }
        Ok(())
    }

    /// Are all of them attached as they are pinned, to the cgroup of this id, and do they read the maps that are pinned?
    pub fn sockets_are_attached(&self, id: u64) -> Result<bool> {
        let (ports, tenants, book) = (self.map_id("ports")?, self.map_id("tenants")?, self.map_id("book")?);
        for name in SOCKET_NAMES {
            let link = sys::object_get(&self.link_path(name)).and_then(|link| sys::link_info(link.as_fd()));
            let program = sys::object_get(&self.path(name)).and_then(|program| sys::program_info(program.as_fd()));
            let (Ok(link), Ok(program)) = (link, program) else { return Ok(false) };
            let bound = |map: Option<u32>| map.is_some_and(|map| program.maps.contains(&map));
            let read = if name == "keep_range" { tenants } else { ports };
            if link.cgroup != Some(id) || link.program != program.id || !bound(book) || !bound(read) {
                return Ok(false);
            }
        }
        Ok(self.socket_pins().all(|path| path.exists()))
    }

    /// Are the links pinned that keep them attached, and the maps that tell them of containers? Asks for names alone: it is for
    /// every start of a container.
    pub fn sockets_are_pinned(&self) -> bool {
        let maps = SOCKET_MAPS.iter().map(|map| self.directory().join(map));
        SOCKET_NAMES.iter().map(|name| self.link_path(name)).chain(maps).all(|path| path.exists())
    }

    /// Is any of them pinned, or a map of theirs?
    pub fn has_sockets(&self) -> bool {
        self.socket_pins().chain(self.naming_pins()).any(|path| path.exists())
    }

    /// Takes them off the cgroup, also where somebody else holds a link, and unpins them and their maps. A link that is not ours
    /// by `mine` stays attached.
    pub fn remove_sockets(&self, mine: Mine<'_>) -> Result<()> {
        for name in SOCKET_NAMES {
            let doing = |e: io::Error| Error::Bpf { doing: format!("detach {name}"), why: e.to_string() };
            if let Some((Kind::Link, link)) = pins::pinned(&self.link_path(name))? {
                let info = sys::link_info(link.as_fd()).map_err(doing)?;
                if info.cgroup != Some(0) && find::is_ours(info.program, mine)? {
                    sys::link_detach(link.as_fd()).map_err(doing)?;
                }
            }
        }
        self.remove_naming(mine)?;
        self.unpin_some(&SOCKET_NAMES, &SOCKET_MAPS)
    }

    fn socket_pins(&self) -> impl Iterator<Item = PathBuf> {
        let programs = SOCKET_NAMES.iter().flat_map(|name| [self.path(name), self.link_path(name)]);
        programs.chain(SOCKET_MAPS.iter().map(|map| self.directory().join(map)))
    }

    /// Unpins their maps, so that [`Self::load_sockets`] makes new ones.
    pub fn forget_socket_maps(&self) -> Result<()> {
        self.unpin_some(&[], &SOCKET_MAPS)?;
        self.unpin_some(&[], &NAMING_MAPS)
    }
}

/// A program that was attached without BPF_F_ALLOW_MULTI lets no other one be attached beside it (kernel/bpf/cgroup.c,
/// hierarchy_allows_attach); the kernel does not say whose it is.
fn taken(name: &str) -> Error {
    Error::unsupported(
        format!(
            "the kernel refuses to attach {name} to the cgroup: somebody attached a program there that lets no other in"
        ),
        "`bpftool cgroup tree` shows it (a line without `multi`): have it attached with BPF_F_ALLOW_MULTI",
    )
}
