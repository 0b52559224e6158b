//! bpf(2) by hand: the few commands a hook needs. It only opens what is pinned and changes map entries; the loader
//! library would first parse the kernel's type information, which takes longer than the whole hook.
//!
//! Layouts follow `union bpf_attr` in include/uapi/linux/bpf.h; every one of these commands is in Linux 5.10 (links
//! to tcx: 6.6).

use std::ffi::CString;
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
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

/// enum bpf_attach_type
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
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Link {
    prog_fd: u32,
    target_ifindex: u32,
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

/// Opens what is pinned at `path`.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { pathname: path.as_ptr() as u64, ..Object::default() };
    let fd = bpf(OBJ_GET, &mut attr)?;
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
        target_ifindex: ifindex,
        attach_type: TCX_INGRESS,
        flags: F_BEFORE,
        ..Link::default()
    };
    let fd = bpf(LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link, between two packets.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        Update { link_fd: link.as_raw_fd() as u32, new_prog_fd: program.as_raw_fd() as u32, ..Update::default() };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: attr is a properly sized prefix of union bpf_attr, and every pointer in it stays valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
