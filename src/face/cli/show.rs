//! `portslice show`.

use serde::Serialize;
use serde_json::{Map, Value};

use super::list::stage;
use super::{lease_of, print, print_json};
use crate::config::Config;
use crate::error::Result;
use crate::lease::{ContainerId, Lease};
use crate::net::Netlink;
use crate::slice::prepare;
use crate::stats::{Statistics, sample, table};
use crate::steer::maps::REASONS;

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    lease: Lease,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drops: Option<Map<String, Value>>,
}

pub fn run(config: &Config, id: &ContainerId, json: bool) -> Result<()> {
    let mut shown = Shown { lease: lease_of(config, id)?, statistics: None, drops: None };
    if let Some(host) = prepare::peek(config)? {
        shown.statistics = Some(sample(&shown.lease, &host.maps, &mut Netlink::route()?).statistics);
        let drops = host.maps.counters(shown.lease.slot)?.drops;
        shown.drops = Some(REASONS.iter().zip(drops).map(|(name, n)| ((*name).to_owned(), n.into())).collect());
    }
    if json { print_json(&shown) } else { print(&text(&shown)) }
}

fn text(shown: &Shown) -> String {
    let lease = &shown.lease;
    let mut lines = vec![
        ("container", lease.id.to_string()),
        ("stage", stage(lease.stage).to_owned()),
        ("block", format!("{} ({} ports)", lease.block, lease.block.size())),
        ("ports", if lease.ports.is_empty() { "none".into() } else { lease.ports.to_string() }),
        ("device", format!("{} on the host, {} inside", lease.link(), lease.device)),
        ("namespace", lease.netns.display().to_string()),
        ("host loopback", if lease.host_loopback { "yes" } else { "no" }.to_owned()),
    ];
    if let Some(s) = &shown.statistics {
        let flow = |packets: Option<u64>, bytes: Option<u64>| match (packets, bytes) {
            (Some(packets), Some(bytes)) => format!("{packets} packets, {}", table::bytes(bytes)),
            _ => "unknown".to_owned(),
        };
        lines.push(("received", flow(s.net_rx_packets, s.net_rx_bytes)));
        lines.push(("sent", flow(s.net_tx_packets, s.net_tx_bytes)));
    }
    if let Some(drops) = &shown.drops {
        let counted: Vec<String> =
            drops.iter().filter(|(_, n)| n.as_u64() != Some(0)).map(|(name, n)| format!("{name} {n}")).collect();
        lines.push(("dropped", if counted.is_empty() { "nothing".into() } else { counted.join(", ") }));
    }
    lines.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
}
