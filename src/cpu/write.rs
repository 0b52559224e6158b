//! Writing CPU limits into the container's cgroup, all of them or none, and putting the former limits back.
//!
//! The files are written by cgroups-rs and read here, because cgroups-rs cannot tell a missing cgroup from an idle one.
//! What does not live here: computing the values (`share`), and finding the cgroup (`place`).

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::PathBuf;

use cgroups_rs::fs::cpu::CpuController;

use super::place::{Cgroup, Controller, Place};
use super::share::{self, Asked, Policy};
use super::systemd::{self, Units};
use super::unit::unit_of;
use super::values::{Bandwidth, PERIOD, Quota, Values};
use super::version::Version;
use crate::error::{Error, Result};
use crate::refusal::quoted;

/// The values to write for a container, and those that they replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intended {
    /// The values to write.
    pub now: Values,
    /// The cgroup's values at present, in those fields that are to be written.
    pub before: Values,
    /// One line for each value that differs from what was asked for.
    pub notes: Vec<String>,
}

/// Decides the values for the container at `place`, and reads those that they replace: to be stored before [`set`] writes.
/// `units`: systemd, if this host runs it.
///
/// Where nothing is asked, nothing is to be written, and the container needs no cgroup.
pub fn intend(place: &Place, asked: &Asked, policy: &Policy, units: Option<&dyn Units>) -> Result<Intended> {
    if asked.cpus.is_none() && asked.limit.is_none() {
        return Ok(Intended::default());
    }
    let site = Site::at(place.of(Controller::Cpu)?, units)?;
    let share::Settings { weight, mut quota, mut notes } = share::settings(asked, policy, site.cgroup.version);
    if let (Some((unit, _)), Some(exact)) = (&site.unit, quota) {
        let whole = systemd::in_whole_percents(exact);
        if let (Quota::Micros(from), Quota::Micros(to)) = (exact, whole)
            && from != to
        {
            notes.push(format!(
                "systemd keeps whole percents of a CPU: a quota of {to} instead of {from} us for {unit}"
            ));
        }
        quota = Some(whole);
    }
    let now = Values { weight, bandwidth: quota.map(|quota| Bandwidth { quota, period: PERIOD }) };
    let before = site.read(&now)?;
    Ok(Intended { now, before, notes })
}

/// Reads the values of the cgroup of the container at `place`: those fields that `fields` has.
pub fn read(place: &Place, fields: &Values) -> Result<Values> {
    Site::at(place.of(Controller::Cpu)?, None)?.read(fields)
}

/// Writes `values` into the cgroup of the container at `place`. On failure the former values are put back.
pub fn set(place: &Place, values: &Values, units: Option<&dyn Units>) -> Result<()> {
    if *values == Values::default() {
        return Ok(());
    }
    let site = Site::at(place.of(Controller::Cpu)?, units)?;
    site.replace(&site.read(values)?, values)
}

/// Gives systemd back the values `before` for the unit of a container that ended. Otherwise a service would have the
/// container's limits again whenever it starts. A scope needs nothing: it ends with its processes.
pub fn forget(place: &Place, before: &Values, units: Option<&dyn Units>) -> Result<()> {
    let cgroup = place.of(Controller::Cpu)?;
    let unit = unit_of(&cgroup.path).filter(|unit| !unit.ends_with(".scope"));
    let (Some(unit), Some(units)) = (unit, units) else { return Ok(()) };
    if *before == Values::default() {
        return Ok(());
    }
    match units.set(unit, &systemd::properties(cgroup.version, before, PERIOD)) {
        Err(Error::NotFound(_)) => Ok(()),
        result => result,
    }
}

/// A cgroup, and the systemd unit that it belongs to, if any.
struct Site<'a> {
    cgroup: &'a Cgroup,
    unit: Option<(&'a str, &'a dyn Units)>,
    files: CpuController,
}

impl<'a> Site<'a> {
    /// Fails with `NotFound` when the cgroup is gone.
    fn at(cgroup: &'a Cgroup, units: Option<&'a dyn Units>) -> Result<Self> {
        cgroup.present()?;
        let files = CpuController::new(cgroup.directory.clone(), PathBuf::new(), cgroup.version == Version::V2);
        Ok(Self { cgroup, unit: unit_of(&cgroup.path).zip(units), files })
    }

    /// Reads those fields that `fields` has.
    fn read(&self, fields: &Values) -> Result<Values> {
        let v1 = self.cgroup.version == Version::V1;
        let weight = || self.parse(if v1 { "cpu.shares" } else { "cpu.weight" }, |text| text.parse::<u64>().ok());
        let bandwidth = || {
            if !v1 {
                return self.parse("cpu.max", cpu_max);
            }
            let quota = self.parse("cpu.cfs_quota_us", |text| {
                let quota = text.parse::<i64>().ok()?;
                Some(u64::try_from(quota).map_or(Quota::Unlimited, Quota::Micros))
            })?;
            let period = self.parse("cpu.cfs_period_us", |text| text.parse::<u64>().ok())?;
            Ok(Bandwidth { quota, period })
        };
        Ok(Values {
            weight: fields.weight.map(|_| weight()).transpose()?,
            bandwidth: fields.bandwidth.map(|_| bandwidth()).transpose()?,
        })
    }

    /// Replaces the values `old` with `new`; on failure puts `old` back. Both have the same fields.
    ///
    /// First systemd learns the values, because it writes those that it knows whenever it reloads. Then the files are
    /// written here too, as runc does: systemd writes them some time after its answer, and before version 245 it does not
    /// write them at all when a limit is taken away.
    fn replace(&self, old: &Values, new: &Values) -> Result<()> {
        self.tell_systemd(old, new)?;
        self.write_files(old, new).inspect_err(|_| {
            for e in [self.tell_systemd(new, old), self.write_files(new, old)].into_iter().filter_map(Result::err) {
                log::error!("{e}, while putting the former CPU limits back");
            }
        })
    }

    /// Does nothing where the cgroup is no unit's, or systemd does not know the unit.
    fn tell_systemd(&self, old: &Values, new: &Values) -> Result<()> {
        let Some((unit, units)) = self.unit else { return Ok(()) };
        let period = old.bandwidth.map_or(PERIOD, |b| b.period);
        match units.set(unit, &systemd::properties(self.cgroup.version, new, period)) {
            // a cgroup that only looks like a unit's: systemd will not overwrite its files
            Err(Error::NotFound(why)) => {
                log::debug!("{why}");
                Ok(())
            }
            result => result,
        }
    }

    fn write_files(&self, old: &Values, new: &Values) -> Result<()> {
        if let Some(weight) = new.weight {
            self.explained("its weight", self.files.set_shares(weight))?;
        }
        let Some(bandwidth) = new.bandwidth else { return Ok(()) };
        let quota = match bandwidth.quota {
            Quota::Micros(quota) => i64::try_from(quota).unwrap_or(i64::MAX),
            Quota::Unlimited => -1,
        };
        if self.cgroup.version == Version::V2 {
            let set = self.files.set_cfs_quota_and_period(Some(quota), Some(bandwidth.period));
            return self.explained("its quota", set);
        }
        // the kernel may refuse the new period with the present quota, but takes any period without a quota
        if old.bandwidth.is_none_or(|b| b.period != bandwidth.period) {
            self.explained("its quota", self.files.set_cfs_quota(-1))?;
            self.explained("its period", self.files.set_cfs_period(bandwidth.period))?;
        }
        self.explained("its quota", self.files.set_cfs_quota(quota))
    }

    /// Reads `file` of the cgroup and parses it. Fails with `NotFound` when the cgroup is gone.
    fn parse<T>(&self, file: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
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

    /// Turns a failure to write `what` into an error that says why the kernel refused.
    fn explained(&self, what: &str, done: cgroups_rs::fs::error::Result<()>) -> Result<()> {
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

/// Parses `cpu.max`: the quota or `max`, and the period.
fn cpu_max(text: &str) -> Option<Bandwidth> {
    let (quota, period) = text.split_once(' ')?;
    let quota = if quota == "max" { Quota::Unlimited } else { Quota::Micros(quota.parse().ok()?) };
    Some(Bandwidth { quota, period: period.parse().ok()? })
}
