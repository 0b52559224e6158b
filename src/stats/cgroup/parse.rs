//! The forms of a cgroup's files. Text in, numbers out: no I/O, and no panic whatever the text.

use std::collections::HashSet;

use serde::Serialize;

/// What v1 says for memory without a limit: PAGE_COUNTER_MAX, the largest number of pages of any size that fits.
const NO_LIMIT: u64 = i64::MAX as u64 & !0xf_ffff;

/// How long tasks waited for one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stall {
    /// At least one of them.
    pub some: Waited,
    /// All of them at once. A kernel before 5.13 does not say it of CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<Waited>,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Waited {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last 60 seconds.
    pub avg60: f64,
    /// Percent of the last 300 seconds.
    pub avg300: f64,
    /// Seconds since the cgroup was made.
    pub total_secs: f64,
}

/// The number behind `name` in lines of `name number`: `None` if that is not a number, `Some(None)` if there is no such
/// line.
pub fn keyed(text: &str, name: &str) -> Option<Option<u64>> {
    let mut found = text.lines().filter_map(|line| line.split_once(' ')).filter(|(key, _)| *key == name);
    match found.next() {
        Some((_, number)) => digits(number).map(Some),
        None => Some(None),
    }
}

/// `cpu.max`, or v1's quota and period on one line: how many CPUs it allows; `Some(None)` for no limit.
pub fn bandwidth(text: &str) -> Option<Option<f64>> {
    let (quota, period) = text.trim_end().split_once(' ')?;
    match (quota, digits(period)?) {
        ("max" | "-1", _) => Some(None),
        (_, 0) => None,
        (quota, period) => Some(Some(digits(quota)? as f64 / period as f64)),
    }
}

/// A single number; `Some(None)` for one that stands for no limit.
pub fn value(text: &str) -> Option<Option<u64>> {
    match text.trim_end() {
        "max" => Some(None),
        number => digits(number).map(|n| Some(n).filter(|n| *n < NO_LIMIT)),
    }
}

/// How many ids are listed, each counted once: while processes are moved about, v2 may list one twice.
pub fn listed(text: &str) -> Option<u64> {
    let ids: Option<HashSet<u64>> = text.lines().map(digits).collect();
    ids.map(|ids| ids.len() as u64)
}

/// A pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
pub fn stall(text: &str) -> Option<Stall> {
    let mut lines = text.lines();
    let some = waited(lines.next()?, "some")?;
    let full = match lines.next() {
        Some(line) => Some(waited(line, "full")?),
        None => None,
    };
    Some(Stall { some, full })
}

fn waited(line: &str, kind: &str) -> Option<Waited> {
    let mut parts = line.split(' ');
    if parts.next()? != kind {
        return None;
    }
    let mut named = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
    let percent = |text: &str| text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
    let [avg10, avg60, avg300] = [named("avg10"), named("avg60"), named("avg300")].map(|text| text.and_then(percent));
    let total = digits(named("total")?)?;
    Some(Waited { avg10: avg10?, avg60: avg60?, avg300: avg300?, total_secs: total as f64 / 1e6 })
}

/// Digits only: a sign is not what the kernel writes.
fn digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}
