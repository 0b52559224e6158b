//! The last word about a container: its counters as it ends, into the journal.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::lease::ledger::unix_now;
use crate::lease::{Lease, Ledger, Member};
use crate::net::Netlink;
use crate::stats::{Groups, sample};
use crate::wire::Host;

/// A line of the journal: an element of `/monitor/statistics`, and when the container came and went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finished {
    /// Unix time of the attach, in seconds.
    pub created: u64,
    /// Unix time of its end, in seconds.
    pub finished: u64,
    /// Tells it from others of the same id: one that was killed while it wrote this may have been followed by another.
    pub epoch: u32,
    /// The element.
    #[serde(flatten)]
    pub monitored: Value,
}

/// Counts a member for the last time. Its namespace is gone, or about to go, so nothing is asked there.
pub fn last(lease: &Lease, member: &Member, host: &Host, netlink: &mut Netlink) -> String {
    let from = host.sources(Groups::NONE);
    let monitored = serde_json::to_value(sample(lease, Some(member), &from, netlink)).unwrap_or_default();
    let line = Finished { created: member.created, finished: unix_now(), epoch: lease.epoch, monitored };
    serde_json::to_string(&line).unwrap_or_default()
}

/// Writes lines down, under the ledger's lock. A full disk must not keep a container from ending.
pub fn write(ledger: &Ledger, lines: &[String]) {
    for line in lines {
        if let Err(e) = ledger.journal().append(line) {
            log::warn!("{e}: the last statistics of a container are lost");
        }
    }
}

/// All that was written down, the oldest first; of one that was written down twice the first, which saw more. A line that
/// a full disk cut off is left out.
pub fn finished(ledger: &Ledger) -> Result<Vec<Finished>> {
    let parse = |line: &String| {
        let damaged = |e: &serde_json::Error| log::warn!("the journal has a damaged line: {e}");
        serde_json::from_str::<Finished>(line).inspect_err(damaged).ok()
    };
    let mut known = HashSet::new();
    let mut all: Vec<Finished> = ledger.journal().lines()?.iter().filter_map(parse).collect();
    all.retain(|one| known.insert((one.monitored["container_id"].to_string(), one.epoch, one.created)));
    Ok(all)
}
