//! bpf(2) by hand: the few commands a hook needs, and those that find what no pin leads to. A hook only opens what is pinned and changes map entries; the loader
//! library would first parse the kernel's type information, which takes longer than the whole hook.
//!
//! Layouts follow `union bpf_attr` in include/uapi/linux/bpf.h; every one of these commands is in Linux 5.10 (links
//! to tcx: 6.6).

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const MAP_GET_NEXT_ID: libc::c_long = 12;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
const LINK_GET_NEXT_ID: libc::c_long = 31;
const LINK_DETACH: libc::c_long = 34;
const PROG_BIND_MAP: libc::c_long = 35;

/// enum bpf_map_type
pub const MAP_TYPE_HASH: u32 = 1;
/// The same: values on every CPU.
pub const MAP_TYPE_PERCPU_ARRAY: u32 = 6;
/// The same: devices of the network namespace of whoever enters them.
pub const MAP_TYPE_DEVMAP: u32 = 14;
/// enum bpf_link_type
const LINK_TYPE_CGROUP: u32 = 3;
/// The same.
const LINK_TYPE_TCX: u32 = 11;

/// enum bpf_attach_type
pub const CGROUP_SOCK_OPS: u32 = 3;
/// The same.
pub const CGROUP_INET4_BIND: u32 = 8;
/// The same.
pub const CGROUP_INET6_BIND: u32 = 9;
/// The same.
pub const CGROUP_INET4_CONNECT: u32 = 10;
/// The same.
pub const CGROUP_INET6_CONNECT: u32 = 11;
/// The same.
pub const CGROUP_INET4_POST_BIND: u32 = 12;
/// The same.
pub const CGROUP_INET6_POST_BIND: u32 = 13;
/// The same.
pub const CGROUP_UDP4_SENDMSG: u32 = 14;
/// The same.
pub const CGROUP_UDP6_SENDMSG: u32 = 15;
/// The same.
pub const CGROUP_SYSCTL: u32 = 18;
/// The same.
pub const CGROUP_UDP4_RECVMSG: u32 = 19;
/// The same.
pub const CGROUP_UDP6_RECVMSG: u32 = 20;
/// The same.
pub const CGROUP_INET4_GETPEERNAME: u32 = 29;
/// The same.
pub const CGROUP_INET6_GETPEERNAME: u32 = 30;
/// The same.
pub const CGROUP_INET4_GETSOCKNAME: u32 = 31;
/// The same.
pub const CGROUP_INET6_GETSOCKNAME: u32 = 32;
/// The same.
pub const CGROUP_INET_SOCK_RELEASE: u32 = 34;
/// The same.
pub const TCX_INGRESS: u32 = 46;
/// Before every other program on the hook.
pub const F_BEFORE: u32 = 1 << 3;

#[repr(C)]
#[derive(Default)]
struct Elem {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// or next_key
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// room for so many, and then how many there are
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Link {
    prog_fd: u32,
    /// a device's index, or the descriptor of a cgroup
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct Update {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Id {
    /// the id, or the one to begin behind
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct Bind {
    prog_fd: u32,
    map_fd: u32,
    flags: u32,
}

/// What has ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A map.
    Map,
    /// A program.
    Program,
    /// A link.
    Link,
}

/// The beginning of struct bpf_map_info.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapInfo {
    /// enum bpf_map_type.
    pub kind: u32,
    /// Its id.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries.
    pub max_entries: u32,
    flags: u32,
    name: [u8; NAME],
}

/// The beginning of struct bpf_prog_info, and the array it points to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its id.
    pub id: u32,
    /// Its name, 15 bytes at most.
    pub name: String,
    /// Hash of its instructions.
    pub tag: [u8; 8],
    /// Ids of the maps it uses or is bound to.
    pub maps: Vec<u32>,
}

/// struct bpf_link_info, as far as links to tcx and to cgroups fill it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its id.
    pub id: u32,
    /// Id of the program.
    pub program: u32,
    /// For a link to tcx, the device; 0 when that is gone.
    pub tcx: Option<u32>,
    /// For a link to a cgroup, the cgroup's id, which is its inode; 0 when the cgroup is gone, or the link was detached.
    pub cgroup: Option<u64>,
}

const NAME: usize = 16;

#[repr(C)]
#[derive(Default)]
struct RawProgram {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; NAME],
}

#[repr(C)]
#[derive(Default)]
struct RawLink {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    /// cgroup.cgroup_id; its low half is tcx.ifindex, which lies at the same place
    place: [u32; 2],
    rest: [u64; 4],
}

const _: () = assert!(size_of::<MapInfo>() == 40);
const _: () = assert!(std::mem::offset_of!(RawProgram, nr_map_ids) == 52);
const _: () = assert!(std::mem::offset_of!(RawProgram, name) == 64 && size_of::<RawProgram>() == 80);
const _: () = assert!(std::mem::offset_of!(RawLink, place) == 16);

impl MapInfo {
    /// Its name, 15 bytes at most.
    pub fn name(&self) -> String {
        text(&self.name)
    }
}

/// Copies the value of `key` into `value`, which must be as large as the map's values (all CPUs' for a per-CPU map).
pub fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = Elem {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..Elem::default()
    };
    bpf(MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// Sets the value of `key`.
pub fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = Elem {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        ..Elem::default()
    };
    bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Removes `key`.
pub fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attr = Elem { map_fd: map.as_raw_fd() as u32, key: key.as_ptr() as u64, ..Elem::default() };
    bpf(MAP_DELETE_ELEM, &mut attr).map(drop)
}

/// Writes the key behind `key` (the first one for `None`) into `next`; `false` at the end.
pub fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = Elem {
        map_fd: map.as_raw_fd() as u32,
        key: key.map_or(0, |k| k.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        ..Elem::default()
    };
    match bpf(MAP_GET_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads a hash table, many entries by a call.
pub fn entries<const K: usize, const V: usize>(map: BorrowedFd<'_>) -> io::Result<Vec<([u8; K], [u8; V])>> {
    const AT_ONCE: usize = 256;
    let (mut keys, mut values) = ([[0; K]; AT_ONCE], [[0; V]; AT_ONCE]);
    let (mut entries, mut next, mut here) = (Vec::new(), 0u32, None);
    loop {
        let mut attr = Batch {
            in_batch: here.as_ref().map_or(0, |here| std::ptr::from_ref(here) as u64),
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        let last = match bpf(MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) => return Err(e),
        };
        entries.extend(keys.into_iter().zip(values).take(attr.count as usize));
        if last {
            return Ok(entries);
        }
        here = Some(next);
    }
}

/// Opens what is pinned at `path`.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { pathname: path.as_ptr() as u64, ..Object::default() };
    let fd = bpf(OBJ_GET, &mut attr)?;
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel says an object is; `None` for what is none of them.
pub fn kind(object: BorrowedFd<'_>) -> io::Result<Option<Kind>> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd()))?;
    let is = |key: &str| about.lines().any(|line| line.starts_with(key));
    Ok(match () {
        () if is("map_type:") => Some(Kind::Map),
        () if is("link_type:") => Some(Kind::Link),
        () if is("prog_type:") => Some(Kind::Program),
        () => None,
    })
}

/// Pins an object under `path` on a bpffs.
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { pathname: path.as_ptr() as u64, bpf_fd: object.as_raw_fd() as u32, ..Object::default() };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Attaches a program to the tcx ingress of a device, in front of all others. The link lives as long as a descriptor
/// or a pin of it.
pub fn tcx_attach(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let mut attr = Link {
        prog_fd: program.as_raw_fd() as u32,
        target: ifindex,
        attach_type: TCX_INGRESS,
        flags: F_BEFORE,
        ..Link::default()
    };
    let fd = bpf(LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a hook (`CGROUP_*`) of a cgroup, beside the programs of others. The link lives as long as a descriptor
/// or a pin of it.
pub fn cgroup_attach(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<OwnedFd> {
    let mut attr = Link {
        prog_fd: program.as_raw_fd() as u32,
        target: cgroup.as_raw_fd() as u32,
        attach_type: hook,
        ..Link::default()
    };
    let fd = bpf(LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link, between two packets or calls.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        Update { link_fd: link.as_raw_fd() as u32, new_prog_fd: program.as_raw_fd() as u32, ..Update::default() };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link off its hook, whoever else holds it. The link itself stays until nobody does.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Id { id: link.as_raw_fd() as u32, ..Id::default() };
    bpf(LINK_DETACH, &mut attr).map(drop)
}

/// Binds a map to a program that need not use it; success when it is bound already.
pub fn bind_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Bind { prog_fd: program.as_raw_fd() as u32, map_fd: map.as_raw_fd() as u32, flags: 0 };
    match bpf(PROG_BIND_MAP, &mut attr) {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => Err(e),
        _ => Ok(()),
    }
}

/// The id behind `id`, ascending; begin with 0. `None` at the end. Needs CAP_SYS_ADMIN.
pub fn next_id(kind: Kind, id: u32) -> io::Result<Option<u32>> {
    let command = match kind {
        Kind::Map => MAP_GET_NEXT_ID,
        Kind::Program => PROG_GET_NEXT_ID,
        Kind::Link => LINK_GET_NEXT_ID,
    };
    let mut attr = Id { id, ..Id::default() };
    match bpf(command, &mut attr) {
        Ok(_) => Ok(Some(attr.next_id)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens the object with an id; `None` when there is none. Needs CAP_SYS_ADMIN.
pub fn open_id(kind: Kind, id: u32) -> io::Result<Option<OwnedFd>> {
    let command = match kind {
        Kind::Map => MAP_GET_FD_BY_ID,
        Kind::Program => PROG_GET_FD_BY_ID,
        Kind::Link => LINK_GET_FD_BY_ID,
    };
    let mut attr = Id { id, ..Id::default() };
    match bpf(command, &mut attr) {
        // SAFETY: the kernel just returned this descriptor and nobody else has it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        // a link that is being made has an id already, but cannot be opened yet: EAGAIN
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a map is.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    object_info(map, &mut info)?;
    Ok(info)
}

/// What a program is.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = Vec::new();
    loop {
        let room = maps.len() as u32;
        let mut raw = RawProgram { nr_map_ids: room, map_ids: maps.as_mut_ptr() as u64, ..RawProgram::default() };
        object_info(program, &mut raw)?;
        // the kernel says how many there are, and fills in as many as there is room for
        if raw.nr_map_ids <= room {
            maps.truncate(raw.nr_map_ids as usize);
            return Ok(ProgramInfo { id: raw.id, name: text(&raw.name), tag: raw.tag, maps });
        }
        maps.resize(raw.nr_map_ids as usize, 0u32);
    }
}

/// What a link is.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut raw = RawLink::default();
    object_info(link, &mut raw)?;
    let [low, high] = raw.place.map(u32::to_ne_bytes);
    let id = u64::from_ne_bytes([low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]);
    Ok(LinkInfo {
        id: raw.id,
        program: raw.program,
        tcx: (raw.kind == LINK_TYPE_TCX).then_some(raw.place[0]),
        cgroup: (raw.kind == LINK_TYPE_CGROUP).then_some(id),
    })
}

/// `T` is the beginning of the kernel's struct, made of integers; the kernel fills in no more than its size.
fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = Info {
        bpf_fd: object.as_raw_fd() as u32,
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// A name in a fixed array, up to its NUL.
fn text(name: &[u8]) -> String {
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: attr is a properly sized prefix of union bpf_attr, and every pointer in it stays valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
