//! A private instance of /proc.
//!
//! The kernel keeps the `net` directories of all namespaces under one name in one hash chain per instance of the file
//! system, and looks at each of them for every path walk: on a host with a thousand containers opening
//! `/proc/sys/net/ipv4` takes a millisecond (fs/proc/proc_sysctl.c, proc_sys_compare). An instance of our own holds
//! only what we look at, and keeps the host's short as well.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

// include/uapi/linux/mount.h
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID_NODEV_NOEXEC: libc::c_uint = 2 | 4 | 8;

/// The root directory of a new instance of /proc that is mounted nowhere; it goes when the descriptor is closed.
/// Needs Linux 5.2 and CAP_SYS_ADMIN.
pub fn private() -> io::Result<OwnedFd> {
    let name: &CStr = c"proc";
    // SAFETY: name is a NUL-terminated string that outlives the call.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) })?;
    let nothing = ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value.
    let created =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, nothing, nothing, 0) };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: only numbers are passed.
    descriptor(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID_NODEV_NOEXEC)
    })
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}
