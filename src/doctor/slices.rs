//! Slices, and the host's part of them: everything that is not as it is remembered and planned, as fsck sees it.

use std::collections::BTreeMap;

use super::{Finding, Scene, fail, ok, some_of, unseen, warn};
use crate::lease::Ledger;
use crate::plan::Step;
use crate::plan::host::bpf_directory;
use crate::slice::fsck::{About, Difference, fsck};
use crate::slice::ready::peek_recorded;
use crate::steer::program::VERSION;
use crate::wire::programs::is_mounted;

/// Differences that one command mends for one reason are one finding, whoever shows them.
pub fn look(scene: &Scene<'_>) -> Vec<Finding> {
    // Why nothing can be looked at then is said already.
    if scene.facts.is_none() || (scene.record.ready && !is_mounted(&bpf_directory(&scene.config.state_dir))) {
        return Vec::new();
    }
    if let Some(Err(e)) = scene.record.ready.then(|| peek_recorded(scene.config)) {
        let why = "containers that run go on, but none can start or end";
        return vec![fail("host", e.to_string(), why, scene.command("sync"))];
    }
    let (differences, ids) =
        match fsck(scene.config).and_then(|found| Ok((found, Ledger::at(&scene.config.state_dir).ids()?))) {
            Ok(found) => found,
            Err(e) => return vec![unseen("containers", &e)],
        };
    let mut findings: Vec<Finding> = differences
        .iter()
        .filter(|difference| difference.of == HOST)
        .map(|difference| of_host(scene, difference))
        .collect();
    if another_version(scene) {
        let seen = format!("programs of version {} steer packets, this is version {VERSION}", scene.record.version);
        let why = "containers work, and the new version's mends and changes take effect only when its programs run";
        findings.push(warn("host", seen, why, scene.command("setup")));
    }
    findings.extend(of_slices(scene, &differences));
    findings.push(ok(
        "containers",
        match ids.len() {
            1 => "1 container".to_owned(),
            count => format!("{count} containers"),
        },
    ));
    findings
}

/// What fsck calls the host.
const HOST: &str = "host";

/// Is the host prepared by another version?
fn another_version(scene: &Scene<'_>) -> bool {
    scene.record.ready && scene.record.version != VERSION
}

fn of_host(scene: &Scene<'_>, difference: &Difference) -> Finding {
    let (why, command) = match &difference.about {
        About::Record => ("no container can start; the kernel has a copy of the record", "fsck --rebuild"),
        About::Ended | About::Facts | About::Altered => {
            ("packets go by what the host was: some of them into the void", "sync")
        }
        About::Step(step) => (why_host(step), "sync"),
    };
    fail("host", &difference.what, why, scene.command(command))
}

/// Slices that differ in the same way are named together.
fn of_slices(scene: &Scene<'_>, differences: &[Difference]) -> Vec<Finding> {
    let mut slices: BTreeMap<&str, Vec<&Difference>> = BTreeMap::new();
    for difference in differences.iter().filter(|difference| difference.of != HOST) {
        slices.entry(&difference.of).or_default().push(difference);
    }
    let mut alike: BTreeMap<(String, Kind), Vec<String>> = BTreeMap::new();
    for (id, differences) in slices {
        let kind = differences.iter().map(|difference| Kind::of(&difference.about)).max().unwrap_or(Kind::Altered);
        let of_kind = differences.iter().filter(|difference| Kind::of(&difference.about) == kind);
        let what: Vec<&str> = of_kind.map(|difference| difference.what.as_str()).collect();
        alike.entry((what.join("; "), kind)).or_default().push(id.to_owned());
    }
    let finding = |((what, kind), ids): ((String, Kind), Vec<String>)| {
        let ids = some_of(&ids);
        match kind {
            Kind::Stale => fail("containers", format!("{ids}: {what}"), WHY_STALE, scene.command("sync")),
            Kind::Record => fail("containers", format!("{ids}: {what}"), WHY_RECORD, scene.command("fsck --rebuild")),
            Kind::Altered => ok("containers", format!("{ids}: {what} (altered by itself)")),
            Kind::Ended => warn("containers", format!("{ids}: {what}"), WHY_ENDED, scene.command("gc")),
        }
    };
    alike.into_iter().map(finding).collect()
}

const WHY_STALE: &str = "a container carries what the host has, as it was when it started or was synced last: where the two differ, \
                         its connections fail";
const WHY_RECORD: &str = "its ports count as taken, and neither `detach` nor `gc` can give them back";
const WHY_ENDED: &str = "it still holds its ports";

/// What mends a slice; the last one goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Altered,
    Stale,
    Record,
    Ended,
}

impl Kind {
    fn of(about: &About) -> Self {
        match about {
            About::Altered => Kind::Altered,
            About::Facts | About::Step(_) => Kind::Stale,
            About::Record => Kind::Record,
            About::Ended => Kind::Ended,
        }
    }
}

fn why_host(step: &Step) -> &'static str {
    match step {
        Step::Reserve { .. } => "the host's own connections may take ports of containers, and no container can start",
        Step::Setting { .. } => "lo drops what the data path hands to it: host and containers do not reach each other",
        Step::Mount { .. } => "containers that run go on, but none can start or end",
        Step::Load { .. } => "what the programs are found by is gone: containers cannot start or end",
        Step::Hook { program: "from_lo", .. } => "the host does not reach its containers",
        Step::Hook { .. } => "nothing from outside reaches containers",
        Step::Allmulti { .. } => "containers may not hear the groups that they join",
        Step::Fair { .. } => "one container's traffic can crowd out the others'",
        Step::Shaper => "limited containers cannot send",
        Step::Sockets { .. } => "bind() of a port that is somebody else's succeeds, and nothing ever comes to it",
        _ => "the host is not as containers need it",
    }
}
