//! What power a container has over more than its own network, asked of its processes.

use crate::host::process::has_net_admin;
use crate::lease::{Lease, Member};
use crate::net::holders::Holders;

/// Has a process of a member CAP_NET_ADMIN over the host's network as well? Of one that was attached by a path, every process
/// in the namespace that is no other member's counts.
pub fn is_net_admin(lease: &Lease, member: &Member, holders: &Holders) -> bool {
    match member.pid {
        Some(pid) => has_net_admin(pid),
        None => {
            let others: Vec<u32> = lease.members.iter().filter_map(|other| other.pid).collect();
            let processes = holders.processes(lease.netns_id).iter();
            processes.filter(|pid| !others.contains(pid)).any(|pid| has_net_admin(*pid))
        }
    }
}
