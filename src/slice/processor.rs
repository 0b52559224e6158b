//! CPU limits of a container as part of its slice: finding its cgroups, giving it what it asks for, putting back what
//! was there.
//!
//! What does not live here: formulas, files and systemd ([`crate::cpu`]).

use crate::config::Config;
use crate::cpu::{self, Controller, Place, Policy, Roots, Systemd, Units, Values};
use crate::error::{Error, Result};
use crate::lease::{CpuTerms, Lease};

/// What the configuration says.
pub fn policy(config: &Config) -> Policy {
    Policy { enable_cfs: config.enable_cfs, revocable_cpu_low_priority: config.revocable_cpu_low_priority }
}

/// The cgroups of a process. Not having any of its own, or none that can be found, is no reason to start no container.
pub fn find(pid: u32) -> Option<Place> {
    Place::find(pid, &Roots::default()).inspect_err(|e| log::debug!("{e}")).ok()
}

/// Gives the container the CPUs it asks for, or back what its runtime gave it when it asks no more. On failure nothing
/// has changed.
///
/// Without a cgroup of its own it cannot be held to anything: asked for a limit, that is a refusal; CPUs alone, which
/// bandwidth limits may scale with, are a warning.
pub fn apply(config: &Config, lease: &mut Lease) -> Result<()> {
    let asked = lease.terms.asked.cpu();
    if asked.cpus.is_none() && asked.limit.is_none() {
        return restore(lease);
    }
    let own = match &lease.cgroups {
        Some(place) => place.of(Controller::Cpu).map(|_| place),
        None => Err(Error::unsupported(
            format!("no process of container {} is known, and so no cgroup that could hold its CPUs", lease.id),
            "attach it with --pid",
        )),
    };
    let place = match own {
        Err(e @ Error::Unsupported { .. }) if asked.limit.is_none() => {
            log::warn!("{}: its CPU shares stay as they are: {e}", lease.id);
            return Ok(());
        }
        own => own?,
    };
    let systemd = Systemd::running(&Roots::default());
    let applied = cpu::apply(place, &asked, &policy(config), units(&systemd))?;
    for note in &applied.notes {
        log::warn!("{}: {note}", lease.id);
    }
    let first = lease.cpu.before;
    let before = Values {
        weight: first.weight.or(applied.before.weight),
        bandwidth: first.bandwidth.or(applied.before.bandwidth),
    };
    lease.cpu = CpuTerms { now: applied.now, before, notes: applied.notes };
    Ok(())
}

/// Puts back what stood there before the first time.
pub fn restore(lease: &mut Lease) -> Result<()> {
    if let Some(place) = &lease.cgroups {
        let systemd = Systemd::running(&Roots::default());
        match cpu::restore(place, &lease.cpu.before, units(&systemd)) {
            // it went with its container
            Err(Error::NotFound(_)) | Ok(()) => {}
            Err(e) => return Err(e),
        }
    }
    lease.cpu = CpuTerms::default();
    Ok(())
}

fn units(systemd: &Option<Systemd>) -> Option<&dyn Units> {
    systemd.as_ref().map(|systemd| systemd as &dyn Units)
}
