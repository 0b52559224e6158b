//! Taking a sample: one container -> [`Statistics`].
//!
//! Packets and bytes are the data path's own counts: they cover every way a packet takes, which the device's do not
//! (redirect_peer passes it by). Errors and drops behind the data path are the device's. A source that fails leaves
//! out its fields and says so in the log; it never turns into zeros.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::limits;
use crate::error::Result;
use crate::lease::Lease;
use crate::net::{Netlink, link};
use crate::steer::Maps;

/// Counters of one container, as in Mesos' `statistics` object. Bytes include Ethernet headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are Mesos' own")]
pub struct Statistics {
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
    /// Unix time in seconds, after everything was read.
    pub timestamp: f64,
}

/// One element of `/monitor/statistics`: Mesos' fields, and the container's id.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Monitored {
    /// The container.
    pub container_id: String,
    /// Its executor; the container id when it has no such label.
    pub executor_id: String,
    /// Its executor's name.
    pub executor_name: String,
    /// Its framework.
    pub framework_id: String,
    /// Where it came from.
    pub source: String,
    /// The counters.
    pub statistics: Statistics,
}

/// Where the counters of this host's containers are.
pub struct Sources<'a> {
    /// The data path's maps.
    pub maps: &'a Maps,
    /// The device that limits what containers send, if there is one.
    pub shaper: Option<u32>,
    /// A socket in the host's namespace.
    pub netlink: &'a mut Netlink,
}

/// Reads what is known of one container now.
pub fn sample(lease: &Lease, from: &mut Sources<'_>) -> Monitored {
    let mut statistics = Statistics::default();
    let limited = noted(lease, limits::dropped(lease, from));
    let drops = noted(lease, from.maps.counters(lease.slot)).map(|counters| {
        statistics.net_rx_packets = Some(counters.rx_packets);
        statistics.net_rx_bytes = Some(counters.rx_bytes);
        statistics.net_tx_packets = Some(counters.tx_packets);
        statistics.net_tx_bytes = Some(counters.tx_bytes);
        counters.drops.iter().sum::<u64>()
    });
    // the device's point of view is the host's: it transmits what the container receives
    if let Some(stats) = noted(lease, link::find(from.netlink, &lease.link())).flatten().and_then(|link| link.stats) {
        statistics.net_rx_errors = Some(stats.tx_errors);
        statistics.net_rx_dropped = limited.map(|l| l.ingress + stats.tx_dropped);
        statistics.net_tx_errors = Some(stats.rx_errors);
        statistics.net_tx_dropped = drops.zip(limited).map(|(d, l)| d + l.egress + stats.rx_dropped);
    }
    statistics.timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let labels = &lease.labels;
    let text = |label: &Option<String>| label.clone().unwrap_or_default();
    Monitored {
        container_id: lease.id.to_string(),
        executor_id: labels.executor_id.clone().unwrap_or_else(|| lease.id.to_string()),
        executor_name: text(&labels.executor_name),
        framework_id: text(&labels.framework_id),
        source: text(&labels.source),
        statistics,
    }
}

fn noted<T>(lease: &Lease, read: Result<T>) -> Option<T> {
    read.inspect_err(|e| log::warn!("{}: {e}", lease.id)).ok()
}
