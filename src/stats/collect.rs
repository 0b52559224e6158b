//! Many containers at once: a sample of each, taken by a few threads.
//!
//! Nothing is locked while reading: a container that ends meanwhile has fewer fields, and may be missing.

use std::thread;

use super::sample::{Monitored, Sources, sample};
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::net::Netlink;

/// With more threads the kernel's own locks (RTNL) only make them wait.
const MOST: usize = 4;
/// What one thread does faster than a second one starts.
const FEW: usize = 16;

/// Samples of all `leases`, in their order.
pub fn collect(leases: &[Lease], from: &Sources<'_>) -> Result<Vec<Monitored>> {
    let some = |leases: &[Lease]| -> Result<Vec<Monitored>> {
        let mut netlink = Netlink::route()?;
        Ok(leases.iter().map(|lease| sample(lease, from, &mut netlink)).collect())
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
