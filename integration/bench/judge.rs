//! Tables of figures with their limits, and what a benchmark exits with.

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;

/// What can go wrong while measuring, as opposed to a figure that misses its limit.
pub type Failure = Box<dyn Error>;

/// Timings on a busy machine miss a limit now and then; a real regression misses it every time.
pub const SERIES: usize = 5;

/// One line of a table. `met` is `None` for figures that are shown but not judged.
pub struct Row {
    pub cells: Vec<String>,
    pub met: Option<bool>,
}

/// One series of measurements.
pub struct Table {
    pub header: Vec<String>,
    pub rows: Vec<Row>,
}

impl Table {
    /// First column to the left, all others to the right, the verdict last.
    pub fn render(&self) -> String {
        let lines = || {
            let head = std::iter::once((&self.header, ""));
            head.chain(self.rows.iter().map(|row| {
                (
                    &row.cells,
                    match row.met {
                        None => "",
                        Some(true) => "ok",
                        Some(false) => "MISSED",
                    },
                )
            }))
        };
        let width = |column: usize| lines().map(|(cells, _)| cells[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = String::new();
        for (cells, verdict) in lines() {
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let _ = if column == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
            }
            let _ = writeln!(text, "  {verdict}");
        }
        text
    }
}

/// Measures until every limit was met in some series, `most` times at most, and prints each.
pub fn best_of_series(name: &str, most: usize, mut series: impl FnMut() -> Result<Table, Failure>) -> ExitCode {
    // Whoever else uses the machine comes second while we measure; both sides of every comparison gain alike.
    // SAFETY: plain system call; a refusal only leaves the figures noisier.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    let mut unmet: Option<Vec<bool>> = None;
    for n in 1..=most {
        let table = match series() {
            Ok(table) => table,
            Err(e) => {
                eprintln!("{name}: {e}");
                return ExitCode::FAILURE;
            }
        };
        println!("{}", table.render());
        let missed = table.rows.iter().map(|row| row.met == Some(false));
        let unmet = unmet.get_or_insert_with(|| vec![true; table.rows.len()]);
        unmet.iter_mut().zip(missed).for_each(|(unmet, missed)| *unmet &= missed);
        let left = unmet.iter().filter(|unmet| **unmet).count();
        match (left, n) {
            (0, _) => {
                println!("{name}: all limits met");
                return ExitCode::SUCCESS;
            }
            _ if n == most => println!("{name}: FAILED, {left} of the limits missed in each of {most} series"),
            _ => println!("{left} of the limits not met yet: measuring again ({n} of {most} series done)\n"),
        }
    }
    ExitCode::FAILURE
}

/// The value below which a quarter of them lie: what a run takes that nothing disturbed much.
#[allow(dead_code, reason = "only one of the benchmarks that share this file judges by it")]
pub fn lower_quartile(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 4]
}

/// The middle value; the mean of the two middle ones of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}
