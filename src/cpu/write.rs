//! Writing CPU limits into the container's cgroup, all of them or none, and putting back what was there.
//!
//! The files are written by cgroups-rs, and read here, since it cannot tell a missing cgroup from an idle one. What does
//! not live here: what is to be written (`share`), and where (`place`).

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::PathBuf;

use cgroups_rs::fs::cpu::CpuController;
use serde::{Deserialize, Serialize};

use super::place::{Cgroup, Controller, Place, Version};
use super::share::{self, Asked, PERIOD, Policy, Quota};
use super::systemd::{self, Units};
use crate::error::{Error, Result};
use crate::refusal::quoted;

/// CPU limits as a cgroup has them. `None`: not touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Values {
    /// v1 `cpu.shares`, v2 `cpu.weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// v1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`, v2 `cpu.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// How much CPU time may be used in which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Of all CPUs together.
    pub quota: Quota,
    /// Microseconds.
    pub period: u64,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intended {
    /// What is to be written.
    pub now: Values,
    /// What stands there; nothing where nothing is to be written.
    pub before: Values,
    /// One line for each value that is not what was asked for.
    pub notes: Vec<String>,
}

impl Values {
    /// These, and those of `other` where there is none here.
    pub fn or(self, other: Values) -> Values {
        Values { weight: self.weight.or(other.weight), bandwidth: self.bandwidth.or(other.bandwidth) }
    }

    /// Those of `instead` for which these are as in `expected`.
    pub fn agreeing(self, expected: &Values, instead: Values) -> Values {
        Values {
            weight: instead.weight.filter(|_| self.weight == expected.weight),
            bandwidth: instead.bandwidth.filter(|_| self.bandwidth == expected.bandwidth),
        }
    }

    /// Those of which `other` has one, too.
    pub fn like(self, other: &Values) -> Values {
        Values {
            weight: self.weight.filter(|_| other.weight.is_some()),
            bandwidth: self.bandwidth.filter(|_| other.bandwidth.is_some()),
        }
    }
}

/// What gives the container at `place` what it asks for, and what it has now: to be kept somewhere safe before it is
/// written by [`set`]. `units`: systemd, where it runs.
///
/// Nothing asked: nothing is to be written, nor is it looked whether there is a cgroup to write to.
pub fn intend(place: &Place, asked: &Asked, policy: &Policy, units: Option<&dyn Units>) -> Result<Intended> {
    if asked.cpus.is_none() && asked.limit.is_none() {
        return Ok(Intended::default());
    }
    let site = Site::at(place.of(Controller::Cpu)?, units)?;
    let share::Settings { weight, mut quota, mut notes } = share::settings(asked, policy, site.cgroup.version);
    if let (Some((unit, _)), Some(exact)) = (&site.unit, quota) {
        let kept = systemd::kept(exact);
        if let (Quota::Micros(from), Quota::Micros(to)) = (exact, kept)
            && from != to
        {
            notes.push(format!(
                "systemd keeps whole percents of a CPU: a quota of {to} instead of {from} us for {unit}"
            ));
        }
        quota = Some(kept);
    }
    let now = Values { weight, bandwidth: quota.map(|quota| Bandwidth { quota, period: PERIOD }) };
    let before = site.read(&now)?;
    Ok(Intended { now, before, notes })
}

/// What stands in the cgroup of the container at `place`, as far as `like` has it.
pub fn read(place: &Place, like: &Values) -> Result<Values> {
    Site::at(place.of(Controller::Cpu)?, None)?.read(like)
}

/// Writes `values` into the cgroup of the container at `place`. On failure everything is as it was found.
pub fn set(place: &Place, values: &Values, units: Option<&dyn Units>) -> Result<()> {
    if *values == Values::default() {
        return Ok(());
    }
    let site = Site::at(place.of(Controller::Cpu)?, units)?;
    site.turn(&site.read(values)?, values)
}

/// Has systemd put back what stood in the cgroup of a container that ended. A scope ends with its processes, but a
/// service would have its limits again whenever it starts.
pub fn forget(place: &Place, before: &Values, units: Option<&dyn Units>) -> Result<()> {
    let cgroup = place.of(Controller::Cpu)?;
    let unit = systemd::unit(&cgroup.path).filter(|unit| !unit.ends_with(".scope"));
    let (Some(unit), Some(units)) = (unit, units) else { return Ok(()) };
    if *before == Values::default() {
        return Ok(());
    }
    match units.set(unit, &systemd::properties(cgroup.version, before, PERIOD)) {
        Err(Error::NotFound(_)) => Ok(()),
        told => told,
    }
}

/// A cgroup, and the unit whose it is.
struct Site<'a> {
    cgroup: &'a Cgroup,
    unit: Option<(&'a str, &'a dyn Units)>,
    files: CpuController,
}

impl<'a> Site<'a> {
    /// Fails when the cgroup is not there any more.
    fn at(cgroup: &'a Cgroup, units: Option<&'a dyn Units>) -> Result<Self> {
        cgroup.present()?;
        let files = CpuController::new(cgroup.directory.clone(), PathBuf::new(), cgroup.version == Version::V2);
        Ok(Self { cgroup, unit: systemd::unit(&cgroup.path).zip(units), files })
    }

    /// As much as `like` has.
    fn read(&self, like: &Values) -> Result<Values> {
        let v1 = self.cgroup.version == Version::V1;
        let weight = || self.number(if v1 { "cpu.shares" } else { "cpu.weight" }, |text| text.parse::<u64>().ok());
        let bandwidth = || {
            if !v1 {
                return self.number("cpu.max", maximum);
            }
            let quota = self.number("cpu.cfs_quota_us", |text| {
                let quota = text.parse::<i64>().ok()?;
                Some(u64::try_from(quota).map_or(Quota::Unlimited, Quota::Micros))
            })?;
            let period = self.number("cpu.cfs_period_us", |text| text.parse::<u64>().ok())?;
            Ok(Bandwidth { quota, period })
        };
        Ok(Values {
            weight: like.weight.map(|_| weight()).transpose()?,
            bandwidth: like.bandwidth.map(|_| bandwidth()).transpose()?,
        })
    }

    /// From `old` to `new`, or nowhere. Both have the same parts.
    ///
    /// systemd first, which then knows what it will write when it reloads. The files too, like runc does: it writes them
    /// some time after it answered, and before version 245 not at all when a limit is taken away.
    fn turn(&self, old: &Values, new: &Values) -> Result<()> {
        self.tell(old, new)?;
        self.write(old, new).inspect_err(|_| {
            for again in [self.tell(new, old), self.write(new, old)].into_iter().filter_map(Result::err) {
                log::error!("{again}, while going back to what was before");
            }
        })
    }

    fn tell(&self, old: &Values, new: &Values) -> Result<()> {
        let Some((unit, units)) = self.unit else { return Ok(()) };
        let period = old.bandwidth.map_or(PERIOD, |b| b.period);
        match units.set(unit, &systemd::properties(self.cgroup.version, new, period)) {
            // somebody else made a cgroup with such a name, and nobody will revert it
            Err(Error::NotFound(why)) => {
                log::debug!("{why}");
                Ok(())
            }
            told => told,
        }
    }

    fn write(&self, old: &Values, new: &Values) -> Result<()> {
        if let Some(weight) = new.weight {
            self.written("its weight", self.files.set_shares(weight))?;
        }
        let Some(bandwidth) = new.bandwidth else { return Ok(()) };
        let quota = match bandwidth.quota {
            Quota::Micros(quota) => i64::try_from(quota).unwrap_or(i64::MAX),
            Quota::Unlimited => -1,
        };
        if self.cgroup.version == Version::V2 {
            let set = self.files.set_cfs_quota_and_period(Some(quota), Some(bandwidth.period));
            return self.written("its quota", set);
        }
        // what is in effect now need not be allowed with the other period, but no quota always is
        if old.bandwidth.is_none_or(|b| b.period != bandwidth.period) {
            self.written("its quota", self.files.set_cfs_quota(-1))?;
            self.written("its period", self.files.set_cfs_period(bandwidth.period))?;
        }
        self.written("its quota", self.files.set_cfs_quota(quota))
    }

    fn number<T>(&self, file: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let path = self.cgroup.directory.join(file);
        let text = fs::read_to_string(&path).map_err(|e| match self.cgroup.present() {
            Err(gone) => gone,
            Ok(_) => Error::file("read", &path)(e),
        })?;
        let text = text.trim();
        parse(text).ok_or_else(|| {
            Error::Failed(format!(
                "{} holds {}, which is not what the kernel writes there",
                path.display(),
                quoted(text)
            ))
        })
    }

    fn written(&self, what: &str, done: cgroups_rs::fs::error::Result<()>) -> Result<()> {
        done.map_err(|e| {
            let cause = e.source().and_then(|cause| cause.downcast_ref::<io::Error>());
            let errno = cause.and_then(io::Error::raw_os_error);
            let hint = match errno {
                Some(libc::EINVAL) => {
                    ": the kernel refuses it when a cgroup above has less, one below has more, cpu.idle is set, or a \
                     burst is larger"
                }
                _ => "",
            };
            let why = cause.map_or_else(|| e.to_string(), io::Error::to_string);
            Error::Failed(format!("cannot write {what} into {}: {why}{hint}", self.cgroup.directory.display()))
        })
    }
}

/// `cpu.max`: the quota or `max`, and the period.
fn maximum(text: &str) -> Option<Bandwidth> {
    let (quota, period) = text.split_once(' ')?;
    let quota = if quota == "max" { Quota::Unlimited } else { Quota::Micros(quota.parse().ok()?) };
    Some(Bandwidth { quota, period: period.parse().ok()? })
}
