//! Suites of tests that run in a container with open ports and on a plain host: the same ones pass.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

/// How often tests that differ run once more on both sides: some fail now and then on any host.
const AGAIN: usize = 3;

/// A comparison that took this long begins no further run.
const PATIENCE: Duration = Duration::from_secs(600);

/// A plain host, and one with a container that has open ports.
pub struct Sides {
    plain: Host,
    host: Host,
    container: Container,
}

/// Where tests run.
pub struct Side<'a> {
    pub host: &'a Host,
    pub ns: &'a Ns,
}

/// The tests of a run: all of them, or those of these names.
pub type Chosen<'a> = Option<&'a BTreeSet<String>>;

/// Whether a test passed, by its name; one that is skipped did not.
pub type Outcomes = BTreeMap<String, bool>;

/// One suite of tests.
pub struct Suite<'a> {
    /// What it is called.
    pub name: &'a str,
    /// How many of its tests pass at least, wherever they run.
    pub least: usize,
    /// Runs it, or some of its tests; the number is that of the run.
    pub run: &'a (dyn Fn(&Side<'_>, Chosen<'_>, usize) -> Outcomes + Sync),
}

impl Sides {
    pub fn new(name: &str) -> Sides {
        let plain = Host::with(&format!("{name}-plain")).port_range("32768 57343").unprepared().build();
        let host = Host::with(name).judged("require").build();
        let container = host.bare(name, &["--open-ports", "all"]);
        Sides { plain, host, container }
    }

    /// Runs a suite on both sides. It fails if a test passes on one of them alone however often it is tried.
    #[track_caller]
    pub fn compare(&self, suite: &Suite<'_>) {
        let (plain, inside) = (Side { host: &self.plain, ns: &self.plain.ns }, self.inside());
        let begun = Instant::now();
        let run = |side: &Side<'_>, chosen: Chosen<'_>, round| (suite.run)(side, chosen, round);
        let (on_plain, within) = race::both(|| run(&plain, None, 0), || run(&inside, None, 0));
        let passed = |outcomes: &Outcomes| outcomes.values().filter(|passed| **passed).count();
        let (first, second) = (passed(&on_plain), passed(&within));
        println!("{}: {first} of {} pass, inside {second} of {}", suite.name, on_plain.len(), within.len());
        let most = first.max(second);
        assert!(most >= suite.least, "{}: only {most} tests pass, and {} are to", suite.name, suite.least);
        let mut differing = differing(&on_plain, &within, on_plain.keys().chain(within.keys()));
        for again in 1..=AGAIN {
            if differing.is_empty() || begun.elapsed() > PATIENCE {
                break;
            }
            println!("{}: once more: {differing:?}", suite.name);
            let [on_plain, within] = [&plain, &inside].map(|side| run(side, Some(&differing), again));
            differing = self::differing(&on_plain, &within, differing.iter());
        }
        assert!(differing.is_empty(), "{}: these pass in one place alone: {differing:?}", suite.name);
    }

    /// What is made once for both sides, in a directory that either finds.
    pub fn made<R>(&self, make: impl FnOnce(&Path) -> R) -> R {
        make(&self.host.dir)
    }

    fn inside(&self) -> Side<'_> {
        Side { host: &self.host, ns: &self.container.ns }
    }
}

fn differing<'a>(plain: &Outcomes, inside: &Outcomes, tests: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let passed = |outcomes: &Outcomes, test: &String| outcomes.get(test).copied().unwrap_or(false);
    tests.filter(|test| passed(plain, test) != passed(inside, test)).cloned().collect()
}

#[test]
fn what_passes_in_one_place_alone_is_found() {
    let outcomes =
        |passed: [bool; 3]| -> Outcomes { ["a", "b", "c"].map(str::to_owned).into_iter().zip(passed).collect() };
    let (plain, mut inside) = (outcomes([true, false, true]), outcomes([true, true, true]));
    inside.remove("c");
    let found = differing(&plain, &inside, plain.keys().chain(inside.keys()));
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["b", "c"]);
}
