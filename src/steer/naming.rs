//! Port names in the kernel: the map `names`, and the programs that translate between a name and its port (`bpf/names.bpf.c`).
//!
//! The programs are loaded with those at the sockets ([`super::sockets`]) and attached to the same cgroup, behind them, only while a
//! container has a name. What does not live here: which names there are (`ports::names`), and who gets one (`plan`).

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use fs2::FileExt;

use super::find::{self, Mine};
use super::pins::{self, NAMING_NAMES, Programs};
use super::program::Object;
use super::shared::open;
use super::sys::{self, Kind};
use crate::error::{Error, Result};
use crate::ports::PortNames;

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

/// Which way a name is looked up (`enum way`).
const TO_OUTSIDE: u8 = 0;
const TO_INSIDE: u8 = 1;

/// `struct name_key`, and the port it stands for.
type Entry = ([u8; 8], [u8; 4]);

/// The map `names`.
pub struct Naming {
    map: OwnedFd,
}

/// Which programs are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Some port has a name.
    pub any: bool,
    /// Some port of UDP has one.
    pub udp: bool,
}

impl Needed {
    fn by(all: &[Entry]) -> Self {
        Self { any: !all.is_empty(), udp: all.iter().any(|(key, _)| key[6] != 0) }
    }

    fn attached(self) -> usize {
        match self {
            Self { udp: true, .. } => HOOKS.len(),
            Self { any: true, .. } => DATAGRAMS,
            _ => 0,
        }
    }
}

impl Naming {
    /// The one pinned under `directory`; `None` where no program is at the sockets, or those of a version without names.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        match sys::object_get(&directory.join("names")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            map => Ok(Some(Self { map: map.map_err(Error::file("open", directory.join("names")))? })),
        }
    }

    /// Gives the ports of `slot` these names and no others. From this moment what is attached translates them.
    pub fn set(&self, slot: u16, names: &PortNames) -> Result<()> {
        let fail = |e: io::Error| failed("write the port names of slot", slot, &e);
        let wanted = entries(slot, names);
        let known: BTreeSet<Entry> = self.of(slot)?.into_iter().collect();
        for (key, value) in wanted.difference(&known) {
            sys::update(self.map.as_fd(), key, value).map_err(fail)?;
        }
        let keys: BTreeSet<[u8; 8]> = wanted.iter().map(|(key, _)| *key).collect();
        for (key, _) in known.iter().filter(|(key, _)| !keys.contains(key)) {
            match sys::delete(self.map.as_fd(), key) {
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(fail(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Have the ports of `slot` these names and no others?
    pub fn has(&self, slot: u16, names: &PortNames) -> Result<bool> {
        Ok(self.of(slot)?.into_iter().collect::<BTreeSet<Entry>>() == entries(slot, names))
    }

    /// Have the ports of all these slots their names?
    pub fn has_all(&self, wanted: &[(u16, PortNames)]) -> Result<bool> {
        let known: BTreeSet<Entry> = self.all()?.into_iter().collect();
        Ok(wanted.iter().all(|(slot, names)| entries(*slot, names).is_subset(&known)))
    }

    /// What all names need.
    pub fn needed(&self) -> Result<Needed> {
        self.all().map(|all| Needed::by(&all))
    }

    fn of(&self, slot: u16) -> Result<Vec<Entry>> {
        let of = u32::from(slot).to_ne_bytes();
        Ok(self.all()?.into_iter().filter(|(key, _)| key[..4] == of).collect())
    }

    fn all(&self) -> Result<Vec<Entry>> {
        let fail = |e: io::Error| Error::Bpf { doing: "read the port names".into(), why: e.to_string() };
        sys::entries(self.map.as_fd()).map_err(fail)
    }
}

fn entries(slot: u16, names: &PortNames) -> BTreeSet<Entry> {
    let key = |port: u16, udp: bool, way: u8| {
        let (slot, port) = (u32::from(slot).to_ne_bytes(), port.to_ne_bytes());
        [slot[0], slot[1], slot[2], slot[3], port[0], port[1], udp.into(), way]
    };
    let value = |port: u16| u32::from(port).to_ne_bytes();
    let of = |udp: bool| {
        names.of(udp).flat_map(move |(outside, inside)| {
            [(key(inside, udp, TO_OUTSIDE), value(outside)), (key(outside, udp, TO_INSIDE), value(inside))]
        })
    };
    of(false).chain(of(true)).collect()
}

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
        let (attached, others) = NAMING_NAMES.split_at(needed.attached());
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
        NAMING_NAMES[needed.attached()..].iter().try_for_each(|name| self.detach_naming(name))
    }

    /// Are the programs of names attached that are `needed`, as they are pinned, to the cgroup of this id, and no others?
    pub fn naming_is_attached(&self, id: u64, needed: Needed) -> Result<bool> {
        let (attached, others) = NAMING_NAMES.split_at(needed.attached());
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

fn failed(doing: &str, slot: u16, e: &io::Error) -> Error {
    Error::Bpf { doing: format!("{doing} {slot}"), why: e.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_from_both_ends() {
        let port = |low: u8, high: u8| u16::from_ne_bytes([low, high]);
        let names: PortNames = "31000:80/tcp,31001:53/udp".parse().unwrap();
        let found: Vec<(u16, u8, u8, u32)> = entries(7, &names)
            .into_iter()
            .map(|(key, value)| (port(key[4], key[5]), key[6], key[7], u32::from_ne_bytes(value)))
            .collect();
        let mut wanted = vec![
            (80, 0, TO_OUTSIDE, 31000),
            (31000, 0, TO_INSIDE, 80),
            (53, 1, TO_OUTSIDE, 31001),
            (31001, 1, TO_INSIDE, 53),
        ];
        wanted.iter().for_each(|one| assert!(found.contains(one), "{one:?} {found:?}"));
        wanted.retain(|one| found.contains(one));
        assert_eq!(found.len(), wanted.len());
    }

    #[test]
    fn only_what_is_needed_is_attached() {
        let needed = |text: &str| {
            let all: Vec<Entry> = entries(1, &text.parse().unwrap()).into_iter().collect();
            Needed::by(&all).attached()
        };
        assert_eq!([needed(""), needed("31000:80/tcp"), needed("31000:80/udp"), needed("31000:80")], [0, 8, 12, 12]);
    }

    #[test]
    fn keys_are_as_the_header_says() {
        for line in ["enum way { TO_OUTSIDE, TO_INSIDE };", "\t__u32 slot;\n\t__u16 port;\n\t__u8 udp;\n\t__u8 way;"] {
            assert!(include_str!("bpf/names.h").contains(line), "{line}");
        }
    }
}
