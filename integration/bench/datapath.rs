//! What a packet costs: portslice against host networking and against other ways, in one interleaved run.
//!
//! Every row is the median, over rounds, of the ratio between two ways measured within the same round, so that drift of
//! the machine cancels; `host again` is a second, equal host and shows how far to trust the row: limits are wider by that.
//! Instructions are judged rather than time: they do not depend on who else uses the CPUs.
//!
//! `datapath [NAME...]` measures the rows whose name contains one of the names.

mod cost;
mod group;
mod judge;
mod load;
mod net;
mod product;
mod programs;
mod rows;
mod stage;

use cost::{Event, Meter};
use judge::{Failure, SERIES, Table, best_of_series, median};
use load::{Load, Sample, sample};
use product::Product;
use rows::{Distance, Kernel, ROWS};
use stage::{Lease, Stage};
use std::process::ExitCode;

/// How often everything is measured, the leases on a host that has many, and which rows: a clock that counts instructions
/// gives the same figures each time to a thousandth or two, and the machine that has it is slow. On Linux 6.12 the two ends
/// take turns in one of two ways that differ by a tenth: a row that misses its limit is measured again.
struct Extent {
    series: usize,
    rounds: usize,
    leases: usize,
    /// The rows of others are skipped.
    distances: &'static [Distance],
}

impl Extent {
    fn of(meter: &Meter) -> Extent {
        let long = std::env::var_os("PORTSLICE_LONG").is_some_and(|value| !value.is_empty());
        let among = |few: &'static [Distance]| if long { &ALL[..] } else { few };
        match meter.event {
            Event::Clock => {
                let leases = if long { 1000 } else { 32 };
                Extent { series: 3, rounds: 1, leases, distances: among(&[Distance::Far, Distance::Near]) }
            }
            // only throughput is judged by it
            Event::TaskClock => Extent { series: SERIES, rounds: 9, leases: 100, distances: among(&[Distance::Far]) },
            Event::Instructions => {
                Extent { series: SERIES, rounds: 15, leases: 1000, distances: among(&[Distance::Far]) }
            }
        }
    }
}

const ALL: [Distance; 3] = [Distance::Far, Distance::Near, Distance::MultiHomed];

/// The least throughput of a TCP stream relative to host networking.
const LEAST_THROUGHPUT: f64 = 0.95;

/// The ways that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Host,
    Again,
    Bridge,
    Macvlan,
    Slice,
    Claiming,
    Grouped,
    Limited,
    Many,
}

/// The stages of one distance, and the ways that they are.
type Stages = Vec<(Way, Stage)>;

/// All that is measured.
struct Ground {
    far: Stages,
    near: Stages,
    multi_homed: Stages,
    rows: Vec<&'static rows::Row>,
    meter: Meter,
    kernel: Kernel,
    extent: Extent,
}

/// The samples of one row, by way and round.
struct Measured(Vec<(Way, Vec<Sample>)>);

impl Measured {
    fn of(&self, way: Way) -> Option<&[Sample]> {
        self.0.iter().find(|(of, _)| *of == way).map(|(_, samples)| samples.as_slice())
    }

    /// How `way` compares with `with`; `None` if one of them was not measured.
    fn ratio(&self, way: Way, with: Way, figure: fn(&Sample) -> f64) -> Option<f64> {
        let pairs = self.of(way)?.iter().zip(self.of(with)?);
        Some(median(&pairs.map(|(a, b)| figure(a) / figure(b)).collect::<Vec<_>>()))
    }

    /// What host networking itself takes.
    fn base(&self, figure: fn(&Sample) -> f64) -> f64 {
        median(&self.of(Way::Host).unwrap_or_default().iter().map(figure).collect::<Vec<_>>())
    }
}

fn main() -> ExitCode {
    run().unwrap_or_else(|e| {
        eprintln!("datapath: {e}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode, Failure> {
    net::private_ground()?;
    let (meter, missing) = Meter::new()?;
    let (ground, product) = prepare(meter)?;
    let accepted = judge_programs(&product)?;
    if let Some(reason) = &missing {
        println!("No instruction counter: {reason}. CPU time is shown in its place, for information.");
    }
    let skipped = ROWS.iter().filter(|row| !ground.extent.distances.contains(&row.distance)).count();
    if skipped > 0 {
        println!("{skipped} of {} rows are skipped: they take long (PORTSLICE_LONG).", ROWS.len());
    }
    let verdict = best_of_series("datapath", ground.extent.series, || series(&ground));
    if missing.is_some() {
        println!("datapath: instruction rows shown as CPU time and not judged: skipped");
    }
    Ok(if accepted { verdict } else { ExitCode::FAILURE })
}

/// The ground, and a product that has loaded its programs, those at the sockets among them.
fn prepare(meter: Meter) -> Result<(Ground, Product), Failure> {
    let extent = Extent::of(&meter);
    let mut far = stages("far", Distance::Far, Lease::Among(1))?;
    if !far.iter().any(|(way, _)| *way == Way::Macvlan) {
        println!("macvlan: skipped, this kernel has none");
    }
    let (claiming, product) = Stage::portslice("claiming", Distance::Far, Lease::Claiming)?;
    far.push((Way::Claiming, claiming));
    let others = [
        (Way::Grouped, "grouped", Lease::Grouped),
        (Way::Limited, "limited", Lease::Limited),
        (Way::Many, "many", Lease::Among(extent.leases)),
    ];
    for (way, name, lease) in others {
        far.push((way, Stage::portslice(name, Distance::Far, lease)?.0));
    }
    let unless_skipped = |name, distance, lease| {
        if extent.distances.contains(&distance) { stages(name, distance, lease) } else { Ok(Vec::new()) }
    };
    let near = unless_skipped("near", Distance::Near, Lease::Paired)?;
    let multi_homed = unless_skipped("multi", Distance::MultiHomed, Lease::Among(1))?;
    let kernel = Kernel::running(meter.event == Event::Clock)?;
    Ok((Ground { far, near, multi_homed, rows: asked_rows(&extent)?, meter, kernel, extent }, product))
}

/// The ways that are compared at each distance. `name` begins the names of their namespaces.
fn stages(name: &str, distance: Distance, lease: Lease) -> Result<Stages, Failure> {
    let named = |way: &str| format!("{name}-{way}");
    let mut stages = vec![
        (Way::Host, Stage::host(&named("plain"), distance)?),
        (Way::Again, Stage::host(&named("again"), distance)?),
    ];
    if distance != Distance::Near {
        stages.push((Way::Bridge, Stage::bridge(&named("bridge"), distance)?));
    }
    stages.push((Way::Slice, Stage::portslice(&named("slice"), distance, lease)?.0));
    let macvlan = Stage::macvlan(&named("macvlan"), distance)?;
    stages.extend(macvlan.map(|stage| (Way::Macvlan, stage)));
    Ok(stages)
}

/// The rows that the command line names; without a name, all.
fn asked_rows(extent: &Extent) -> Result<Vec<&'static rows::Row>, Failure> {
    // cargo adds an option of its own
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut asked: Vec<_> = ROWS.iter().filter(|row| extent.distances.contains(&row.distance)).collect();
    if let Some(unknown) = names.iter().find(|name| !asked.iter().any(|row| row.name.contains(name.as_str()))) {
        return Err(format!("no row that is measured here has {unknown:?} in its name").into());
    }
    asked.retain(|row| names.is_empty() || names.iter().any(|name| row.name.contains(name.as_str())));
    Ok(asked)
}

/// Shows what the verifier had to look at, and says whether that is within limits.
fn judge_programs(product: &Product) -> Result<bool, Failure> {
    let Some(table) = programs::verified(product)? else {
        println!("instructions verified: skipped, this kernel does not tell (before 5.16)");
        return Ok(true);
    };
    println!("{}", table.render());
    Ok(table.rows.iter().all(|row| row.met != Some(false)))
}

fn series(ground: &Ground) -> Result<Table, Failure> {
    let judged = ground.meter.event != Event::TaskClock;
    let (mut costs, mut rates) = (Vec::new(), Vec::new());
    for row in &ground.rows {
        let measured = measure(ground, row).map_err(|e| format!("{}: {e}", row.name))?;
        costs.push(cost_row(ground.kernel, row, &measured, judged));
        // by a clock that counts instructions, throughput is their inverse and no figure of its own
        if row.load == Load::Stream && row.distance == Distance::Far && ground.meter.event != Event::Clock {
            rates.push(rate_row(row.name, &measured));
        }
    }
    costs.extend(rates);
    let unit = if judged { "instructions each" } else { "CPU ns each" };
    let many = format!("{} leases : 1", ground.extent.leases);
    let header = [
        unit,
        "host",
        "host again",
        "bridge+NAT",
        "macvlan",
        "portslice",
        "limit",
        "share of bridge+NAT",
        "bind() judged",
        "with limits on",
        &many,
    ];
    Ok(Table { header: header.map(String::from).into(), rows: costs })
}

/// A figure with a mark if it misses its limit.
struct Cell(Option<f64>, bool);

impl Cell {
    /// `most`: the largest that is allowed.
    fn judged(figure: Option<f64>, most: f64) -> Cell {
        Cell(figure, figure.is_none_or(|figure| figure <= most))
    }

    fn shown(figure: Option<f64>) -> Cell {
        Cell(figure, true)
    }

    fn text(&self) -> String {
        self.0.map_or("-".to_owned(), |figure| format!("{figure:.3}{}", if self.1 { "" } else { "!" }))
    }
}

fn cost_row(kernel: Kernel, row: &rows::Row, measured: &Measured, judged: bool) -> judge::Row {
    let ratio = |way, with| measured.ratio(way, with, |sample| sample.cost);
    let again = ratio(Way::Again, Way::Host);
    let doubt = again.map_or(0.0, |again| (again - 1.0).abs());
    let (bridge, slice) = (ratio(Way::Bridge, Way::Host), ratio(Way::Slice, Way::Host));
    let added = |ratio: f64| ratio - 1.0;
    let share = bridge.zip(slice).map(|(bridge, slice)| added(slice) / added(bridge));
    let share_doubt = bridge.map_or(0.0, |bridge| doubt / added(bridge));
    let limit = kernel.limit(row);
    let cells = [
        Cell::shown(again),
        Cell::shown(bridge),
        Cell::shown(ratio(Way::Macvlan, Way::Host)),
        Cell::judged(slice, limit.held + doubt),
        Cell::judged(share, kernel.share_of_bridge(row.distance) + share_doubt),
        Cell::judged(ratio(Way::Claiming, Way::Grouped), kernel.with_socket_rules(row.load) + doubt),
        Cell::shown(ratio(Way::Limited, Way::Host)),
        Cell::judged(ratio(Way::Many, Way::Slice), kernel.growth() + doubt),
    ];
    let met = cells.iter().all(|cell| cell.1);
    let cells = cells.map(|cell| Cell(cell.0, cell.1 || !judged));
    let base = format!("{:.0}", measured.base(|sample| sample.cost));
    judge::Row { cells: texts(row.name, base, &cells, limit.text()), met: judged.then_some(met) }
}

fn rate_row(name: &str, measured: &Measured) -> judge::Row {
    let ratio = |way, with| measured.ratio(way, with, |sample| sample.rate);
    let slice = ratio(Way::Slice, Way::Host);
    let cells = [
        ratio(Way::Again, Way::Host),
        ratio(Way::Bridge, Way::Host),
        ratio(Way::Macvlan, Way::Host),
        slice,
        None,
        ratio(Way::Claiming, Way::Grouped),
        ratio(Way::Limited, Way::Host),
        ratio(Way::Many, Way::Slice),
    ]
    .map(Cell::shown);
    let base = measured.base(|sample| sample.rate * Load::CHUNK as f64 * 8e-9);
    let limit = format!(">= {LEAST_THROUGHPUT:.2}");
    let cells = texts(&format!("{name}: throughput"), format!("{base:.1} Gbit/s"), &cells, limit);
    judge::Row { cells, met: Some(slice.is_some_and(|slice| slice >= LEAST_THROUGHPUT)) }
}

/// The cells of a line: `limit` stands behind what it is a limit of, the fourth figure.
fn texts(name: &str, base: String, cells: &[Cell; 8], limit: String) -> Vec<String> {
    let mut texts = vec![name.to_owned(), base];
    texts.extend(cells.iter().map(Cell::text));
    texts.insert(6, limit);
    texts
}

/// Runs a row's load over every way in turn. Each round starts at another way, so that none is always the first.
fn measure(ground: &Ground, row: &rows::Row) -> Result<Measured, Failure> {
    let stages = match row.distance {
        Distance::Far => &ground.far,
        Distance::Near => &ground.near,
        Distance::MultiHomed => &ground.multi_homed,
    };
    let mut measured = Vec::new();
    for (way, stage) in stages {
        measured.extend(stage.route(row.path).map(|route| (*way, route, Vec::new())));
    }
    let ways = measured.len();
    for first in 0..ground.extent.rounds {
        for step in 0..ways {
            let (way, route, samples) = &mut measured[(first + step) % ways];
            samples.push(sample(row.load, route, &ground.meter).map_err(|e| format!("{way:?}: {e}"))?);
        }
    }
    Ok(Measured(measured.into_iter().map(|(way, _, samples)| (way, samples)).collect()))
}
