//! `portslice top`: what containers do between two looks, the busiest first.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::thread::sleep;
use std::time::Duration;

use super::args::Top;
use super::{print, stats};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::refusal::unknown;
use crate::stats::table::{Cut, bytes, fitted, label};
use crate::stats::{Monitored, Reported};

/// The columns by which containers can be sorted.
const SORTS: [&str; 6] = ["rx", "tx", "drops", "cpu", "memory", "id"];

pub fn run(config: &Config, args: &Top) -> Result<()> {
    if !SORTS.contains(&args.sort.as_str()) {
        return Err(Error::invalid("--sort", unknown("column", &args.sort, &SORTS)));
    }
    let mut reported = Reported::default();
    let mut before = stats::look(config, &[], &mut reported)?;
    let mut left = args.count;
    while left != Some(0) {
        sleep(Duration::from_secs(args.interval));
        let now = stats::look(config, &[], &mut reported)?;
        let clear = if stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        print(&format!("{clear}{}", page(&before, &now, &args.sort)))?;
        before = now;
        left = left.map(|n| n - 1);
    }
    Ok(())
}

/// One container's rates per second between two looks.
struct Line {
    id: String,
    label: String,
    rx: f64,
    tx: f64,
    drops: f64,
    /// CPUs in use.
    cpu: Option<f64>,
    memory: Option<u64>,
}

fn page(before: &[Monitored], now: &[Monitored], sort: &str) -> String {
    let earlier: HashMap<&str, &Monitored> = before.iter().map(|m| (m.container_id.as_str(), m)).collect();
    let mut lines: Vec<Line> =
        now.iter().filter_map(|m| Some(line(earlier.get(m.container_id.as_str())?, m))).collect();
    let key = |line: &Line| match sort {
        "rx" => line.rx,
        "drops" => line.drops,
        "cpu" => line.cpu.unwrap_or_default(),
        "memory" => line.memory.unwrap_or_default() as f64,
        _ => line.tx,
    };
    match sort {
        "id" => lines.sort_by(|a, b| a.id.cmp(&b.id)),
        _ => lines.sort_by(|a, b| key(b).total_cmp(&key(a)).then_with(|| a.id.cmp(&b.id))),
    }
    let (rx, tx, drops) = lines.iter().fold((0.0, 0.0, 0.0), |t, l| (t.0 + l.rx, t.1 + l.tx, t.2 + l.drops));
    let mut rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    let memory = lines.iter().filter_map(|l| l.memory).reduce(|a, b| a + b);
    let cpu = lines.iter().filter_map(|l| l.cpu).reduce(|a, b| a + b);
    let label = format!("total ({})", lines.len());
    rows.push(row(&Line { id: String::new(), label, rx, tx, drops, cpu, memory }));
    fitted(&["CONTAINER", "RX/S", "TX/S", "DROPS/S", "CPU", "MEMORY"], &rows, &[1, 2, 3, 4, 5], &[(0, Cut::Front)])
}

fn line(before: &Monitored, now: &Monitored) -> Line {
    let seconds = (now.statistics.timestamp - before.statistics.timestamp).max(1e-3);
    let (then, net) = (&before.statistics.net, &now.statistics.net);
    // a container that came anew under the same id begins at zero; what is not known at both looks is no rate
    let rate = |then: Option<u64>, now: Option<u64>| {
        then.zip(now).map_or(0.0, |(then, now)| now.saturating_sub(then) as f64 / seconds)
    };
    Line {
        id: now.container_id.clone(),
        label: label(&now.container_id, now.name.as_deref()).to_owned(),
        rx: rate(then.net_rx_bytes, net.net_rx_bytes),
        tx: rate(then.net_tx_bytes, net.net_tx_bytes),
        drops: rate(then.net_rx_dropped, net.net_rx_dropped) + rate(then.net_tx_dropped, net.net_tx_dropped),
        cpu: cpu(before, now).map(|used| used.max(0.0) / seconds),
        memory: now.statistics.usage.memory.mem_total_bytes,
    }
}

/// Seconds of CPU time between two looks.
fn cpu(before: &Monitored, now: &Monitored) -> Option<f64> {
    let time = |one: &Monitored| {
        let usage = &one.statistics.usage;
        Some(usage.cpus_user_time_secs? + usage.cpus_system_time_secs?)
    };
    Some(time(now)? - time(before)?)
}

fn row(line: &Line) -> Vec<String> {
    vec![
        line.label.clone(),
        bytes(line.rx as u64),
        bytes(line.tx as u64),
        format!("{:.0}", line.drops),
        line.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.2}")),
        line.memory.map_or_else(|| "-".to_owned(), bytes),
    ]
}
