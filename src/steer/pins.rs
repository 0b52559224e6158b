//! The pins of the data path and of the programs at the sockets: where they are, which are missing or another's, and pinning again what the kernel still has.
//!
//! A pin is a name and proves nothing. A program is ours when it is bound to a book of ours, and a map when such a program
//! uses it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::find::{self, Mine};
use super::sys::{self, Kind};
use crate::error::{Error, Result};

/// The programs by function name, see `bpf/steer.bpf.c`.
pub(super) const NAMES: [&str; 8] =
    ["from_wire", "from_tunnel", "from_lo", "from_container", "after_shaper", "host_flow", "inner_lo", "inner_eth"];

/// The maps by name, see `bpf/maps.h`.
pub(super) const MAPS: [&str; 16] = [
    "ports",
    "slots",
    "host",
    "fragments_out",
    "echoes",
    "packets",
    "counters",
    "addresses",
    "fragments_in",
    "held",
    "aside",
    "joined",
    "groups",
    "book",
    "tenants",
    "devices",
];

/// The programs at sockets, see `bpf/sockets.bpf.c`, in the order in which they are attached: post_bind reads what bind notes,
/// and what it counts has to be seen to end.
pub(super) const SOCKET_NAMES: [&str; 7] =
    ["sock_release", "sock_events", "bind4", "bind6", "post_bind4", "post_bind6", "keep_range"];

/// Maps of theirs alone.
pub(super) const SOCKET_MAPS: [&str; 5] = ["namespaces", "cookies", "sockets", "offers", "claiming"];

/// The programs of port names, see `bpf/names.bpf.c`: those from the ninth on are for datagrams alone.
pub(super) const NAMING_NAMES: [&str; 12] = [
    "name_bind4",
    "name_bind6",
    "name_sockname4",
    "name_sockname6",
    "name_peername4",
    "name_peername6",
    "name_connect4",
    "name_connect6",
    "name_sendmsg4",
    "name_sendmsg6",
    "name_recvmsg4",
    "name_recvmsg6",
];

/// Their map.
pub(super) const NAMING_MAPS: [&str; 1] = ["names"];

/// Maps that the kernel may lose and older layouts lack: they tell for seconds where a part of a datagram, or an answer, goes;
/// or who is in a group, which is reported again; or setup fills them anew.
const PASSING: [&str; 14] = [
    "fragments_in",
    "fragments_out",
    "held",
    "aside",
    "echoes",
    "packets",
    "joined",
    "groups",
    SOCKET_MAPS[0],
    SOCKET_MAPS[1],
    SOCKET_MAPS[2],
    SOCKET_MAPS[3],
    SOCKET_MAPS[4],
    NAMING_MAPS[0],
];

/// Maps of older layouts that this one does without.
pub(super) const RETIRED: [&str; 3] = ["echo_out", "echo_ids", "shares"];

/// Programs and links pinned under one directory of a bpffs.
pub struct Programs {
    directory: PathBuf,
}

/// Pins that are missing, or another object's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The programs that have to be loaded.
    pub programs: Vec<&'static str>,
    /// Is a map among them?
    pub maps: bool,
}

impl Programs {
    /// Those under `directory`, which need not exist yet.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Where they are pinned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Are all programs and maps pinned? Asks for names alone: it is for every start of a container.
    pub fn are_pinned(&self) -> bool {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let there: Vec<OsString> = entries.map(|entry| entry.file_name()).collect();
        let is_there = |prefix: &str, name: &str| {
            there.iter().any(|pin| pin.as_encoded_bytes().strip_prefix(prefix.as_bytes()) == Some(name.as_bytes()))
        };
        NAMES.iter().all(|name| is_there(PROGRAM, name)) && MAPS.iter().all(|name| is_there("", name))
    }

    /// What is not as [`Programs::load`] left it.
    pub fn lacking(&self) -> Result<Lacking> {
        let (mut lacking, mut used) = (Vec::new(), BTreeSet::new());
        let book = self.map_id("book")?;
        for name in NAMES {
            let path = self.path(name);
            let bound = match pinned(&path)? {
                Some((Kind::Program, fd)) => info(&path, sys::program_info(fd.as_fd()))?.maps,
                _ => Vec::new(),
            };
            if book.is_none_or(|book| !bound.contains(&book)) {
                lacking.push(name);
            }
            used.extend(bound);
        }
        let mut maps = false;
        for name in MAPS {
            match self.map_id(name)? {
                Some(id) if used.contains(&id) => {}
                // Those that use it are not there either, or the pin alone is missing.
                None => maps = true,
                Some(_) => return Ok(Lacking { programs: NAMES.into(), maps: true }),
            }
        }
        Ok(Lacking { programs: lacking, maps })
    }

    /// Pins again what is missing and is still in the kernel: maps, programs and links of ours.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when the kernel has programs of ours and lacks a map of theirs that tells who has what: an
    /// empty one in its place would give away what containers have.
    pub fn restore(&self, mine: Mine<'_>) -> Result<()> {
        let Some(parts) = find::parts(mine)? else { return Ok(()) };
        for name in all_maps() {
            let path = self.directory().join(name);
            if pinned(&path)?.is_some() {
                continue;
            }
            match parts.map(name)? {
                Some(map) => self.pin(map, &path)?,
                None if PASSING.contains(&name) => {}
                None => {
                    return Err(Error::unsupported(
                        format!("{} is missing, and no program has that map any more", path.display()),
                        "end all containers, run `portslice setup --undo`, then `portslice setup`",
                    ));
                }
            }
        }
        for name in all_names() {
            let path = self.path(name);
            if pinned(&path)?.is_none()
                && let Some(program) = find::program(parts.book, name)?
            {
                self.pin(program, &path)?;
            }
        }
        let hooked = find::hooked()?.into_iter().filter(|hooked| hooked.ifindex != 0);
        let hooked = hooked.map(|hooked| (hooked.link, hooked.program)).chain(find::on_cgroups()?);
        for (link, program) in hooked {
            let Some(name) = parts.name_of(program) else { continue };
            let path = self.link_path(name);
            if pinned(&path)?.is_none()
                && let Some(link) = find::link(link)?
            {
                self.pin(link, &path)?;
            }
        }
        Ok(())
    }

    /// Refuses pins of somebody else where ours are.
    pub fn check(&self, mine: Mine<'_>) -> Result<()> {
        let owned = find::owned(mine, self.map_id("book")?)?;
        for name in all_names() {
            for path in [self.path(name), self.link_path(name)] {
                let ours = match pinned(&path)? {
                    None => true,
                    Some((Kind::Program, fd)) => owned.program(info(&path, sys::program_info(fd.as_fd()))?.id),
                    Some((Kind::Link, fd)) => owned.program(info(&path, sys::link_info(fd.as_fd()))?.program),
                    Some((Kind::Map, _)) => false,
                };
                refuse_unless(ours, &path)?;
            }
        }
        for name in all_maps() {
            let path = self.directory().join(name);
            let ours = match pinned(&path)? {
                None => true,
                Some((Kind::Map, fd)) => owned.map(&info(&path, sys::map_info(fd.as_fd()))?, name),
                Some(_) => false,
            };
            refuse_unless(ours, &path)?;
        }
        Ok(())
    }

    /// Removes every pin of ours by name; whether they are ours is [`Self::check`]'s to say. Others' stay.
    pub fn unpin(&self) -> Result<()> {
        self.unpin_some(&NAMES, &MAPS)
    }

    /// The same for some of the programs and maps.
    pub(super) fn unpin_some(&self, names: &[&str], maps: &[&str]) -> Result<()> {
        let programs = names.iter().flat_map(|name| [self.path(name), self.link_path(name), self.beside(name)]);
        let maps = maps.iter().flat_map(|name| [self.directory().join(name), self.map_beside(name)]);
        programs.chain(maps).try_for_each(|path| remove(&path))
    }

    /// What else is pinned in the directory. The kernel itself puts maps.debug and progs.debug into a bpffs.
    pub fn strangers(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.directory()).map_err(Error::file("list", self.directory()))?;
        let known = |name: &str| {
            let name = name.strip_prefix(NEW).unwrap_or(name);
            let program = name.strip_prefix(PROGRAM).or(name.strip_prefix(LINK));
            name.contains('.')
                || all_maps().any(|map| map == name)
                || program.is_some_and(|name| all_names().any(|known| known == name))
        };
        let others = entries.flatten().filter(|entry| !known(&entry.file_name().to_string_lossy()));
        Ok(others.map(|entry| entry.path()).collect())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{PROGRAM}{name}"))
    }

    pub(super) fn link_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{LINK}{name}"))
    }

    /// Where a program waits for the others of its version.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{NEW}{PROGRAM}{name}"))
    }

    /// Where a map of a newer layout waits for its programs.
    pub(super) fn map_beside(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{NEW}{name}"))
    }

    pub(super) fn map_id(&self, name: &str) -> Result<Option<u32>> {
        let path = self.directory().join(name);
        match pinned(&path)? {
            Some((Kind::Map, fd)) => Ok(Some(info(&path, sys::map_info(fd.as_fd()))?.id)),
            _ => Ok(None),
        }
    }

    fn pin(&self, object: OwnedFd, path: &Path) -> Result<()> {
        log::info!("{} is pinned again", path.display());
        sys::object_pin(object.as_fd(), path).map_err(Error::file("pin", path))
    }
}

/// The programs of the data path and those at the sockets.
fn all_names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain(SOCKET_NAMES).chain(NAMING_NAMES)
}

/// Their maps.
fn all_maps() -> impl Iterator<Item = &'static str> {
    MAPS.into_iter().chain(SOCKET_MAPS).chain(NAMING_MAPS)
}

/// How the pins of programs and of links begin; the others are maps.
const PROGRAM: &str = "prog_";
const LINK: &str = "link_";

/// How the names of pins begin that wait to replace others.
const NEW: &str = "new_";

/// The object at a path; `None` when there is none.
pub(super) fn pinned(path: &Path) -> Result<Option<(Kind, OwnedFd)>> {
    let object = match sys::object_get(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        object => object.map_err(Error::file("open", path))?,
    };
    match info(path, sys::kind(object.as_fd()))? {
        Some(kind) => Ok(Some((kind, object))),
        None => refuse_unless(false, path).map(|()| None),
    }
}

/// The object at a path, which has to be there.
pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    sys::object_get(path).map_err(Error::file("open", path))
}

/// Removes a pin; success when there is none.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

fn info<T>(path: &Path, info: io::Result<T>) -> Result<T> {
    info.map_err(Error::file("look at", path))
}

fn refuse_unless(ours: bool, path: &Path) -> Result<()> {
    if ours {
        return Ok(());
    }
    Err(Error::Busy(format!(
        "{} is pinned by somebody else: remove it, or give portslice a state directory of its own (--state-dir)",
        path.display()
    )))
}
