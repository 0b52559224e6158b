//! Which ports sockets of this namespace use (sock_diag), and which process holds one.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use netlink_packet_core::NlasIterator;

use super::Netlink;
use crate::error::{Error, Result};
use crate::ports::{PortRange, PortSet};

/// A socket that holds a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Local port.
    pub port: u16,
    /// Socket inode, 0 for one without a file (time-wait).
    pub inode: u32,
    /// TCP or UDP.
    pub tcp: bool,
    /// An open TCP connection.
    pub established: bool,
}

/// A process, as an operator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Command name (`/proc/PID/comm`).
    pub name: String,
}

// include/uapi/linux/inet_diag.h and sock_diag.h
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const BC_S_GE: u8 = 2;
const BC_S_LE: u8 = 3;
const SOCKID: usize = 48;
// include/net/tcp_states.h
const ESTABLISHED: u8 = 1;
const TIME_WAIT: u8 = 6;
const BOUND_INACTIVE: u8 = 13;

/// Every TCP and UDP socket whose local port lies in `range`. TCP connections in TIME_WAIT do not count: they hold
/// no file and nobody waits for them.
///
/// TCP is asked by the old TCPDIAG_GETSOCK request: it walks the tables once for both families
/// (net/ipv4/inet_diag.c, inet_diag_dump_compat), where SOCK_DIAG_BY_FAMILY would take one walk each.
pub fn holders(netlink: &mut Netlink, range: PortRange) -> Result<Vec<Holder>> {
    let mut found = Vec::new();
    let states: u32 = !(1 << TIME_WAIT);

    let mut request = vec![0u8; 4 + SOCKID];
    request.extend(states.to_ne_bytes());
    request.extend([0; 4]);
    ask(netlink, TCPDIAG_GETSOCK, request, range, true, &mut found)?;

    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut request = vec![family, libc::IPPROTO_UDP as u8, 0, 0];
        request.extend(states.to_ne_bytes());
        request.extend([0; SOCKID]);
        ask(netlink, SOCK_DIAG_BY_FAMILY, request, range, false, &mut found)?;
    }
    Ok(found)
}

/// The ports that sockets of a namespace hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Of TCP, those in TIME_WAIT among them.
    pub tcp: PortSet,
    /// Of UDP.
    pub udp: PortSet,
    /// Those of either that are held at addresses of lo alone.
    pub looped: PortSet,
}

/// All ports that sockets of the calling thread's namespace hold. A TCP socket that is bound and neither listens nor connects is told
/// of since Linux 6.8.
pub fn held(netlink: &mut Netlink) -> Result<Held> {
    let mut found: Vec<(u16, bool, bool)> = Vec::new();
    let all = !0u32;
    let mut all_of_tcp = vec![0u8; 4 + SOCKID];
    all_of_tcp.extend(all.to_ne_bytes());
    all_of_tcp.extend([0; 4]);
    let mut asked = Vec::new();
    for (family, protocol) in [
        (libc::AF_INET, libc::IPPROTO_TCP),
        (libc::AF_INET6, libc::IPPROTO_TCP),
        (libc::AF_INET, libc::IPPROTO_UDP),
        (libc::AF_INET6, libc::IPPROTO_UDP),
    ] {
        let (tcp, states) = match protocol {
            libc::IPPROTO_TCP => (true, 1 << BOUND_INACTIVE),
            _ => (false, all),
        };
        let mut request = vec![family as u8, protocol as u8, 0, 0];
        request.extend(u32::to_ne_bytes(states));
        request.extend([0; SOCKID]);
        asked.push((SOCK_DIAG_BY_FAMILY, request, tcp));
    }
    // A socket that is bound and begins to listen meanwhile must not be missed: those that are only bound come first.
    asked.push((TCPDIAG_GETSOCK, all_of_tcp, true));
    for (kind, request, tcp) in asked {
        let mut bytes = message(kind, &request);
        netlink.dump_raw("list sockets", &mut bytes, |body| {
            found.extend(local(body).map(|(port, looped)| (port, tcp, looped)));
        })?;
    }
    let set = |chosen: &dyn Fn(bool, bool) -> bool| {
        let ports = found.iter().filter(|(_, tcp, looped)| chosen(*tcp, *looped));
        PortSet::from_iter(ports.filter_map(|(port, ..)| PortRange::new(*port, *port)))
    };
    let elsewhere = set(&|_, looped| !looped);
    let looped = set(&|_, looped| looped).difference(&elsewhere);
    Ok(Held { tcp: set(&|tcp, _| tcp), udp: set(&|tcp, _| !tcp), looped })
}

/// What one TCP socket knows of its path (`struct tcp_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Smoothed round-trip time in microseconds; 0 before the first measurement, and for a listening socket.
    pub rtt: u32,
    /// Segments it sent again.
    pub retransmits: u32,
}

/// The paths of all TCP sockets of this namespace, IPv4 and IPv6.
pub fn paths(netlink: &mut Netlink) -> Result<Vec<Path>> {
    const INET_DIAG_INFO: u8 = 2;
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut request = vec![family, libc::IPPROTO_TCP as u8, 1 << (INET_DIAG_INFO - 1), 0];
        request.extend((!0u32).to_ne_bytes());
        request.extend([0; SOCKID]);
        let mut bytes = message(SOCK_DIAG_BY_FAMILY, &request);
        netlink.dump_raw("list TCP sockets", &mut bytes, |body| {
            let attributes = body.get(72..).unwrap_or_default();
            let info = NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == u16::from(INET_DIAG_INFO));
            found.extend(info.and_then(|info| path_of(info.value())));
        })?;
    }
    Ok(found)
}

/// The ports of `holders`, as a set.
pub fn ports_of(holders: &[Holder]) -> PortSet {
    let mut ports: Vec<u16> = holders.iter().map(|h| h.port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.iter().filter_map(|&p| PortRange::new(p, p)).fold(PortSet::empty(), |mut set, r| {
        set.insert(r);
        set
    })
}

/// The process that has the socket open. Reads every `/proc/PID/fd`: for refusals only.
pub fn process_of(inode: u32) -> Option<Process> {
    processes_of(&[inode]).pop().map(|(_, process)| process)
}

/// The processes that have these sockets open, one for each socket at most, in one walk through every `/proc/PID/fd`.
pub fn processes_of(inodes: &[u32]) -> Vec<(u32, Process)> {
    let mut wanted: Vec<u32> = inodes.iter().copied().filter(|inode| *inode != 0).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if wanted.is_empty() {
            break;
        }
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        for file in files.flatten() {
            // stat of the link's target is a socket with that inode; cheaper than comparing the link's text
            let Ok(meta) = fs::metadata(file.path()) else { continue };
            let is_it = |inode: &&u32| {
                u64::from(**inode) == meta.ino()
                    && fs::read_link(file.path())
                        .is_ok_and(|target| target.to_string_lossy() == format!("socket:[{inode}]"))
            };
            if let Some(inode) = wanted.iter().find(is_it).copied() {
                wanted.retain(|other| *other != inode);
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push((inode, Process { pid, name: name.trim_end().to_owned() }));
            }
        }
    }
    found
}

/// The inodes of the sockets that a process has open; none of one that is gone.
pub fn sockets_of(pid: u32) -> Vec<u32> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

fn ask(
    netlink: &mut Netlink,
    kind: u16,
    request: Vec<u8>,
    range: PortRange,
    tcp: bool,
    found: &mut Vec<Holder>,
) -> Result<()> {
    let mut bytes = message(kind, &[request, port_filter(range)].concat());
    let result = netlink.dump_raw("list sockets", &mut bytes, |body| found.extend(decode(body, tcp)));
    match result {
        // a kernel without inet_diag, tcp_diag or udp_diag cannot tell: that is no reason to start no container
        Err(Error::Netlink { errno, .. }) if matches!(errno.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
            let protocol = if tcp { "TCP" } else { "UDP" };
            log::warn!("this kernel cannot list {protocol} sockets: ports that the host uses are not noticed");
            Ok(())
        }
        other => other,
    }
}

/// A dump request with its header.
pub(super) fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = 16 + body.len() as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// include/uapi/linux/tcp.h: tcpi_rtt and tcpi_total_retrans.
fn path_of(info: &[u8]) -> Option<Path> {
    let word = |at: usize| info.get(at..at + 4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    Some(Path { rtt: word(68)?, retransmits: word(100)? })
}

/// INET_DIAG_REQ_BYTECODE attribute: source port >= begin and <= end. An op that compares a port takes two slots, the
/// second carries the port; `no` that jumps behind the end plus 4 rejects (inet_diag_bc_run).
fn port_filter(range: PortRange) -> Vec<u8> {
    let op = |code: u8, yes: u8, no: u16| {
        let no = no.to_ne_bytes();
        [code, yes, no[0], no[1]]
    };
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(20u16.to_ne_bytes());
    bytes.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    bytes.extend(op(BC_S_GE, 8, 20));
    bytes.extend(op(0, 0, range.begin()));
    bytes.extend(op(BC_S_LE, 8, 12));
    bytes.extend(op(0, 0, range.end()));
    bytes
}

/// struct inet_diag_msg: family, state, timer, retrans, then the socket id that begins with the source port; the
/// inode is the last word.
fn decode(body: &[u8], tcp: bool) -> Option<Holder> {
    let state = *body.get(1)?;
    if tcp && state == TIME_WAIT {
        return None;
    }
    let port = u16::from_be_bytes([*body.get(4)?, *body.get(5)?]);
    let inode = body.get(68..72)?;
    let inode = u32::from_ne_bytes([inode[0], inode[1], inode[2], inode[3]]);
    Some(Holder { port, inode, tcp, established: tcp && state == ESTABLISHED })
}

/// The source port of a struct inet_diag_msg, and whether its source address is one of lo.
fn local(body: &[u8]) -> Option<(u16, bool)> {
    let port = u16::from_be_bytes([*body.get(4)?, *body.get(5)?]);
    let address = body.get(8..24)?;
    let ip = match i32::from(*body.first()?) {
        libc::AF_INET => IpAddr::from([address[0], address[1], address[2], address[3]]),
        _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?).to_canonical(),
    };
    Some((port, ip.is_loopback())).filter(|(port, _)| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_filter_follows_the_kernels_bytecode() {
        // struct inet_diag_bc_op {code, yes, no} as inet_diag_bc_audit checks it: attribute header, then ge 1000, le 2000
        let range = PortRange::new(1000, 2000).unwrap();
        assert_eq!(port_filter(range), [20, 0, 1, 0, 2, 8, 20, 0, 0, 0, 0xe8, 3, 3, 8, 12, 0, 0, 0, 0xd0, 7]);
    }
}
