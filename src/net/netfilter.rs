//! What the host's netfilter holds: the chains of nftables and of the older iptables that packets pass, with what they do.
//!
//! The kernel is asked itself: neither `nft` nor `iptables` need be installed. The newer iptables (`iptables-nft`) keeps its
//! rules in nftables. What does not live here: what follows for containers ([`crate::doctor`]).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::NlasIterator;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Netlink;
use super::diag::message;
use crate::error::{Error, Result};

/// A chain that the kernel runs packets through by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `inet filter`, or `filter (iptables)`.
    pub table: String,
    /// Its name in that table.
    pub name: String,
    /// How many rules it has.
    pub rules: u32,
    /// Does it drop what no rule decides about?
    pub drops: bool,
}

impl Chain {
    /// Can it do anything to a packet?
    pub fn acts(&self) -> bool {
        self.rules > 0 || self.drops
    }
}

// include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h
const GET_CHAIN: u16 = 10 << 8 | 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const HOOK_NUMBER: u16 = 1;
/// struct nfgenmsg.
const NFGENMSG: usize = 4;
/// include/uapi/linux/netfilter.h: NF_INET_PRE_ROUTING to NF_INET_POST_ROUTING.
const HOOKS: u32 = 5;
/// NF_DROP, as the policy of a chain.
const DROP: u32 = 0;

/// The chains of nftables on the way of IP packets: those of the families ip, ip6 and inet with a hook. Empty where the
/// kernel has no nftables.
pub fn nftables() -> Result<Vec<Chain>> {
    let mut netlink = match Netlink::netfilter() {
        Err(e) if is_missing(&e) => return Ok(Vec::new()),
        netlink => netlink?,
    };
    let mut chains = Vec::new();
    let mut request = message(GET_CHAIN, &[0; NFGENMSG]);
    match netlink.dump_raw("list the chains of nftables", &mut request, |body| chains.extend(decode(body))) {
        Err(e) if is_missing(&e) => Ok(Vec::new()),
        done => done.map(|()| chains),
    }
}

/// The kernel has no netfilter sockets, or no nftables behind them.
fn is_missing(error: &Error) -> bool {
    const MISSING: [i32; 4] = [libc::EPROTONOSUPPORT, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT];
    matches!(error, Error::Netlink { errno, .. } if errno.raw_os_error().is_some_and(|errno| MISSING.contains(&errno)))
}

/// struct nfgenmsg { family, version, resource }, then attributes with numbers in network byte order. `use` of a chain with a
/// hook counts its rules: nothing can jump there.
fn decode(body: &[u8]) -> Option<Chain> {
    // include/uapi/linux/netfilter.h: NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6
    let family = match *body.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let (mut table, mut chain) =
        (String::new(), Chain { table: String::new(), name: String::new(), rules: 0, drops: false });
    let mut hook = None;
    for nla in NlasIterator::new(body.get(NFGENMSG..)?).flatten() {
        match nla.kind() {
            CHAIN_TABLE => table = text(nla.value()),
            CHAIN_NAME => chain.name = text(nla.value()),
            CHAIN_POLICY => chain.drops = number(nla.value()) == Some(DROP),
            CHAIN_USE => chain.rules = number(nla.value()).unwrap_or(0),
            CHAIN_HOOK => {
                let mut inner = NlasIterator::new(nla.value()).flatten();
                hook = inner.find(|nla| nla.kind() == HOOK_NUMBER).and_then(|nla| number(nla.value()));
            }
            _ => {}
        }
    }
    chain.table = format!("{family} {table}");
    hook.is_some_and(|hook| hook < HOOKS).then_some(chain)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// One of the two families of the older iptables.
struct Legacy {
    /// As the command is called.
    command: &'static str,
    /// Tables that this namespace has.
    names: &'static str,
    family: AddressFamily,
    level: libc::c_int,
    /// Size of the match that every rule begins with: struct ipt_ip, struct ip6t_ip6.
    head: usize,
}

const LEGACY: [Legacy; 2] = [
    Legacy {
        command: "iptables",
        names: "/proc/thread-self/net/ip_tables_names",
        family: AddressFamily::Inet,
        level: libc::IPPROTO_IP,
        head: 84,
    },
    Legacy {
        command: "ip6tables",
        names: "/proc/thread-self/net/ip6_tables_names",
        family: AddressFamily::Inet6,
        level: libc::IPPROTO_IPV6,
        head: 136,
    },
];

/// In the order of the kernel's hooks.
const BUILT_IN: [&str; HOOKS as usize] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The built-in chains of the older iptables, of tables that are in use in this namespace: asking for another table would
/// make it.
pub fn iptables() -> Result<Vec<Chain>> {
    let mut chains = Vec::new();
    for legacy in &LEGACY {
        for name in fs::read_to_string(legacy.names).unwrap_or_default().lines() {
            let fail = |e: io::Error| Error::Failed(format!("cannot read the table {name} of {}: {e}", legacy.command));
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(legacy.family, SockType::Datagram, flags, None).map_err(|e| fail(e.into()))?;
            let info = ask(&socket, legacy.level, GET_INFO, name, INFO).map_err(fail)?;
            // struct ipt_get_entries: the name, the size, and the rules from the next eight-byte boundary on
            let size = word(&info, INFO - 4).unwrap_or(0) as usize;
            let entries = ask(&socket, legacy.level, GET_ENTRIES, name, ENTRIES + size).map_err(fail)?;
            chains.extend(built_in(legacy, name, &info, &entries[ENTRIES..]));
        }
    }
    Ok(chains)
}

// include/uapi/linux/netfilter_ipv4/ip_tables.h and x_tables.h; the same numbers in ip6_tables.h
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// char name[XT_TABLE_MAXNAMELEN]
const NAME: usize = 32;
/// struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size.
const INFO: usize = NAME + 4 * (1 + 5 + 5 + 1 + 1);
const ENTRIES: usize = 40;

/// getsockopt(2) of a table: the request carries its name, and the size of the rules behind it.
fn ask(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, name: &str, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; length];
    buffer.iter_mut().zip(name.bytes().take(NAME - 1)).for_each(|(to, from)| *to = from);
    if option == GET_ENTRIES {
        buffer[NAME..NAME + 4].copy_from_slice(&((length - ENTRIES) as u32).to_ne_bytes());
    }
    let mut size = length as libc::socklen_t;
    // SAFETY: buffer has `size` bytes, and the kernel writes no more than that.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &mut size) };
    if done == 0 { Ok(buffer) } else { Err(io::Error::last_os_error()) }
}

/// The chains of one table. A chain's rules lie between its `hook_entry` and its `underflow`, which is its policy: a rule
/// whose target is a verdict.
fn built_in(legacy: &Legacy, table: &str, info: &[u8], rules: &[u8]) -> Vec<Chain> {
    // -NF_DROP - 1 (include/uapi/linux/netfilter/x_tables.h)
    const DROPS: u32 = -1i32 as u32;
    // struct xt_entry_target, then the verdict
    const TARGET: usize = 32;
    let half = |at: usize| rules.get(at..at + 2).map(|b| usize::from(u16::from_ne_bytes([b[0], b[1]])));
    let valid = word(info, NAME).unwrap_or(0);
    let chain = |hook: usize| {
        let mut at = word(info, NAME + 4 * (1 + hook))? as usize;
        let policy = word(info, NAME + 4 * (1 + HOOKS as usize + hook))? as usize;
        let mut count = 0;
        while at < policy {
            // struct ipt_entry: the match, nfcache, target_offset, next_offset
            at += half(at + legacy.head + 6).filter(|next| *next > 0)?;
            count += 1;
        }
        let verdict = word(rules, policy + half(policy + legacy.head + 4)? + TARGET)?;
        let table = format!("{table} ({})", legacy.command);
        Some(Chain { table, name: BUILT_IN[hook].to_owned(), rules: count, drops: verdict == DROPS })
    };
    (0..HOOKS as usize).filter(|hook| valid & 1 << hook != 0).filter_map(chain).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len();
        let mut bytes = (length as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_chain_of_nftables_is_read() {
        const NESTED: u16 = 0x8000;
        let chain = |family: u8, hook: u32| {
            let hook = [attribute(HOOK_NUMBER, &hook.to_be_bytes()), attribute(2, &0u32.to_be_bytes())].concat();
            let parts = [
                vec![family, 0, 0, 0],
                attribute(CHAIN_TABLE, b"filter\0"),
                attribute(CHAIN_NAME, b"input\0"),
                attribute(CHAIN_HOOK | NESTED, &hook),
                attribute(CHAIN_POLICY, &DROP.to_be_bytes()),
                attribute(CHAIN_USE, &3u32.to_be_bytes()),
            ];
            decode(&parts.concat())
        };
        let read = chain(1, 1).unwrap();
        assert_eq!(read, Chain { table: "inet filter".into(), name: "input".into(), rules: 3, drops: true });
        assert_eq!(chain(5, 0), None, "netdev");
        assert_eq!(chain(1, 5), None, "ingress");
        let plain = [vec![2, 0, 0, 0], attribute(CHAIN_TABLE, b"t\0"), attribute(CHAIN_NAME, b"mine\0")].concat();
        assert_eq!(decode(&plain), None, "a chain without a hook");
    }

    #[test]
    fn a_table_of_iptables_is_read() {
        // two chains: INPUT with one rule and policy DROP, OUTPUT with none and ACCEPT
        let rule = |verdict: i32| {
            let mut bytes = vec![0; 112 + 40];
            bytes[88..90].copy_from_slice(&112u16.to_ne_bytes());
            bytes[90..92].copy_from_slice(&152u16.to_ne_bytes());
            bytes[112 + 32..112 + 36].copy_from_slice(&verdict.to_ne_bytes());
            bytes
        };
        let rules = [rule(-2), rule(-1), rule(-2)].concat();
        let numbers: [u32; 13] = [0b1010, 0, 0, 0, 304, 0, 0, 152, 0, 304, 0, 4, 500];
        let mut info = vec![0; NAME];
        info.extend(numbers.iter().flat_map(|n| n.to_ne_bytes()));
        assert_eq!(info.len(), INFO);
        let table = || "filter (iptables)".to_owned();
        assert_eq!(
            built_in(&LEGACY[0], "filter", &info, &rules),
            [
                Chain { table: table(), name: "INPUT".into(), rules: 1, drops: true },
                Chain { table: table(), name: "OUTPUT".into(), rules: 0, drops: false },
            ]
        );
    }
}
