//! The CPU limits of a member: finding its cgroups, giving it what it asks for, putting back what was there.
//!
//! What does not live here: formulas, files and systemd ([`crate::cpu`]).

use crate::config::Config;
use crate::cpu::{self, Controller, Intended, Place, Policy, Roots, Systemd, Units, Values};
use crate::error::{Error, Result};
use crate::lease::{CpuTerms, Member};
use crate::plan::step::CpuStep;

/// The cgroups of a process. Not having any of its own, or none that can be found, is no reason to start no container.
pub fn find(pid: u32) -> Option<Place> {
    Place::find(pid, &Roots::default()).inspect_err(|e| log::debug!("{e}")).ok()
}

/// The cgroups at a path, in the same way; `None` if there are none yet. containerd 1.7 tells of a pod's cgroup, and asks for
/// its network before anybody has made it: what will run there is found by the namespace then.
pub fn at(path: &str) -> Option<Place> {
    let place = Place::at(path, &Roots::default()).inspect_err(|e| log::debug!("{e}")).ok()?;
    place.processes().inspect_err(|e| log::debug!("{e}")).is_ok().then_some(place)
}

/// Decides what a member gets in its cgroup for what it asks for, and notes what stands there. Nothing is written: the lease
/// has to be recorded first, so that whoever finds it can put everything back.
///
/// Without a cgroup of its own it cannot be held to anything: asked for a limit, that is a refusal; CPUs alone, which
/// bandwidth limits may scale with, are a note.
pub fn intend(config: &Config, member: &mut Member) -> Result<()> {
    let asked = member.asked.terms();
    let policy =
        Policy { enable_cfs: config.enable_cfs, revocable_cpu_low_priority: config.revocable_cpu_low_priority };
    let intended = match own(member) {
        _ if asked.cpus.is_none() && asked.limit.is_none() => Intended::default(),
        // The members of a pod carry its CPU terms, not the process that holds its namespaces; the pod's own are the kubelet's.
        _ if member.sandbox => Intended::default(),
        Err(e @ Error::Unsupported { .. }) if asked.limit.is_none() => {
            Intended { notes: vec![format!("its CPU shares stay as they are: {e}")], ..Intended::default() }
        }
        place => {
            let systemd = Systemd::running(&Roots::default());
            cpu::intend(place?, &asked, &policy, units(&systemd))?
        }
    };
    for note in &intended.notes {
        log::warn!("{}: {note}", member.id);
    }
    // What stands there now may be ours already.
    let before = member.cpu.before.or(intended.before);
    member.cpu = CpuTerms { now: intended.now, before, notes: intended.notes };
    Ok(())
}

/// Gives the member what was decided, and back what its runtime gave it where nothing was. One that ended needs nothing.
pub fn perform(it: &CpuStep) -> Result<()> {
    let Some(place) = &it.cgroups else { return Ok(()) };
    let systemd = Systemd::running(&Roots::default());
    match cpu::set(place, &it.terms.now.or(it.terms.before), units(&systemd)) {
        // A container that ended took its cgroup along.
        Err(Error::NotFound(_)) => Ok(()),
        done => done,
    }
}

/// Puts back what stood there before the first time, unless somebody else has set something since. Where a run was killed
/// half-way (`doubtful`) nobody can tell, and it is put back in any case.
pub fn undo(it: &CpuStep, doubtful: bool) -> Result<()> {
    let CpuTerms { now, before, .. } = it.terms;
    let (Some(place), true) = (&it.cgroups, before != Values::default()) else { return Ok(()) };
    let systemd = Systemd::running(&Roots::default());
    let ours = |found: Values| if doubtful { before } else { before.where_unchanged(&now, &found) };
    match cpu::read(place, &before).and_then(|found| cpu::set(place, &ours(found), units(&systemd))) {
        Err(Error::NotFound(_)) => cpu::forget(place, &before, units(&systemd)),
        done => done,
    }
}

/// What differs from the plan.
pub fn look(it: &CpuStep) -> Result<Vec<String>> {
    // Where nothing could be written there is nothing to look at.
    let Some(place) = it.cgroups.as_ref().filter(|_| it.terms.now != Values::default()) else { return Ok(Vec::new()) };
    match cpu::read(place, &it.terms.now) {
        Ok(there) if there == it.terms.now => Ok(Vec::new()),
        Ok(_) => Ok(vec![format!("the CPU limits of {} are not those that were written", it.member)]),
        Err(Error::NotFound(why)) => Ok(vec![why]),
        Err(e) => Err(e),
    }
}

fn own(member: &Member) -> Result<&Place> {
    let Some(place) = &member.cgroups else {
        return Err(Error::unsupported(
            format!(
                "container {} has no cgroup that could hold its CPUs: it is a pod's sandbox, or has no process yet",
                member.id
            ),
            "leave a pod's CPUs to the kubelet; else attach it with --pid",
        ));
    };
    place.of(Controller::Cpu).map(|_| place)
}

fn units(systemd: &Option<Systemd>) -> Option<&dyn Units> {
    systemd.as_ref().map(|systemd| systemd as &dyn Units)
}
