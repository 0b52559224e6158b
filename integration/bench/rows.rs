//! What is measured, and the most that it may cost: the one table of the data path's limits.
//!
//! Limits are instructions relative to host networking. The two kernels of `integration/vm` are held to them exactly, for
//! a clock that counts instructions tells the same each time; others have limits for counters that are less steady.

use super::load::Load;
use std::fs;
use std::io;

/// Which way a conversation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// A client on the peer, a server behind the host's address.
    Inbound,
    /// A client behind the host's address, a server on the peer.
    Outbound,
    /// Both ends in one place, by 127.0.0.1.
    Loopback,
    /// From one container to another of the same host, by the host's address. On a host of its own: two processes.
    Beside,
    /// From a container to a process of its host, by the host's address. On a host of its own: two processes.
    ToHost,
}

/// Where the peer is, as the host's routes see it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// Behind a gateway.
    Far,
    /// A neighbour on the wire, or no peer at all.
    Near,
    /// Behind a gateway, and the host has a second network that a rule routes by source: the data path asks the kernel's route
    /// tables for each packet that leaves a container.
    MultiHomed,
}

/// A limit: what is wanted of the product, and what it is held to until it gets there.
#[derive(Clone, Copy)]
pub struct Limit {
    pub wanted: f64,
    pub held: f64,
}

impl Limit {
    /// Printed as the larger one, with the wanted one behind it where that is not reached.
    pub fn text(self) -> String {
        match self {
            Limit { wanted, held } if wanted < held => format!("<= {held:.3} (wanted {wanted:.3})"),
            Limit { held, .. } => format!("<= {held:.3}"),
        }
    }
}

const fn at(wanted: f64) -> Limit {
    Limit { wanted, held: wanted }
}

/// A limit that the product misses in some run. `measured` is the most that it was, and a few thousandths; it may be a hundredth
/// more, as two runs differ by, but no worse.
const fn short(wanted: f64, measured: f64) -> Limit {
    Limit { wanted, held: measured + 0.01 }
}

/// A row of the table. `limits` are those of Linux 6.1 and 6.12 in a machine whose clock counts instructions.
pub struct Row {
    pub name: &'static str,
    pub load: Load,
    pub path: Path,
    pub distance: Distance,
    limits: [Limit; 2],
    elsewhere: f64,
}

const fn row(
    name: &'static str,
    load: Load,
    path: Path,
    distance: Distance,
    limits: [Limit; 2],
    elsewhere: f64,
) -> Row {
    Row { name, load, path, distance, limits, elsewhere }
}

use Distance::{Far, MultiHomed, Near};
use Load::{Connect, Datagrams, Exchange, Stream};
use Path::{Beside, Inbound, Loopback, Outbound, ToHost};

/// The rows by a peer behind a gateway come first: they are compared with more ways than the others.
pub const ROWS: [Row; 36] = [
    row("TCP stream, inbound", Stream, Inbound, Far, [short(1.05, 1.055), short(1.05, 1.07)], 1.08),
    row("TCP stream, outbound", Stream, Outbound, Far, [at(1.07), at(1.09)], 1.12),
    row("TCP request/response, inbound", Exchange, Inbound, Far, [short(1.06, 1.066), short(1.08, 1.092)], 1.08),
    row("TCP request/response, outbound", Exchange, Outbound, Far, [short(1.06, 1.076), short(1.08, 1.097)], 1.12),
    row(
        "TCP connect/request/response, inbound",
        Connect,
        Inbound,
        Far,
        [short(1.065, 1.101), short(1.07, 1.107)],
        1.08,
    ),
    row(
        "TCP connect/request/response, outbound",
        Connect,
        Outbound,
        Far,
        [short(1.065, 1.108), short(1.07, 1.116)],
        1.12,
    ),
    row("UDP 64 bytes, inbound", Datagrams, Inbound, Far, [short(1.045, 1.06), short(1.05, 1.075)], 1.08),
    row("UDP 64 bytes, outbound", Datagrams, Outbound, Far, [at(1.12), at(1.165)], 1.18),
    row("multi-homed: TCP stream, inbound", Stream, Inbound, MultiHomed, [short(1.05, 1.08), short(1.05, 1.09)], 1.10),
    row(
        "multi-homed: TCP stream, outbound",
        Stream,
        Outbound,
        MultiHomed,
        [short(1.07, 1.121), short(1.09, 1.122)],
        1.15,
    ),
    row(
        "multi-homed: TCP request/response, inbound",
        Exchange,
        Inbound,
        MultiHomed,
        [short(1.06, 1.078), short(1.08, 1.145)],
        1.16,
    ),
    row(
        "multi-homed: TCP request/response, outbound",
        Exchange,
        Outbound,
        MultiHomed,
        [short(1.06, 1.088), short(1.08, 1.15)],
        1.16,
    ),
    row(
        "multi-homed: TCP connect/request/response, inbound",
        Connect,
        Inbound,
        MultiHomed,
        [short(1.065, 1.14), short(1.07, 1.143)],
        1.16,
    ),
    row(
        "multi-homed: TCP connect/request/response, outbound",
        Connect,
        Outbound,
        MultiHomed,
        [short(1.065, 1.137), short(1.07, 1.144)],
        1.16,
    ),
    row("multi-homed: UDP 64 bytes, inbound", Datagrams, Inbound, MultiHomed, [at(1.045), at(1.05)], 1.08),
    row(
        "multi-homed: UDP 64 bytes, outbound",
        Datagrams,
        Outbound,
        MultiHomed,
        [short(1.12, 1.218), short(1.165, 1.25)],
        1.26,
    ),
    row("neighbour: TCP stream, inbound", Stream, Inbound, Near, [short(1.05, 1.066), short(1.05, 1.08)], 1.08),
    row("neighbour: TCP stream, outbound", Stream, Outbound, Near, [short(1.07, 1.094), short(1.09, 1.12)], 1.12),
    row(
        "neighbour: TCP request/response, inbound",
        Exchange,
        Inbound,
        Near,
        [short(1.06, 1.069), short(1.08, 1.119)],
        1.08,
    ),
    row(
        "neighbour: TCP request/response, outbound",
        Exchange,
        Outbound,
        Near,
        [short(1.06, 1.075), short(1.08, 1.118)],
        1.12,
    ),
    row(
        "neighbour: TCP connect/request/response, inbound",
        Connect,
        Inbound,
        Near,
        [short(1.065, 1.131), short(1.07, 1.136)],
        1.08,
    ),
    row(
        "neighbour: TCP connect/request/response, outbound",
        Connect,
        Outbound,
        Near,
        [short(1.065, 1.132), short(1.07, 1.137)],
        1.12,
    ),
    row("neighbour: UDP 64 bytes, inbound", Datagrams, Inbound, Near, [short(1.045, 1.059), short(1.05, 1.085)], 1.08),
    row("neighbour: UDP 64 bytes, outbound", Datagrams, Outbound, Near, [short(1.12, 1.162), short(1.165, 1.21)], 1.18),
    row("in-container loopback: TCP stream", Stream, Loopback, Near, [at(1.03), at(1.03)], 1.05),
    row("in-container loopback: TCP request/response", Exchange, Loopback, Near, [at(1.03), at(1.03)], 1.05),
    row(
        "in-container loopback: TCP connect/request/response",
        Connect,
        Loopback,
        Near,
        [short(1.03, 1.031), short(1.03, 1.041)],
        1.05,
    ),
    row("in-container loopback: UDP 64 bytes", Datagrams, Loopback, Near, [at(1.03), short(1.03, 1.039)], 1.05),
    row("container to container: TCP stream", Stream, Beside, Near, [short(1.15, 1.162), short(1.15, 1.185)], 1.35),
    row(
        "container to container: TCP request/response",
        Exchange,
        Beside,
        Near,
        [short(1.15, 1.211), short(1.15, 1.238)],
        1.35,
    ),
    row(
        "container to container: TCP connect/request/response",
        Connect,
        Beside,
        Near,
        [short(1.15, 1.28), short(1.15, 1.32)],
        1.35,
    ),
    row(
        "container to container: UDP 64 bytes",
        Datagrams,
        Beside,
        Near,
        [short(1.15, 1.256), short(1.15, 1.323)],
        1.35,
    ),
    row("container to host: TCP stream", Stream, ToHost, Near, [short(1.15, 1.152), short(1.15, 1.152)], 1.35),
    row("container to host: TCP request/response", Exchange, ToHost, Near, [at(1.15), short(1.15, 1.199)], 1.35),
    row(
        "container to host: TCP connect/request/response",
        Connect,
        ToHost,
        Near,
        [short(1.15, 1.238), short(1.15, 1.246)],
        1.35,
    ),
    row("container to host: UDP 64 bytes", Datagrams, ToHost, Near, [short(1.15, 1.28), short(1.15, 1.36)], 1.35),
];

/// What the kernel that runs is held to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// 6.1 or 6.12 with a clock that counts instructions: the index of its limits.
    Exact(usize),
    /// Any other, or one that is measured by less steady counters.
    Other,
}

impl Kernel {
    /// `exact`: does the clock count instructions?
    pub fn running(exact: bool) -> io::Result<Kernel> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let index = ["6.1.", "6.12."].iter().position(|series| release.starts_with(series));
        Ok(index.filter(|_| exact).map_or(Kernel::Other, Kernel::Exact))
    }

    /// What a row may cost relative to host networking.
    pub fn limit(self, row: &Row) -> Limit {
        match self {
            Kernel::Exact(index) => row.limits[index],
            Kernel::Other => at(row.elsewhere),
        }
    }

    /// The most a packet may cost with many leases, relative to one.
    pub fn growth(self) -> f64 {
        if self == Kernel::Exact(0) { 1.01 } else { 1.02 }
    }

    /// The most that a packet may cost where `bind()` is judged and its port is a claim, relative to a leased port without that:
    /// nothing but what the calls of a connection take, rounded to hundredths. Where the two ends take turns in one of two ways,
    /// that is a tenth of difference by itself.
    pub fn with_socket_rules(self, load: Load) -> f64 {
        let most = if load == Connect { 1.01 } else { 1.0 };
        most + if self == Kernel::Exact(0) { 0.005 } else { 0.1 }
    }

    /// The most that the product may add to what host networking costs, as a share of what bridge and NAT add. On a multi-homed host
    /// that is a larger share for datagrams outwards, measured up to 0.471: the data path asks the route tables for each of them.
    pub fn share_of_bridge(self, distance: Distance) -> f64 {
        match (self, distance) {
            (Kernel::Exact(0), Distance::MultiHomed) => 0.48,
            (Kernel::Exact(0), _) => 0.35,
            _ => 1.0,
        }
    }
}
