//! What a packet costs: portslice against host networking and against bridge + NAT, in one interleaved run.
//!
//! Every row is the median, over rounds, of the ratio between two ways measured within the same round, so that drift of
//! the machine cancels; `host again` is a second, equal host and shows how far to trust the row. Instructions are
//! judged rather than time: they do not depend on who else uses the CPUs.

mod cost;
mod judge;
mod load;
mod net;
mod product;
mod stage;

use cost::{Event, Meter};
use judge::{Failure, Row, SERIES, Table, best_of_series, median};
use load::{Load, Route, Sample, sample};
use stage::Stage;
use std::process::ExitCode;

/// How often everything is measured, and the leases on a host that has many: a clock that counts instructions gives the
/// same figures each time to a thousandth or two, and the machine that has it is slow.
struct Extent {
    series: usize,
    rounds: usize,
    leases: usize,
}

impl Extent {
    fn of(meter: &Meter) -> Extent {
        match meter.event {
            Event::Clock => Extent { series: 1, rounds: 1, leases: 32 },
            _ => Extent { series: SERIES, rounds: 15, leases: 1000 },
        }
    }
}

/// A row of the table: what is said, in which direction, and the most it may cost relative to host networking.
const ROWS: [(&str, Load, Direction, f64); 8] = [
    ("TCP stream, inbound", Load::Stream, Direction::Inbound, 1.08),
    ("TCP stream, outbound", Load::Stream, Direction::Outbound, 1.12),
    ("TCP request/response, inbound", Load::Exchange, Direction::Inbound, 1.08),
    ("TCP request/response, outbound", Load::Exchange, Direction::Outbound, 1.12),
    ("TCP connect/request/response, inbound", Load::Connect, Direction::Inbound, 1.08),
    ("TCP connect/request/response, outbound", Load::Connect, Direction::Outbound, 1.12),
    ("UDP 64 bytes, inbound", Load::Datagrams, Direction::Inbound, 1.08),
    ("UDP 64 bytes, outbound", Load::Datagrams, Direction::Outbound, 1.18),
];
/// The least throughput of a TCP stream relative to host networking.
const LEAST_THROUGHPUT: f64 = 0.95;
/// The most a packet may cost with many leases, relative to one.
const MOST_GROWTH: f64 = 1.02;

#[derive(Clone, Copy)]
enum Direction {
    Inbound,
    Outbound,
}

/// The ways that are compared. A `Round` holds one sample of each, in this order.
struct Ways {
    host: Stage,
    again: Stage,
    bridge: Stage,
    one: Stage,
    many: Stage,
}

struct Round {
    host: Sample,
    again: Sample,
    bridge: Sample,
    one: Sample,
    many: Sample,
}

fn main() -> ExitCode {
    let (ways, meter, missing) = match prepare() {
        Ok(ready) => ready,
        Err(e) => {
            eprintln!("datapath: {e}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(reason) = &missing {
        println!("No instruction counter: {reason}. CPU time is shown in its place, for information.");
    }
    let verdict = best_of_series("datapath", Extent::of(&meter).series, || series(&ways, &meter));
    if missing.is_some() {
        println!("datapath: instruction rows shown as CPU time and not judged: skipped");
    }
    verdict
}

fn prepare() -> Result<(Ways, Meter, Option<String>), Failure> {
    net::private_ground()?;
    let (meter, missing) = Meter::new()?;
    let ways = Ways {
        host: Stage::host("plain")?,
        again: Stage::host("again")?,
        bridge: Stage::bridge("bridge")?,
        one: Stage::portslice("one", 1)?,
        many: Stage::portslice("many", Extent::of(&meter).leases)?,
    };
    Ok((ways, meter, missing))
}

fn series(ways: &Ways, meter: &Meter) -> Result<Table, Failure> {
    let instructions = meter.event != Event::TaskClock;
    let (mut costs, mut rates) = (Vec::new(), Vec::new());
    for (name, load, direction, limit) in ROWS {
        let rounds = rounds(ways, load, direction, meter).map_err(|e| format!("{name}: {e}"))?;
        costs.push(cost_row(name, &rounds, limit, instructions));
        // by a clock that counts instructions, throughput is their inverse and no figure of its own
        if load == Load::Stream && meter.event != Event::Clock {
            rates.push(rate_row(name, &rounds));
        }
    }
    costs.extend(rates);
    let unit = if instructions { "instructions each" } else { "CPU ns each" };
    let many = format!("{} leases : 1", Extent::of(meter).leases);
    let header = [unit, "host", "host again", "bridge+NAT", "portslice", "limit", &many].map(String::from).into();
    Ok(Table { header, rows: costs })
}

fn cost_row(name: &str, rounds: &[Round], limit: f64, judged: bool) -> Row {
    let ratio = |of: fn(&Round) -> (Sample, Sample)| median_ratio(rounds, of, |s| s.cost);
    let (slice, growth) = (ratio(|r| (r.one, r.host)), ratio(|r| (r.many, r.one)));
    let compared = [ratio(|r| (r.again, r.host)), ratio(|r| (r.bridge, r.host)), slice];
    let met = slice <= limit && ratio(|r| (r.one, r.bridge)) < 1.0 && growth <= MOST_GROWTH;
    let base = median(&rounds.iter().map(|r| r.host.cost).collect::<Vec<_>>());
    Row {
        cells: cells(name, format!("{base:.0}"), compared, &format!("<= {limit:.2}"), growth),
        met: judged.then_some(met),
    }
}

fn rate_row(name: &str, rounds: &[Round]) -> Row {
    let ratio = |of: fn(&Round) -> (Sample, Sample)| median_ratio(rounds, of, |s| s.rate);
    let slice = ratio(|r| (r.one, r.host));
    let compared = [ratio(|r| (r.again, r.host)), ratio(|r| (r.bridge, r.host)), slice];
    let base = median(&rounds.iter().map(|r| r.host.rate * Load::CHUNK as f64 * 8e-9).collect::<Vec<_>>());
    let (name, limit) = (format!("{name}: throughput"), format!(">= {LEAST_THROUGHPUT:.2}"));
    let cells = cells(&name, format!("{base:.1} Gbit/s"), compared, &limit, ratio(|r| (r.many, r.one)));
    Row { cells, met: Some(slice >= LEAST_THROUGHPUT) }
}

fn cells(name: &str, base: String, ratios: [f64; 3], limit: &str, growth: f64) -> Vec<String> {
    let [again, bridge, slice] = ratios.map(|r| format!("{r:.3}"));
    vec![name.to_owned(), base, again, bridge, slice, limit.to_owned(), format!("{growth:.3}")]
}

fn median_ratio(rounds: &[Round], of: fn(&Round) -> (Sample, Sample), figure: fn(&Sample) -> f64) -> f64 {
    let ratios: Vec<f64> = rounds.iter().map(of).map(|(a, b)| figure(&a) / figure(&b)).collect();
    median(&ratios)
}

/// Runs `load` over every way in turn. Each round starts at another way, so that none is always the first.
fn rounds(ways: &Ways, load: Load, direction: Direction, meter: &Meter) -> Result<Vec<Round>, Failure> {
    const NAMES: [&str; 5] = ["host", "host again", "bridge+NAT", "portslice", "portslice with many leases"];
    let all = [&ways.host, &ways.again, &ways.bridge, &ways.one, &ways.many].map(|stage| stage.route(direction));
    let mut rounds = Vec::new();
    for first in 0..Extent::of(meter).rounds {
        let mut samples = [None; 5];
        for step in 0..all.len() {
            let way = (first + step) % all.len();
            samples[way] = Some(sample(load, all[way], meter).map_err(|e| format!("{}: {e}", NAMES[way]))?);
        }
        let [host, again, bridge, one, many] = samples.map(|s| s.expect("every way was sampled"));
        rounds.push(Round { host, again, bridge, one, many });
    }
    Ok(rounds)
}

impl Stage {
    fn route(&self, direction: Direction) -> &Route {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}
