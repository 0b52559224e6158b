//! The network part of [`super::Statistics`]: what each field is and where it comes from.
//!
//! Packets and bytes are counted by the data path: its counts cover every way a packet takes, while bpf_redirect_peer
//! bypasses the device's counters. Errors, and drops behind the data path, are counted by the device. Drops by limits are
//! counted by the queues. Counters of sockets are read inside the container's namespace. When a source fails, its own
//! fields are left out, never zero, and [`Reading::troubles`] says why.

use std::fs;

use serde::Serialize;
use serde_json::{Map, Value};

use super::limits::{self, Queues};
use super::rates::{RateStatistics, Snapshot};
use super::snmp;
use super::sources::Sources;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::net::qdisc::Counts;
use crate::net::{Netlink, diag, link};
use crate::ports::Block;
use crate::rate::Shape;
use crate::steer::layout::REASONS;
use crate::steer::{Claims, SlotEntry};

/// Counters and limits of a container's network, under Mesos' names where Mesos has one. Bytes include Ethernet headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are Mesos' own")]
pub struct Net {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_dropped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_dropped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_packets: Option<u64>,
    /// Bytes per second that the container may receive; absent without a limit, like the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_rate_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_burst_rate_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_burst_size: Option<u64>,
    /// Bytes per second that the container may send; absent without a limit, like the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_rate_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_burst_rate_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_burst_size: Option<u64>,
    /// The container's block of ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_ephemeral_ports: Option<Block>,
    /// IPv4 sockets neither closed nor in TIME_WAIT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_active_connections: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_time_wait_connections: Option<f64>,
    /// Percentiles over the container's TCP sockets, IPv4 and IPv6, that measured a round trip: all four or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_rtt_microsecs_p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_rtt_microsecs_p90: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_rtt_microsecs_p95: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_rtt_microsecs_p99: Option<f64>,
    /// Percentiles of the container's rates. Only the server has them, if it is configured to sample rates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rate_statistics: Option<RateStatistics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_snmp_statistics: Option<Map<String, Value>>,
    /// The counters of the container's limits; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_traffic_control_statistics: Option<Vec<TrafficControl>>,
    /// Beyond Mesos: packets that were dropped, by reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_dropped_reasons: Option<Map<String, Value>>,
    /// Beyond Mesos: how many ports of the container's block are held by sockets. TCP connections in TIME_WAIT do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_ephemeral_ports_in_use: Option<u64>,
    /// Beyond Mesos: how many open ports the container's sockets have claimed, those that rest after them included; a port
    /// counts once a protocol. Absent where it may claim none, like the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_open_ports_claimed: Option<u64>,
    /// Beyond Mesos: how many it may have claimed at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_open_ports_limit: Option<u64>,
    /// Beyond Mesos: TCP segments that the container's namespace sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_retransmits: Option<u64>,
    /// Beyond Mesos: TCP connections that listening sockets turned away, because their queue was full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_listen_drops: Option<u64>,
}

/// One queueing discipline, as Mesos' `TrafficControlStatistics`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are Mesos' own")]
pub struct TrafficControl {
    /// `bw_limit` holds what the container sends to its rate, `bloat_reduction` is the queue in which its packets wait.
    /// For what the container receives, both begin with `ingress_`.
    pub id: &'static str,
    pub backlog: u64,
    pub bytes: u64,
    pub drops: u64,
    pub overlimits: u64,
    pub packets: u64,
    pub qlen: u64,
    /// Always 0, as in Mesos: no estimator runs.
    pub ratebps: u64,
    pub ratepps: u64,
    pub requeues: u64,
}

/// The counters that could be read, and why others could not.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The counters. A field that could not be read is `None`.
    pub net: Net,
    /// Why fields are missing, one line for each source that failed.
    pub troubles: Vec<String>,
}

/// Reads the network counters of one container. `netlink` is a socket in the host's namespace.
pub fn read(lease: &Lease, from: &Sources<'_>, netlink: &mut Netlink) -> Reading {
    let mut reading = Reading::default();
    reading.net.net_ephemeral_ports = Some(lease.block);
    let has_device = reading.read_counters(lease, from, netlink);
    reading.enter_limits(lease);
    reading.count_claims(lease, from);
    // the kernel reuses inode numbers of namespaces: without the device, the namespace may be another container's by now
    if from.groups.needs_namespace() && has_device {
        let read = reading.read_inside(lease, from);
        reading.noted(read);
    }
    reading
}

impl Net {
    /// Returns the counters from which rates are computed; `None` unless all of them are known.
    pub fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot([
            self.net_rx_bytes?,
            self.net_rx_packets?,
            self.net_rx_dropped?,
            self.net_rx_errors?,
            self.net_tx_bytes?,
            self.net_tx_packets?,
            self.net_tx_dropped?,
            self.net_tx_errors?,
        ]))
    }
}

impl Reading {
    /// Reads the counters of the data path, the device and the queues. Returns whether the device is there.
    fn read_counters(&mut self, lease: &Lease, from: &Sources<'_>, netlink: &mut Netlink) -> bool {
        // a slot that is free, or another container's by now, has no device of this container
        let own = |ends: &SlotEntry| ends.ifindex != 0 && ends.epoch == lease.epoch;
        let ends = self.noted(from.maps.slot(lease.slot)).filter(own).unwrap_or_default();
        let link = match ends.ifindex {
            0 => Ok(None),
            device => link::counters(netlink, device),
        };
        if matches!(link, Ok(None)) {
            self.troubles.push(format!("its device {} is gone, and the device's counters with it", lease.link()));
        }
        let device = self.noted(link).flatten();
        let queues = match device {
            Some(_) => self.noted(limits::queues(lease, ends, from, netlink)),
            None => (lease.terms.ingress.is_none() && lease.terms.egress.is_none()).then(Queues::default),
        };
        let limited = queues.map(|queues| queues.dropped(lease));
        let counted = self.noted(from.maps.counters(lease.slot));
        if let Some(counters) = &counted {
            self.net.net_rx_packets = Some(counters.rx_packets);
            self.net.net_rx_bytes = Some(counters.rx_bytes);
            self.net.net_tx_packets = Some(counters.tx_packets);
            self.net.net_tx_bytes = Some(counters.tx_bytes);
        }
        if let (Some(counters), Some(limited)) = (&counted, limited) {
            let mut reasons: Map<String, Value> =
                REASONS.iter().zip(counters.drops).map(|(name, n)| ((*name).to_owned(), n.into())).collect();
            reasons.insert("egress_limit".into(), limited.egress.into());
            reasons.insert("ingress_limit".into(), limited.ingress.into());
            self.net.net_dropped_reasons = Some(reasons);
        }
        // the device's point of view is the host's: it transmits what the container receives
        if let (Some(stats), Some(limited)) = (device, limited) {
            self.net.net_rx_errors = Some(stats.tx_errors);
            self.net.net_rx_dropped = Some(limited.ingress + stats.tx_dropped);
            self.net.net_tx_errors = Some(stats.rx_errors);
            let drops = counted.map(|counters| counters.drops.iter().sum::<u64>());
            self.net.net_tx_dropped = drops.map(|drops| drops + limited.egress + stats.rx_dropped);
        }
        self.net.net_traffic_control_statistics = queues.and_then(|queues| traffic_control(&queues));
        device.is_some()
    }

    /// Enters the limits that the lease has.
    fn enter_limits(&mut self, lease: &Lease) {
        let burst = |shape: &Shape| (shape.ceil != shape.rate).then(|| shape.ceil.bytes_per_second());
        if let Some(shape) = &lease.terms.ingress {
            self.net.net_rx_rate_limit = Some(shape.rate.bytes_per_second());
            self.net.net_rx_burst_rate_limit = burst(shape);
            self.net.net_rx_burst_size = Some(shape.burst.bytes());
        }
        if let Some(shape) = &lease.terms.egress {
            self.net.net_tx_rate_limit = Some(shape.rate.bytes_per_second());
            self.net.net_tx_burst_rate_limit = burst(shape);
            self.net.net_tx_burst_size = Some(shape.burst.bytes());
        }
    }

    /// Counts what it has claimed, where it may.
    fn count_claims(&mut self, lease: &Lease, from: &Sources<'_>) {
        if !lease.open.is_none() {
            let Claims { tcp, udp, resting } = from.maps.claims(lease.slot);
            self.net.net_open_ports_claimed = Some((tcp.len() + udp.len() + resting.len()).into());
            self.net.net_open_ports_limit = Some(lease.open.limit.into());
        }
    }

    /// Reads the wanted groups inside the container's namespace.
    fn read_inside(&mut self, lease: &Lease, from: &Sources<'_>) -> Result<()> {
        let groups = &from.groups;
        from.holders.reach(&lease.netns, lease.netns_id)?.inside(|| {
            let text = |name: &str| {
                let path = format!("/proc/thread-self/net/{name}");
                fs::read_to_string(&path).map_err(Error::file("read", &path))
            };
            if groups.socket_summary
                && let Some(sockets) = self.noted(text("sockstat")).as_deref().and_then(snmp::tcp_sockets)
            {
                self.net.net_tcp_active_connections = Some(sockets.active as f64);
                self.net.net_tcp_time_wait_connections = Some(sockets.time_wait as f64);
            }
            if groups.snmp
                && let Some(text) = self.noted(text("snmp"))
            {
                self.net.net_snmp_statistics = Some(snmp::groups(&text));
                self.net.net_tcp_retransmits = snmp::counter(&text, "Tcp", "RetransSegs");
            }
            if groups.snmp
                && let Some(text) = self.noted(text("netstat"))
            {
                self.net.net_tcp_listen_drops = snmp::counter(&text, "TcpExt", "ListenDrops");
            }
            if groups.socket_details {
                self.read_sockets(lease)?;
            }
            Ok(())
        })
    }

    /// Reads round trips and ports in use. Expensive: the kernel goes through the sockets of the whole host.
    fn read_sockets(&mut self, lease: &Lease) -> Result<()> {
        let mut netlink = Netlink::diag()?;
        let mut rtts: Vec<u32> = diag::paths(&mut netlink)?.iter().map(|p| p.rtt).filter(|rtt| *rtt != 0).collect();
        rtts.sort_unstable();
        self.net.net_tcp_rtt_microsecs_p50 = percentile(&rtts, 50);
        self.net.net_tcp_rtt_microsecs_p90 = percentile(&rtts, 90);
        self.net.net_tcp_rtt_microsecs_p95 = percentile(&rtts, 95);
        self.net.net_tcp_rtt_microsecs_p99 = percentile(&rtts, 99);
        let holders = diag::holders(&mut netlink, lease.block.range())?;
        self.net.net_ephemeral_ports_in_use = Some(diag::ports_of(&holders).len().into());
        Ok(())
    }

    /// Returns the value; notes the error of a source that failed.
    fn noted<T>(&mut self, read: Result<T>) -> Option<T> {
        read.inspect_err(|e| self.troubles.push(e.to_string())).ok()
    }
}

fn traffic_control(queues: &Queues) -> Option<Vec<TrafficControl>> {
    let entry = |id, counts: &Counts| TrafficControl {
        id,
        backlog: counts.backlog,
        bytes: counts.bytes,
        drops: counts.drops,
        overlimits: counts.overlimits,
        packets: counts.packets,
        qlen: counts.qlen,
        ratebps: 0,
        ratepps: 0,
        requeues: counts.requeues,
    };
    let mut all = Vec::new();
    if let Some(load) = &queues.egress {
        all.extend([entry("bw_limit", &load.class), entry("bloat_reduction", &load.leaf)]);
    }
    if let Some(load) = &queues.ingress {
        all.extend([entry("ingress_bw_limit", &load.class), entry("ingress_bloat_reduction", &load.leaf)]);
    }
    (!all.is_empty()).then_some(all)
}

/// The percentile by Mesos' rule: the element at count * percent / 100 of the sorted values.
fn percentile(sorted: &[u32], percent: usize) -> Option<f64> {
    sorted.get(sorted.len() * percent / 100).map(|value| f64::from(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_as_mesos_takes_them() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!([50, 90, 95, 99].map(|p| percentile(&hundred, p)), [51.0, 91.0, 96.0, 100.0].map(Some));
        assert_eq!(percentile(&[7], 99), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_snapshot_needs_every_counter() {
        let mut net = Net { net_rx_bytes: Some(1), ..Net::default() };
        assert_eq!(net.snapshot(), None);
        for field in [
            &mut net.net_rx_packets,
            &mut net.net_rx_dropped,
            &mut net.net_rx_errors,
            &mut net.net_tx_bytes,
            &mut net.net_tx_packets,
            &mut net.net_tx_dropped,
            &mut net.net_tx_errors,
        ] {
            *field = Some(2);
        }
        assert_eq!(net.snapshot(), Some(Snapshot([1, 2, 2, 2, 2, 2, 2, 2])));
    }
}
