//! The last word about a container: its counters as it ends, into the journal.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::lease::ledger::unix_now;
use crate::lease::{Lease, Ledger, Member};
use crate::net::Netlink;
use crate::stats::net::Net;
use crate::stats::{Groups, Monitored, sample};
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
    line(lease, member, sample(lease, Some(member), &host.sources(Groups::NONE), netlink))
}

/// The same for a member that leaves. While others stay, the network's counters go on, and the last member tells them: told
/// by each that was the first for a while, they would be counted several times.
pub fn leaving(lease: &Lease, member: &Member, host: &Host, netlink: &mut Netlink) -> String {
    let mut monitored = sample(lease, Some(member), &host.sources(Groups::NONE), netlink);
    if lease.members.len() > 1 {
        monitored.statistics.net = Net::default();
    }
    line(lease, member, monitored)
}

fn line(lease: &Lease, member: &Member, monitored: Monitored) -> String {
    let monitored = serde_json::to_value(monitored).unwrap_or_default();
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
