//! `portslice show`.

use std::slice;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{claims, named, print, print_json};
use crate::config::Config;
use crate::cpu::{Bandwidth, Quota, Values};
use crate::error::Result;
use crate::host::facts::machine;
use crate::lease::record::cpus_of;
use crate::lease::view::{gone, view};
use crate::lease::{Lease, Ledger, Member, Placed};
use crate::net::holders::Holders;
use crate::rate::{Direction, Limit, Rate, Shape};
use crate::slice::power::is_net_admin;
use crate::slice::ready::peek;
use crate::slice::state::{State, state};
use crate::stats::net::Net;
use crate::stats::table::{described, short};
use crate::stats::{Groups, Reported, Statistics, collect, table};
use crate::steer::Claim;

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    view: Value,
    #[serde(skip)]
    lease: Lease,
    #[serde(skip)]
    member: Option<Member>,
    configured: Configured,
    /// Its root has more than its own network.
    net_admin: bool,
    #[serde(skip)]
    claims: Vec<Claim>,
    /// Does bind() of a port that is not the container's fail?
    bind_judged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics>,
    /// The network's counters, which are the slice's, whichever member is shown.
    #[serde(skip)]
    net: Net,
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

pub fn run(config: &Config, id: &str, json: bool) -> Result<()> {
    let ledger = Ledger::at(&config.state_dir);
    let (lease, member) = named(config, id)?;
    let (configured, view) = (configured(config, &lease), view(&lease, member.as_ref()));
    let net_admin = member.as_ref().is_some_and(|member| is_net_admin(&lease, member, &Holders::default()));
    let mut shown = Shown {
        view,
        lease,
        member,
        configured,
        net_admin,
        claims: Vec::new(),
        bind_judged: false,
        statistics: None,
        net: Net::default(),
        drops: None,
    };
    if let Some(host) = peek(config)? {
        shown.bind_judged =
            host.maps.namespaces.as_ref().is_some_and(|known| known.has(shown.lease.slot).unwrap_or(false));
        if state(&shown.lease, &ledger, &host)? == State::Dead {
            shown.view = gone(shown.view);
        }
        shown.claims = host.maps.all_claims().remove(&shown.lease.slot).unwrap_or_default();
        claims::enter(&mut shown.view, &shown.lease.open, &shown.claims);
        let monitored = collect(slice::from_ref(&shown.lease), &host.sources(Groups::of(config)))?;
        Reported::default().log_new(&monitored);
        // The first member's has the network's counters; a slice that all left has one entry without a member.
        shown.net = monitored.first().map(|first| first.statistics.net.clone()).unwrap_or_default();
        let id = shown.member.as_ref().map_or(&shown.lease.id, |member| &member.id);
        let own = monitored.into_iter().find(|one| one.container_id == id.as_str());
        shown.statistics = own.map(|own| own.statistics);
        shown.drops.clone_from(&shown.net.net_dropped_reasons);
    }
    if json { print_json(&shown) } else { print(&text(&shown)) }
}

fn configured(config: &Config, lease: &Lease) -> Configured {
    let machine = machine(config, lease.uplink());
    // one that cannot be computed now (a link that does not tell its speed) is told when somebody needs it
    let of =
        |direction| config.policy(direction).shape(&Limit::default(), cpus_of(&lease.members), &machine).ok().flatten();
    Configured { egress: of(Direction::Egress), ingress: of(Direction::Ingress) }
}

/// `37500KB/s (307.2 Mbit/s), burst 375KB; asked 37500KB/s (307.2 Mbit/s); configured unlimited`
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

/// `1.5, limit 2; weight 1536; at most 200000 of 100000 us`. `allowed`: the CPUs that its cgroup allows.
fn cpus(member: &Member, allowed: Option<f64>) -> String {
    let asked = &member.asked;
    let mut words = match (asked.cpus, member.bundle_cpus) {
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
    let Values { weight, bandwidth } = member.cpu.now;
    if let Some(weight) = weight {
        words.push_str(&format!("; weight {weight}"));
    }
    match bandwidth {
        Some(Bandwidth { quota: Quota::Micros(quota), period }) => {
            words.push_str(&format!("; at most {quota} of {period} us"))
        }
        Some(Bandwidth { quota: Quota::Unlimited, .. }) => words.push_str("; without a limit"),
        None => {
            if let Some(allowed) = allowed {
                words.push_str(&format!("; at most {allowed} by its runtime"));
            }
        }
    }
    member.cpu.notes.iter().for_each(|note| words.push_str(&format!("; {note}")));
    words
}

/// `pod (2 members: one, two)`
fn slice_of(lease: &Lease) -> String {
    if let [only] = lease.members.as_slice()
        && only.id == lease.id
    {
        return "its own".into();
    }
    let names: Vec<String> =
        lease.members.iter().map(|m| m.name.clone().unwrap_or_else(|| short(m.id.as_str()).to_owned())).collect();
    let count = match names.len() {
        1 => "1 member".to_owned(),
        n => format!("{n} members"),
    };
    let id = short(lease.id.as_str());
    if names.is_empty() { format!("{id} ({count})") } else { format!("{id} ({count}: {})", names.join(", ")) }
}

fn text(shown: &Shown) -> String {
    let (lease, configured) = (&shown.lease, &shown.configured);
    let allowed = shown.statistics.as_ref().and_then(|statistics| statistics.usage.cpus_limit);
    let terms = &lease.terms;
    let place = match terms.egress_placed {
        Placed::Host => ", held on the host",
        Placed::Inside => ", held on its own device",
    };
    let member = shown.member.as_ref();
    let or_none = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let image = or_none(member.and_then(|member| member.names.image.as_deref()));
    let pid = member.and_then(|member| member.pid).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let mut lines = vec![
        ("container", shown.member.as_ref().map_or(&lease.id, |member| &member.id).to_string()),
        ("name", or_none(member.and_then(|member| member.name.as_deref()))),
        ("image", image),
        ("slice", slice_of(lease)),
        ("stage", shown.view["stage"].as_str().unwrap_or_default().to_owned()),
        ("process", pid),
        ("block", format!("{} ({} ports)", lease.block, lease.block.size())),
        (
            "ports",
            shown
                .member
                .as_ref()
                .map(|m| m.port_names.beside(&m.ports))
                .filter(|p| !p.is_empty())
                .unwrap_or("none".into()),
        ),
        ("open ports", claims::offered(&lease.open, shown.claims.len())),
        ("device", format!("{} on the host, {} inside", lease.link(), lease.device)),
        ("namespace", lease.netns.display().to_string()),
        ("egress", limit(terms.egress, place, &terms.asked.egress, configured.egress)),
        ("ingress", limit(terms.ingress, "", &terms.asked.ingress, configured.ingress)),
        ("limits count", if terms.limit_local { "everything" } else { "what leaves or enters this host" }.to_owned()),
        ("cpus", shown.member.as_ref().map_or_else(|| "-".into(), |member| cpus(member, allowed))),
        ("host loopback", if lease.host_loopback { "yes" } else { "no" }.to_owned()),
        (
            "foreign ports",
            if shown.bind_judged { "bind() fails" } else { "bind() succeeds, and nothing is heard" }.to_owned(),
        ),
    ];
    if !lease.open.is_none() || !shown.claims.is_empty() {
        lines.push(("claimed", claims::listed(&shown.claims)));
    }
    if shown.net_admin {
        lines.push(("power", "CAP_NET_ADMIN over the host's devices as well: see SECURITY.md".to_owned()));
    }
    if shown.statistics.is_some() {
        let s = &shown.net;
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
    described(&lines)
}
