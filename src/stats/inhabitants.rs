//! What a namespace uses whose container nobody named a process of: one that was attached by a path, or a pod's sandbox.
//!
//! Its processes are found by their namespace, and its cgroups by its processes. A cgroup counts if all processes in it are
//! in the namespace and it is not another member's. What several cgroups use is added up. Nothing of this is remembered:
//! containers come and go in a pod.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use super::cgroup::{self, Reading};
use crate::cpu::{Finder, Place, Roots};
use crate::lease::Lease;

/// Finds cgroups; the tables it looks them up in are read when they are first needed, and then no more.
#[derive(Debug, Default)]
pub struct Inhabitants(OnceLock<Option<Finder>>);

impl Inhabitants {
    /// What `processes`, all of them in the slice's namespace, use but for those of members whose cgroups are known. `count`
    /// them, too?
    pub fn read(&self, lease: &Lease, processes: &[u32], count: bool) -> Reading {
        let known: Vec<&Path> = lease.members.iter().filter_map(|member| directory(member.cgroups.as_ref()?)).collect();
        let places = self.places(processes, &known);
        let mut readings = places.iter().map(|place| cgroup::read(place, count));
        let mut total = match readings.next() {
            Some(first) => first.unwrap_or_else(failed),
            None if known.is_empty() && count => Reading { usage: counted(processes), ..Reading::default() },
            None => Reading::default(),
        };
        for reading in readings {
            let reading = reading.unwrap_or_else(failed);
            total.usage = total.usage.plus(&reading.usage);
            total.notes.extend(reading.notes);
        }
        total
    }

    /// The cgroups that hold no processes but these, and are neither `known` nor below one another.
    fn places(&self, processes: &[u32], known: &[&Path]) -> Vec<Place> {
        if processes.is_empty() {
            return Vec::new();
        }
        let finder = self.0.get_or_init(|| Finder::new(&Roots::default()).inspect_err(|e| log::debug!("{e}")).ok());
        let Some(finder) = finder else { return Vec::new() };
        // Most processes share their cgroups with others: one of them is looked at.
        let one_of_each: BTreeMap<String, u32> = processes
            .iter()
            .filter_map(|pid| Some((fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?, *pid)))
            .collect();
        let inside: HashSet<u32> = processes.iter().copied().collect();
        let own = |place: &Place| directory(place).is_some_and(|cgroup| holds_only(cgroup, &inside));
        let mut places: Vec<Place> =
            one_of_each.values().filter_map(|pid| finder.find(*pid).ok()).filter(own).collect();
        let all: Vec<_> = places.iter().filter_map(directory).map(Path::to_path_buf).collect();
        places.retain(|place| {
            let here = directory(place);
            let within = |other: &Path| here.is_some_and(|here| here != other && here.starts_with(other));
            !all.iter().any(|other| within(other)) && !known.iter().any(|other| here == Some(other) || within(other))
        });
        places
    }
}

/// Where the processes of a place are listed.
fn directory(place: &Place) -> Option<&Path> {
    place.processes().ok().map(|cgroup| cgroup.directory.as_path())
}

fn holds_only(cgroup: &Path, inside: &HashSet<u32>) -> bool {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    !listed.is_empty() && listed.lines().all(|pid| pid.parse().is_ok_and(|pid| inside.contains(&pid)))
}

/// Processes without a cgroup of their own can still be counted.
fn counted(processes: &[u32]) -> cgroup::Usage {
    let threads =
        processes.iter().filter_map(|pid| Some(fs::read_dir(format!("/proc/{pid}/task")).ok()?.count() as u64));
    cgroup::Usage { processes: Some(processes.len() as u64), threads: Some(threads.sum()), ..cgroup::Usage::default() }
}

fn failed(e: crate::error::Error) -> Reading {
    Reading { notes: vec![e.to_string()], ..Reading::default() }
}
