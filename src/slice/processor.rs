//! CPU limits of a container as part of its slice: finding its cgroups, giving it what it asks for, putting back what
//! was there.
//!
//! What does not live here: formulas, files and systemd ([`crate::cpu`]).

use crate::config::Config;
use crate::cpu::{self, Controller, Intended, Place, Policy, Roots, Systemd, Units, Values};
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

/// Decides what the container gets in its cgroup for what its terms ask for, and notes in its lease what stands there.
/// Nothing is written: the lease has to be in its file first, so that whoever finds it can put everything back.
///
/// Without a cgroup of its own it cannot be held to anything: asked for a limit, that is a refusal; CPUs alone, which
/// bandwidth limits may scale with, are a note.
pub fn intend(config: &Config, lease: &mut Lease) -> Result<()> {
    let asked = lease.terms.asked.cpu();
    let intended = match own(lease) {
        _ if asked.cpus.is_none() && asked.limit.is_none() => Intended::default(),
        Err(e @ Error::Unsupported { .. }) if asked.limit.is_none() => {
            Intended { notes: vec![format!("its CPU shares stay as they are: {e}")], ..Intended::default() }
        }
        place => {
            let systemd = Systemd::running(&Roots::default());
            cpu::intend(place?, &asked, &policy(config), units(&systemd))?
        }
    };
    for note in &intended.notes {
        log::warn!("{}: {note}", lease.id);
    }
    // what stands there now may be ours already
    let before = lease.cpu.before.or(intended.before);
    lease.cpu = CpuTerms { now: intended.now, before, notes: intended.notes };
    Ok(())
}

/// Gives the container what was decided, and back what its runtime gave it where nothing was. On failure everything is
/// as it was found. One that ended meanwhile needs nothing.
pub fn apply(lease: &mut Lease) -> Result<()> {
    unless_gone(set(lease, &lease.cpu.now.or(lease.cpu.before)))?;
    lease.cpu.before = lease.cpu.before.only_fields_of(&lease.cpu.now);
    Ok(())
}

/// Decides anew for a change that did not come about; of a container that ended there is nothing to decide.
pub fn reconsider(config: &Config, lease: &mut Lease) -> Result<()> {
    unless_gone(intend(config, lease))
}

/// Puts back what stood there before the first time, unless somebody else has set something since. Where a run was
/// killed half-way (`torn`) nobody can tell, and it is put back in any case.
pub fn restore(lease: &mut Lease, torn: bool) -> Result<()> {
    let CpuTerms { now, before, .. } = lease.cpu;
    if let (Some(place), true) = (&lease.cgroups, before != Values::default()) {
        let systemd = Systemd::running(&Roots::default());
        let ours = |found: Values| if torn { before } else { before.where_unchanged(&now, &found) };
        match cpu::read(place, &before).and_then(|found| cpu::set(place, &ours(found), units(&systemd))) {
            Err(Error::NotFound(_)) => cpu::forget(place, &before, units(&systemd))?,
            done => done?,
        }
    }
    lease.cpu = CpuTerms::default();
    Ok(())
}

/// A container that ended took its cgroup along.
fn unless_gone(done: Result<()>) -> Result<()> {
    match done {
        Err(Error::NotFound(_)) => Ok(()),
        done => done,
    }
}

fn own(lease: &Lease) -> Result<&Place> {
    let Some(place) = &lease.cgroups else {
        return Err(Error::unsupported(
            format!(
                "container {} has no cgroup that could hold its CPUs: it is a pod's sandbox, or has no process yet",
                lease.id
            ),
            "leave a pod's CPUs to the kubelet; else attach it with --pid",
        ));
    };
    place.of(Controller::Cpu).map(|_| place)
}

fn set(lease: &Lease, values: &Values) -> Result<()> {
    let Some(place) = &lease.cgroups else { return Ok(()) };
    let systemd = Systemd::running(&Roots::default());
    cpu::set(place, values, units(&systemd))
}

fn units(systemd: &Option<Systemd>) -> Option<&dyn Units> {
    systemd.as_ref().map(|systemd| systemd as &dyn Units)
}
