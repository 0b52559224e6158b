//! Rtnetlink across a pair of devices: what a process may do in the namespace in which the other end of its device is. The
//! kernel gives that namespace an id in the namespace of the process, and many requests take such an id.

use crate::lab::*;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

// include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const KIND: u16 = 1;
const TARGET_OF_LINK: u16 = 46;
const TARGET_OF_ADDRESS: u16 = 10;

/// CAP_NET_RAW alone.
pub const RAW: u32 = 1 << 13;
/// CAP_NET_ADMIN and CAP_NET_RAW.
pub const ADMIN: u32 = 1 << 12 | RAW;

/// A request, and the words for it.
pub struct Asked {
    pub what: &'static str,
    message: Vec<u8>,
}

impl Asked {
    fn new(what: &'static str, (kind, flags): (u16, i32), body: &[u8], attributes: &[Vec<u8>]) -> Asked {
        let payload = [body, &attributes.concat()].concat();
        let length = (16 + payload.len()) as u32;
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
        Asked { what, message: [head, payload].concat() }
    }

    /// What a process with a device whose other end is in namespace `id` may want there. The last one deletes `victim`.
    pub fn there(id: u32, victim: &str) -> [Asked; 4] {
        let id = id.to_ne_bytes();
        let there = |kind| attribute(kind, &id);
        let named = |name: &str| attribute(NAME, format!("{name}\0").as_bytes());
        let link = [0; 16];
        [
            Asked::new("list its devices", (GET_LINK, libc::NLM_F_DUMP), &link, &[there(TARGET_OF_LINK)]),
            Asked::new("list its addresses", (GET_ADDRESS, libc::NLM_F_DUMP), &link[..8], &[there(TARGET_OF_ADDRESS)]),
            Asked::new("make a device there", Asked::MAKE, &link, &[named("intruder"), pair(), there(TARGET_OF_LINK)]),
            Asked::new("delete a device there", Asked::DELETE, &link, &[named(victim), there(TARGET_OF_LINK)]),
        ]
    }

    /// A device in its own namespace.
    pub fn here() -> Asked {
        let name = attribute(NAME, b"mine\0");
        Asked::new("make a device in its own namespace", Asked::MAKE, &[0; 16], &[name, pair()])
    }

    const MAKE: (u16, i32) = (NEW_LINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK);
    const DELETE: (u16, i32) = (DELETE_LINK, libc::NLM_F_ACK);

    /// Asks it as root in the namespaces of a process, with these capabilities alone.
    pub fn by_root_of(&self, pid: u32, powers: u32) -> io::Result<()> {
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
        let (user, net) = (open("user")?, open("net")?);
        let same = std::fs::read_link(format!("/proc/{pid}/ns/user"))? == std::fs::read_link("/proc/self/ns/user")?;
        let message = self.message.clone();
        let mut command = Command::new("true");
        let ask = move || -> io::Result<()> {
            if !same {
                setns(&user, CloneFlags::CLONE_NEWUSER)?;
            }
            setns(&net, CloneFlags::CLONE_NEWNET)?;
            keep(powers)?;
            ask(&message)
        };
        // SAFETY: the closure only makes system calls; the message was allocated before the fork.
        unsafe { command.pre_exec(ask) };
        command.status().map(drop)
    }
}

/// The id that a device's other end has here, by `ip`'s word for it.
pub fn id_of_the_other_end(ns: &Ns, device: &str) -> u32 {
    let line = ns.read(&format!("ip -o link show dev {device}"));
    let id = line.split("link-netnsid ").nth(1).and_then(|rest| rest.split_whitespace().next());
    id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no id of another namespace: {line}"))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// That a device is one end of a pair.
fn pair() -> Vec<u8> {
    attribute(LINK_INFO, &attribute(KIND, b"veth\0"))
}

/// Gives up all capabilities but these, which are among the first 32.
fn keep(powers: u32) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let (header, sets) = ([VERSION_3, 0], [powers, powers, 0, 0, 0, 0]);
    // SAFETY: both are as long as capset(2) reads.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a request, and what the first answer says of it. Without an allocation, as it runs between fork and exec.
fn ask(message: &[u8]) -> io::Result<()> {
    const STRICT: i32 = 12; // NETLINK_GET_STRICT_CHK: a dump reads its attributes
    const ENDS: [u16; 2] = [libc::NLMSG_ERROR as u16, libc::NLMSG_DONE as u16];
    let fd: OwnedFd = sock::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    sock::set(&fd, libc::SOL_NETLINK, STRICT, 1i32)?;
    sock::send(&fd, message)?;
    let mut answer = [0; 32_768];
    let n = sock::recv(&fd, &mut answer)?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    if n < 20 || !ENDS.contains(&kind) {
        return Ok(());
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}
