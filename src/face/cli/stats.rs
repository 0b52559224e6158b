//! `portslice stats`.

use super::{lease_of, print, print_json};
use crate::config::Config;
use crate::error::Result;
use crate::lease::{ContainerId, Ledger};
use crate::net::Netlink;
use crate::slice::prepare;
use crate::stats::table::{bytes, columns};
use crate::stats::{Groups, Monitored, Sources, sample};

pub fn run(config: &Config, ids: &[ContainerId], json: bool) -> Result<()> {
    let leases = if ids.is_empty() {
        Ledger::at(&config.state_dir).all()?
    } else {
        ids.iter().map(|id| lease_of(config, id)).collect::<Result<_>>()?
    };
    let mut samples = Vec::new();
    if let Some(host) = prepare::peek(config)? {
        let mut netlink = Netlink::route()?;
        let mut from = Sources { maps: &host.maps, shaper: host.shaper, netlink: &mut netlink };
        samples.extend(leases.iter().map(|lease| sample(lease, &mut from, &Groups::of(config))));
    }
    if json {
        return print_json(&samples);
    }
    let heading =
        ["CONTAINER", "RX PACKETS", "RX BYTES", "RX DROPPED", "TX PACKETS", "TX BYTES", "TX DROPPED", "ERRORS"];
    print(&columns(&heading, &samples.iter().map(row).collect::<Vec<_>>(), &[1, 2, 3, 4, 5, 6, 7]))
}

fn row(sample: &Monitored) -> Vec<String> {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let size = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), bytes);
    let s = &sample.statistics.net;
    vec![
        sample.container_id.clone(),
        number(s.net_rx_packets),
        size(s.net_rx_bytes),
        number(s.net_rx_dropped),
        number(s.net_tx_packets),
        size(s.net_tx_bytes),
        number(s.net_tx_dropped),
        number(s.net_rx_errors.zip(s.net_tx_errors).map(|(rx, tx)| rx + tx)),
    ]
}
