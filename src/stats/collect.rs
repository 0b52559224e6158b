//! Samples of many containers, taken by a few threads.
//!
//! Nothing is locked while reading: the sample of a container that ends meanwhile has fewer fields. Of the members of a slice
//! whose cgroups nobody told, the first has what is used in the namespace by nobody else.

use std::thread;

use super::cgroup::{Reading, Usage};
use super::sample::{Monitored, sample};
use super::sources::Sources;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::lease::record::members_of;
use crate::net::Netlink;

/// The most threads. More of them would only wait for the kernel's own lock (RTNL).
const MOST: usize = 4;
/// The fewest containers for each thread. One thread reads fewer of them faster than a second one starts.
const FEW: usize = 16;

/// Takes a sample of each member, in the order of `leases`.
pub fn collect(leases: &[Lease], from: &Sources<'_>) -> Result<Vec<Monitored>> {
    let some = |leases: &[Lease]| -> Result<Vec<Monitored>> {
        let mut netlink = Netlink::route()?;
        let mut samples = Vec::with_capacity(leases.len());
        for lease in leases {
            let unplaced = lease.members.iter().position(|member| member.cgroups.is_none());
            for (n, member) in members_of(lease).enumerate() {
                let mut one = sample(lease, member, from, &mut netlink);
                if unplaced == Some(n) {
                    enter_inhabitants(&mut one, lease, from);
                }
                samples.push(one);
            }
        }
        Ok(samples)
    };
    let workers = thread::available_parallelism().map_or(1, |n| n.get().min(MOST)).min(leases.len() / FEW).max(1);
    if workers == 1 {
        return some(leases);
    }
    thread::scope(|scope| {
        let parts: Vec<_> =
            leases.chunks(leases.len().div_ceil(workers)).map(|part| scope.spawn(move || some(part))).collect();
        let mut all = Vec::with_capacity(leases.len());
        for part in parts {
            all.extend(part.join().map_err(|_| Error::Failed("reading statistics failed".into()))??);
        }
        Ok(all)
    })
}

/// Enters what the processes in the slice's namespace use whose cgroups nobody told. All processes of the host are looked at,
/// once for all slices: nothing for who holds a lock, or has a container wait.
fn enter_inhabitants(into: &mut Monitored, lease: &Lease, from: &Sources<'_>) {
    let processes = from.holders.processes(lease.netns_id);
    let Reading { usage, notes } = from.inhabitants.read(lease, processes, from.groups.pids_and_tids);
    let own = &into.statistics.usage;
    let (cpus_limit, cpus_soft_limit) = (own.cpus_limit, own.cpus_soft_limit);
    into.statistics.usage = Usage { cpus_limit, cpus_soft_limit, ..usage };
    into.troubles.extend(notes);
}
