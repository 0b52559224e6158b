//! A thread that reads every container's counters at an interval, for the percentiles of rates.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::lock::locked;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::stand_back;
use crate::lease::{Lease, Leases};
use crate::net::Netlink;
use crate::slice::ready::peek;
use crate::stats::rates::{Rates, Sampling, Snapshot};
use crate::stats::{Groups, Monitored, net};

/// The samples so far, by the lease's epoch: a new container under the same id has a new epoch, and no samples yet.
#[derive(Clone)]
pub struct Sampled {
    sampling: Sampling,
    by_epoch: Arc<Mutex<HashMap<u32, Rates>>>,
}

/// Starts the thread, if the configuration asks for rates. The thread ends with the process.
pub fn start(config: Arc<Config>, leases: Arc<Mutex<Leases>>) -> Result<Option<Sampled>> {
    let Some(sampling) = Sampling::of(&config) else { return Ok(None) };
    let sampled = Sampled { sampling, by_epoch: Arc::default() };
    let into = sampled.clone();
    thread::Builder::new()
        .name("rates".into())
        .spawn(move || into.run(&config, &leases))
        .map_err(|e| Error::Failed(format!("cannot start a thread: {e}")))?;
    Ok(Some(sampled))
}

impl Sampled {
    /// Enters the rates of each slice where its network's counters are.
    pub fn enter(&self, containers: &mut [Monitored]) {
        let by_epoch = locked(&self.by_epoch);
        for container in containers.iter_mut().filter(|container| container.counts_network) {
            let rates = by_epoch.get(&container.epoch);
            container.statistics.net.net_rate_statistics = rates.and_then(|rates| rates.statistics(&self.sampling));
        }
    }

    fn run(&self, config: &Config, leases: &Mutex<Leases>) {
        stand_back();
        let mut next = Instant::now();
        let mut logged = None;
        loop {
            let done = self.look(config, leases).map_err(|e| e.to_string());
            // an error that comes again at every look is logged once
            if let Err(e) = &done
                && logged.as_ref() != Some(e)
            {
                log::error!("{e}: no rates are sampled");
            }
            logged = done.err();
            // after a look that took too long, the interval begins anew
            next = (next + self.sampling.interval).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn look(&self, config: &Config, leases: &Mutex<Leases>) -> Result<()> {
        let leases = locked(leases).now()?;
        let Some(host) = peek(config)? else {
            locked(&self.by_epoch).clear();
            return Ok(());
        };
        let sources = host.sources(Groups::NONE);
        let mut netlink = Netlink::route()?;
        let read = |lease: &Lease| {
            let snapshot = net::read(lease, &sources, &mut netlink).net.snapshot()?;
            Some((lease.epoch, Instant::now(), snapshot))
        };
        let snapshots: Vec<(u32, Instant, Snapshot)> = leases.iter().filter_map(read).collect();
        let mut by_epoch = locked(&self.by_epoch);
        by_epoch.retain(|epoch, _| leases.iter().any(|lease| lease.epoch == *epoch));
        for (epoch, at, snapshot) in snapshots {
            by_epoch.entry(epoch).or_default().add(at, snapshot, &self.sampling);
        }
        Ok(())
    }
}
