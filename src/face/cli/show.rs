//! `portslice show`.

use std::slice;

use serde::Serialize;
use serde_json::{Map, Value};

use super::list::stage;
use super::{lease_of, print, print_json};
use crate::config::Config;
use crate::cpu::{Bandwidth, Quota, Values};
use crate::error::Result;
use crate::host::facts::machine;
use crate::lease::{Lease, Placed};
use crate::net::Netlink;
use crate::rate::{Direction, Limit, Rate, Shape};
use crate::request::ContainerId;
use crate::slice::prepare;
use crate::stats::{Groups, Reported, Statistics, sample, table};

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    lease: Lease,
    configured: Configured,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drops: Option<Map<String, Value>>,
}

/// What the configuration gives a container that asks for nothing, but has the CPUs of this one.
#[derive(Serialize)]
struct Configured {
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<Shape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<Shape>,
}

pub fn run(config: &Config, id: &ContainerId, json: bool) -> Result<()> {
    let lease = lease_of(config, id)?;
    let configured = configured(config, &lease);
    let mut shown = Shown { lease, configured, statistics: None, drops: None };
    if let Some(host) = prepare::peek(config)? {
        let mut netlink = Netlink::route()?;
        let from = host.sources(Groups::of(config));
        let monitored = sample(&shown.lease, &from, &mut netlink);
        Reported::default().log_new(slice::from_ref(&monitored));
        let statistics = monitored.statistics;
        shown.drops.clone_from(&statistics.net.net_dropped_reasons);
        shown.statistics = Some(statistics);
    }
    if json { print_json(&shown) } else { print(&text(&shown)) }
}

fn configured(config: &Config, lease: &Lease) -> Configured {
    let machine = machine(config, &lease.device);
    // one that cannot be computed now (a link that does not tell its speed) is told when somebody needs it
    let of = |direction| {
        config
            .policy(direction)
            .shape(&Limit::default(), lease.terms.asked.cpus.or(lease.bundle_cpus), &machine)
            .ok()
            .flatten()
    };
    Configured { egress: of(Direction::Egress), ingress: of(Direction::Ingress) }
}

/// `37500KB (307.2 Mbit/s), burst 375KB; asked 37500KB; configured none`
fn limit(effective: Option<Shape>, place: &str, asked: &Limit, configured: Option<Shape>) -> String {
    let or = |rate: Option<Rate>, none: &str| rate.map_or_else(|| none.to_owned(), |rate| rate.to_string());
    let effective = effective.map_or_else(
        || "unlimited".to_owned(),
        |shape| {
            let ceil = if shape.ceil == shape.rate { String::new() } else { format!(", ceil {}", shape.ceil) };
            format!("{}{ceil}, burst {}{place}", shape.rate, shape.burst)
        },
    );
    let configured = or(configured.map(|shape| shape.rate), "unlimited");
    format!("{effective}; asked {}; configured {configured}", or(asked.rate, "nothing"))
}

/// `1.5, limit 2; weight 1536; at most 200000 of 100000 us`
fn cpus(lease: &Lease) -> String {
    let asked = &lease.terms.asked;
    let mut words = match (asked.cpus, lease.bundle_cpus) {
        (Some(cpus), _) => cpus.to_string(),
        (None, Some(cpus)) => format!("{cpus} by its bundle"),
        (None, None) => "unknown".to_owned(),
    };
    if let Some(limit) = asked.cpus_limit {
        words.push_str(&format!(", limit {limit}"));
    }
    if asked.cpus_revocable == Some(true) {
        words.push_str(", revocable");
    }
    let Values { weight, bandwidth } = lease.cpu.now;
    if let Some(weight) = weight {
        words.push_str(&format!("; weight {weight}"));
    }
    match bandwidth {
        Some(Bandwidth { quota: Quota::Micros(quota), period }) => {
            words.push_str(&format!("; at most {quota} of {period} us"))
        }
        Some(Bandwidth { quota: Quota::Unlimited, .. }) => words.push_str("; without a limit"),
        None => {}
    }
    lease.cpu.notes.iter().for_each(|note| words.push_str(&format!("; {note}")));
    words
}

fn text(shown: &Shown) -> String {
    let (lease, configured) = (&shown.lease, &shown.configured);
    let terms = &lease.terms;
    let place = match terms.egress_placed {
        Placed::Host => ", held on the host",
        Placed::Inside => ", held on its own device",
    };
    let mut lines = vec![
        ("container", lease.id.to_string()),
        ("stage", stage(lease.stage).to_owned()),
        ("block", format!("{} ({} ports)", lease.block, lease.block.size())),
        ("ports", if terms.ports.is_empty() { "none".into() } else { terms.ports.to_string() }),
        ("device", format!("{} on the host, {} inside", lease.link(), lease.device)),
        ("namespace", lease.netns.display().to_string()),
        ("egress", limit(terms.egress, place, &terms.asked.egress, configured.egress)),
        ("ingress", limit(terms.ingress, "", &terms.asked.ingress, configured.ingress)),
        ("limits count", if terms.limit_local { "everything" } else { "what leaves or enters this host" }.to_owned()),
        ("cpus", cpus(lease)),
        ("host loopback", if lease.host_loopback { "yes" } else { "no" }.to_owned()),
    ];
    if let Some(s) = shown.statistics.as_ref().map(|s| &s.net) {
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
