//! What is in the kernel, without any pin, mount or file: installations by their books, and whose a program or link is.
//!
//! Ids are read with CAP_SYS_ADMIN only. They count for the whole machine, so other network namespaces' programs are
//! found as well: the record in the book says where an installation belongs.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::book::{Book, is_book};
use super::maps::Maps;
use super::sys::{self, Kind, MapInfo, ProgramInfo};
use crate::error::{Error, Result};

/// Judges by the host record in a book, empty when there is none, whether that is this installation's.
pub type Mine<'a> = &'a dyn Fn(&[u8]) -> bool;

/// One installation: a book, and the programs that are bound to it.
pub struct Installation {
    /// Id of the book.
    pub book: u32,
    /// The host record (record 0 of the book); empty when there is none yet.
    pub record: Vec<u8>,
    /// Its maps.
    pub maps: Maps,
    /// Its programs, also those of earlier versions that a filter still runs; ascending by id.
    pub programs: Vec<Found>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its function name.
    pub name: String,
    /// Its id.
    pub id: u32,
}

/// A program on the tcx hook of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooked {
    /// Id of the link.
    pub link: u32,
    /// Id of the program.
    pub program: u32,
    /// The device, in its own network namespace; 0 when it is gone.
    pub ifindex: u32,
}

/// All installations of this machine. A book that no program is bound to steers nothing and is left out.
pub fn installations() -> Result<Vec<Installation>> {
    let books = books()?;
    if books.is_empty() {
        return Ok(Vec::new());
    }
    let programs = programs()?;
    let mut found = Vec::new();
    for book in books {
        let own: Vec<&ProgramInfo> = programs.iter().filter(|p| p.maps.contains(&book)).collect();
        if own.is_empty() {
            continue;
        }
        let mut ids: Vec<u32> = own.iter().flat_map(|p| &p.maps).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut maps = Vec::new();
        for id in ids {
            maps.extend(map(id)?.map(|(info, fd)| (info.name(), fd)));
        }
        let taken = Maps::from_fds(|name| {
            let at = maps.iter().position(|(have, _)| have == name);
            at.map(|at| maps.swap_remove(at).1).ok_or_else(|| Error::Bpf {
                doing: format!("find the map {name} of the book {book}"),
                why: "none of its programs uses it".into(),
            })
        });
        let taken = match taken {
            Ok(maps) => maps,
            // half loaded, or half gone: the programs of a layout all use the same maps
            Err(e) => {
                log::warn!("{e}: this data path is left alone");
                continue;
            }
        };
        let record = taken.book.read(0)?.unwrap_or_default();
        let programs = own.iter().map(|p| Found { name: p.name.clone(), id: p.id }).collect();
        found.push(Installation { book, record, maps: taken, programs });
    }
    Ok(found)
}

/// The ids of all books.
pub fn books() -> Result<Vec<u32>> {
    let mut books = Vec::new();
    each_id(Kind::Map, |id| {
        if map(id)?.is_some_and(|(info, _)| is_book(&info)) {
            books.push(id);
        }
        Ok(())
    })?;
    Ok(books)
}

/// The book with an id; `None` when there is none.
pub fn book(id: u32) -> Result<Option<Book>> {
    Ok(map(id)?.filter(|(info, _)| is_book(info)).map(|(_, fd)| Book::from_fd(fd)))
}

/// The id of the book that a program is bound to: whose program it is. `None` for a stranger's program, and for one
/// that is gone.
pub fn book_of_program(id: u32) -> Result<Option<u32>> {
    let Some((info, _)) = program_by_id(id)? else { return Ok(None) };
    for id in info.maps {
        if map(id)?.is_some_and(|(info, _)| is_book(&info)) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Is a program bound to a book whose host record `mine` accepts? A book stays until its last program goes, so that one of
/// an earlier version is known as well.
pub fn is_ours(program: u32, mine: Mine<'_>) -> Result<bool> {
    let Some(id) = book_of_program(program)? else { return Ok(false) };
    Ok(record(id)?.is_some_and(|record| mine(&record)))
}

/// What is on tcx hooks, anybody's, in every network namespace.
pub fn hooked() -> Result<Vec<Hooked>> {
    let mut hooked = Vec::new();
    let walked = each_id(Kind::Link, |id| {
        let Some(fd) = sys::open_id(Kind::Link, id).map_err(refused("open link", id))? else { return Ok(()) };
        let info = sys::link_info(fd.as_fd()).map_err(refused("look at link", id))?;
        hooked.extend(info.tcx.map(|ifindex| Hooked { link: info.id, program: info.program, ifindex }));
        Ok(())
    });
    walked.map(|()| hooked)
}

/// The ids of links to cgroups, anybody's, and of their programs. A link that was detached is none.
pub fn on_cgroups() -> Result<Vec<(u32, u32)>> {
    let mut attached = Vec::new();
    let walked = each_id(Kind::Link, |id| {
        let Some(fd) = sys::open_id(Kind::Link, id).map_err(refused("open link", id))? else { return Ok(()) };
        let info = sys::link_info(fd.as_fd()).map_err(refused("look at link", id))?;
        attached.extend(info.cgroup.filter(|cgroup| *cgroup != 0).map(|_| (info.id, info.program)));
        Ok(())
    });
    walked.map(|()| attached)
}

/// Takes a link off its hook, whether or not it is pinned. Success when it is gone.
pub fn unhook(link: u32) -> Result<()> {
    let Some(fd) = sys::open_id(Kind::Link, link).map_err(refused("open link", link))? else { return Ok(()) };
    sys::link_detach(fd.as_fd()).map_err(refused("detach link", link))
}

/// What the kernel has of one installation.
pub(super) struct Parts {
    /// Id of the book.
    pub(super) book: u32,
    programs: Vec<ProgramInfo>,
}

impl Parts {
    /// The map `name` that its programs use or are bound to.
    pub(super) fn map(&self, name: &str) -> Result<Option<OwnedFd>> {
        for id in self.programs.iter().flat_map(|program| &program.maps).collect::<BTreeSet<_>>() {
            if let Some((_, fd)) = map(*id)?.filter(|(info, _)| info.name() == name) {
                return Ok(Some(fd));
            }
        }
        Ok(None)
    }

    /// The name of the program with an id, if it is one of these.
    pub(super) fn name_of(&self, program: u32) -> Option<&str> {
        self.programs.iter().find(|own| own.id == program).map(|own| own.name.as_str())
    }
}

/// The newest book that `mine` accepts, with its programs; `None` when no program is bound to one.
pub(super) fn parts(mine: Mine<'_>) -> Result<Option<Parts>> {
    let all = programs()?;
    for book in books()?.into_iter().rev() {
        let programs: Vec<ProgramInfo> = all.iter().filter(|p| p.maps.contains(&book)).cloned().collect();
        if !programs.is_empty() && record(book)?.is_some_and(|record| mine(&record)) {
            return Ok(Some(Parts { book, programs }));
        }
    }
    Ok(None)
}

/// Whose programs and maps are.
pub(super) struct Owned {
    books: Vec<u32>,
    programs: Vec<ProgramInfo>,
}

impl Owned {
    /// Is the program ours?
    pub(super) fn program(&self, id: u32) -> bool {
        self.own().any(|program| program.id == id)
    }

    /// Is the map at the pin `name` ours? One that nobody uses is what a killed run left, if that is its own name as well.
    pub(super) fn map(&self, info: &MapInfo, name: &str) -> bool {
        let used = self.programs.iter().any(|program| program.maps.contains(&info.id));
        self.own().any(|program| program.maps.contains(&info.id)) || (!used && info.name() == name)
    }

    fn own(&self) -> impl Iterator<Item = &ProgramInfo> {
        self.programs.iter().filter(|program| program.maps.iter().any(|map| self.books.contains(map)))
    }
}

/// What is ours by the books that `mine` accepts, and by the book `pinned` as long as that has no record.
pub(super) fn owned(mine: Mine<'_>, pinned: Option<u32>) -> Result<Owned> {
    let mut own = Vec::new();
    for book in books()? {
        let record = record(book)?.unwrap_or_default();
        if mine(&record) || (Some(book) == pinned && record.is_empty()) {
            own.push(book);
        }
    }
    Ok(Owned { books: own, programs: programs()? })
}

/// The link with an id; `None` when it is gone.
pub(super) fn link(id: u32) -> Result<Option<OwnedFd>> {
    sys::open_id(Kind::Link, id).map_err(refused("open link", id))
}

/// The host record in a book; empty when there is none yet, `None` when the book is gone.
fn record(id: u32) -> Result<Option<Vec<u8>>> {
    book(id)?.map(|book| Ok(book.read(0)?.unwrap_or_default())).transpose()
}

/// The newest program `name` that is bound to a book.
pub(super) fn program(book: u32, name: &str) -> Result<Option<OwnedFd>> {
    let mut newest = None;
    each_id(Kind::Program, |id| {
        if let Some((info, fd)) = program_by_id(id)?
            && info.name == name
            && info.maps.contains(&book)
        {
            newest = Some(fd);
        }
        Ok(())
    })?;
    Ok(newest)
}

fn programs() -> Result<Vec<ProgramInfo>> {
    let mut programs = Vec::new();
    each_id(Kind::Program, |id| {
        programs.extend(program_by_id(id)?.map(|(info, _)| info));
        Ok(())
    })?;
    Ok(programs)
}

fn map(id: u32) -> Result<Option<(MapInfo, OwnedFd)>> {
    let Some(fd) = sys::open_id(Kind::Map, id).map_err(refused("open BPF map", id))? else { return Ok(None) };
    let info = sys::map_info(fd.as_fd()).map_err(refused("look at BPF map", id))?;
    Ok(Some((info, fd)))
}

fn program_by_id(id: u32) -> Result<Option<(ProgramInfo, OwnedFd)>> {
    let Some(fd) = sys::open_id(Kind::Program, id).map_err(refused("open BPF program", id))? else { return Ok(None) };
    let info = sys::program_info(fd.as_fd()).map_err(refused("look at BPF program", id))?;
    Ok(Some((info, fd)))
}

fn each_id(kind: Kind, mut each: impl FnMut(u32) -> Result<()>) -> Result<()> {
    let what = match kind {
        Kind::Map => "find the BPF map behind",
        Kind::Program => "find the BPF program behind",
        Kind::Link => "find the BPF link behind",
    };
    let mut id = 0;
    while let Some(next) = sys::next_id(kind, id).map_err(refused(what, id))? {
        each(next)?;
        id = next;
    }
    Ok(())
}

fn refused(doing: &'static str, id: u32) -> impl Fn(io::Error) -> Error {
    move |e| {
        let why = match e.raw_os_error() {
            Some(libc::EPERM) => format!("{e}: CAP_SYS_ADMIN in the machine's first user namespace is needed"),
            _ => e.to_string(),
        };
        Error::Bpf { doing: format!("{doing} {id}"), why }
    }
}
