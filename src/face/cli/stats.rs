//! `portslice stats`.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::args::Stats;
use super::{id_of, named, print, print_json};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::face::complain;
use crate::lease::{Lease, Ledger};
use crate::request::ContainerId;
use crate::slice::account::{self, Finished};
use crate::slice::ready::peek;
use crate::stats::table::{Cut, bytes, count, fitted, label};
use crate::stats::{Groups, Monitored, Reported, collect};

const HEADING: [&str; 8] = ["CONTAINER", "RX PKTS", "RX BYTES", "RX DROP", "TX PKTS", "TX BYTES", "TX DROP", "ERRORS"];
/// The columns of numbers.
const RIGHT: [usize; 7] = [1, 2, 3, 4, 5, 6, 7];

pub fn run(config: &Config, args: &Stats) -> Result<()> {
    if args.finished {
        return finished(config, args);
    }
    let mut reported = Reported::default();
    let mut samples = look(config, &args.ids, &mut reported)?;
    if args.ids.is_empty() {
        let (_, unreadable) = Ledger::at(&config.state_dir).all_and_unreadable()?;
        unreadable.iter().for_each(|e| complain(&format!("portslice: warning: {e}")));
    }
    loop {
        match (args.json, args.all) {
            (true, _) => print_json(&samples)?,
            (_, true) => print(&figures(&samples))?,
            _ => print(&table(&samples))?,
        }
        if !args.watch {
            return Ok(());
        }
        sleep(Duration::from_secs(args.interval));
        samples = look(config, &args.ids, &mut reported)?;
    }
}

/// Takes samples of the containers that `ids` name; of all containers if `ids` is empty.
pub fn look(config: &Config, ids: &[String], reported: &mut Reported) -> Result<Vec<Monitored>> {
    let mut wanted = BTreeSet::new();
    let leases = if ids.is_empty() {
        Ledger::at(&config.state_dir).all()?
    } else {
        let found = ids.iter().map(|text| named(config, text)).collect::<Result<Vec<_>>>()?;
        wanted.extend(found.iter().map(|one| id_of(one).to_string()));
        let slices: BTreeMap<ContainerId, Lease> =
            found.into_iter().map(|(lease, _)| (lease.id.clone(), lease)).collect();
        slices.into_values().collect()
    };
    let mut samples = match peek(config)? {
        Some(host) => collect(&leases, &host.sources(Groups::of(config)))?,
        None => Vec::new(),
    };
    samples.retain(|sample| wanted.is_empty() || wanted.contains(&sample.container_id));
    reported.log_new(&samples);
    Ok(samples)
}

fn finished(config: &Config, args: &Stats) -> Result<()> {
    let mut all = account::finished(&Ledger::at(&config.state_dir))?;
    let id_of = |one: &Finished| one.monitored["container_id"].as_str().unwrap_or_default().to_owned();
    for id in &args.ids {
        if !all.iter().any(|one| id_of(one) == **id) {
            return Err(Error::NotFound(format!("the journal does not know a container {id}")));
        }
    }
    all.retain(|one| args.ids.is_empty() || args.ids.iter().any(|id| **id == id_of(one)));
    if args.json {
        return print_json(&all);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            let of = |name: &str| one.monitored["statistics"][name].as_u64();
            cells(
                label(&id_of(one), one.monitored["name"].as_str()),
                [of("net_rx_packets"), of("net_rx_bytes"), of("net_rx_dropped")],
                [of("net_tx_packets"), of("net_tx_bytes"), of("net_tx_dropped")],
                lasted(one.finished.saturating_sub(one.created)),
            )
        })
        .collect();
    let mut heading = HEADING;
    heading[7] = "LASTED";
    print(&fitted(&heading, &rows, &RIGHT, &[(0, Cut::Front)]))
}

/// Everything that is known, one figure a line.
fn figures(samples: &[Monitored]) -> String {
    let mut rows = Vec::new();
    for sample in samples {
        let statistics = serde_json::to_value(&sample.statistics).unwrap_or_default();
        let label = label(&sample.container_id, sample.name.as_deref());
        leaves("", &statistics, &mut |name, value| {
            rows.push(vec![label.to_owned(), name.to_owned(), value]);
        });
    }
    fitted(&["CONTAINER", "FIGURE", "VALUE"], &rows, &[2], &[(0, Cut::Front), (1, Cut::Front)])
}

/// What is inside of something is named after it and a dot; an element of an array by its `id`.
fn leaves(name: &str, value: &Value, put: &mut impl FnMut(&str, String)) {
    let within = |inner: &str| if name.is_empty() { inner.to_owned() } else { format!("{name}.{inner}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(inner, value)| leaves(&within(inner), value, put)),
        Value::Array(elements) => {
            for (n, element) in elements.iter().enumerate() {
                let id = element["id"].as_str().map_or_else(|| n.to_string(), str::to_owned);
                leaves(&within(&id), element, put);
            }
        }
        // it is in the name
        Value::String(_) => {}
        figure => put(name, figure.to_string()),
    }
}

/// One line for each, and their sum when there are several.
fn table(samples: &[Monitored]) -> String {
    let row = |sample: &Monitored| {
        let s = &sample.statistics.net;
        cells(
            label(&sample.container_id, sample.name.as_deref()),
            [s.net_rx_packets, s.net_rx_bytes, s.net_rx_dropped],
            [s.net_tx_packets, s.net_tx_bytes, s.net_tx_dropped],
            number(s.net_rx_errors.zip(s.net_tx_errors).map(|(rx, tx)| rx + tx)),
        )
    };
    let mut rows: Vec<Vec<String>> = samples.iter().map(row).collect();
    // The counters are the slice's. Where its first member stands above, they are there.
    for (row, pair) in rows.iter_mut().skip(1).zip(samples.windows(2)) {
        if pair[0].slice == pair[1].slice {
            row[1..].iter_mut().for_each(|cell| *cell = "\"".to_owned());
        }
    }
    if samples.len() > 1 {
        let nets: Vec<_> = samples.iter().map(|sample| &sample.statistics.net).collect();
        let sum = |of: fn(&crate::stats::net::Net) -> Option<u64>| Some(nets.iter().filter_map(|net| of(net)).sum());
        rows.push(cells(
            "total",
            [sum(|n| n.net_rx_packets), sum(|n| n.net_rx_bytes), sum(|n| n.net_rx_dropped)],
            [sum(|n| n.net_tx_packets), sum(|n| n.net_tx_bytes), sum(|n| n.net_tx_dropped)],
            number(sum(|n| n.net_rx_errors.zip(n.net_tx_errors).map(|(rx, tx)| rx + tx))),
        ));
    }
    fitted(&HEADING, &rows, &RIGHT, &[(0, Cut::Front)])
}

/// Packets, bytes, dropped in each direction.
fn cells(id: &str, rx: [Option<u64>; 3], tx: [Option<u64>; 3], last: String) -> Vec<String> {
    let size = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), bytes);
    let way = |[packets, octets, dropped]: [Option<u64>; 3]| [number(packets), size(octets), number(dropped)];
    [id.to_owned()].into_iter().chain(way(rx)).chain(way(tx)).chain([last]).collect()
}

fn number(n: Option<u64>) -> String {
    n.map_or_else(|| "-".to_owned(), count)
}

/// How long a container was there, in its two largest units: `42s`, `5m7s`, `3h59m`, `12d1h`.
fn lasted(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_container_lasted_is_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (307, "5m7s"), (14_399, "3h59m"), (1_040_000, "12d0h")] {
            assert_eq!(lasted(seconds), text);
        }
    }
}
