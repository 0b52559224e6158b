//! The lab: simulated hosts, peers, containers and probes. Nothing in here knows how portslice works inside.
//!
//! ```text
//!   Host "H"  lo, eth0 10.77.0.2/24 fd77::2/64 ---- wire 10.77.0.1 fd77::1  Peer "P"  (far: 198.51.100.1, 2001:db8:99::1)
//!     own net + mount namespace, own /sys, /run, cgroup mounts                  |
//!     Container: a bare net namespace, or a bundle run by a real runtime       slim 10.78.0.1 ---- 10.78.0.2 "R" (with `.narrow(mtu)`)
//! ```
//!
//! A test reads: make a `Host`, attach containers with `host.bare(..)`, put servers and probes where they belong, and let the
//! host drop: that detaches what is left, runs `setup --undo` and asserts that nothing stayed behind.
#![allow(dead_code)] // the tests share one toolbox; not every tool is used by every promise

pub mod bulk;
pub mod bundle;
pub mod cgroup;
pub mod cni;
pub mod container;
pub mod containerd;
pub mod debian13;
pub mod delay;
pub mod dns;
pub mod docker;
pub mod docs;
pub mod engine;
pub mod flow;
pub mod frame;
pub mod grpc;
pub mod hook;
pub mod host;
pub mod icmp;
pub mod installed;
pub mod kill;
pub mod leftovers;
pub mod limit;
pub mod ns;
mod overlay;
pub mod podman;
pub mod probe;
pub mod race;
pub mod run;
pub mod scene;
mod selftest;
pub mod settings;
pub mod sock;
pub mod still;
pub mod tap;
pub mod wait;

pub use container::Container;
pub use debian13::Engines;
pub use flow::Carrier;
pub use host::Host;
pub use ns::Ns;
pub use probe::{Echo, Proto, Tried, ask, ask_from};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::UNIX_EPOCH;

/// Whether tests are to run their long parts as well, as `integration/test --long` asks.
pub fn long() -> bool {
    std::env::var_os("PORTSLICE_LONG").is_some_and(|value| !value.is_empty())
}

/// Of many things, the first to do and how many to go on by: every `all`th with `--long`, else every `few`th beginning anywhere.
pub fn some(all: usize, few: usize) -> (usize, usize) {
    let anywhere = || UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos() as usize);
    if long() { (0, all) } else { (anywhere() % few, few) }
}

/// The host's own IPv4 address, which every container carries too.
pub const HOST4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
/// The host's own IPv6 address.
pub const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));
/// The outside peer, which is the default gateway as well.
pub const PEER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// The outside peer, IPv6.
pub const PEER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
/// An address of the peer that is only reachable through the default route.
pub const FAR4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// The same, IPv6.
pub const FAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1));
/// The further host behind the peer (`Plan::narrow`).
pub const REMOTE4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 2));
/// The same, IPv6.
pub const REMOTE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2));
/// Loopback, both families.
pub const LO4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Loopback, IPv6.
pub const LO6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
