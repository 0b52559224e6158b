//! What one container uses of CPU and memory: the counters of its cgroups, under Mesos' names and in its units.
//!
//! Read from the files themselves: a cgroup that is gone is an error and not a row of zeros. A source that fails leaves out
//! its own fields and says so. What does not live here: which cgroups those are (`cpu::place`), and what the files look
//! like (`parse`).
//!
//! Mesos' mem_low_pressure_counter, mem_medium_pressure_counter and mem_critical_pressure_counter are not read: they count
//! notifications since somebody began to listen, and nobody does between two calls.

pub mod parse;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cpu::{Asked, Bandwidth, Cgroup, Controller, CpuLimit, Place, Version};
use crate::error::{Error, Result};
use parse::{Stall, keyed, listed, stall, value};

/// Counters of one container's cgroups. `None`: not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are Mesos' own")]
pub struct Usage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_nr_periods: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_nr_throttled: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_soft_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_system_time_secs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_throttled_time_secs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_user_time_secs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    #[serde(flatten)]
    pub memory: Memory,
    /// How long its tasks waited for what they lacked, where the kernel measures it. Not Mesos'; the names are the
    /// kernel's.
    #[serde(skip_serializing_if = "Pressure::is_empty")]
    pub pressure: Pressure,
}

/// Bytes of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names are Mesos' own")]
pub struct Memory {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_anon_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_cache_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_kmem_tcp_usage_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_kmem_usage_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_mapped_file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_soft_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_swap_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_total_memsw_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_unevictable_bytes: Option<u64>,
    /// As cAdvisor has it: memory in use without the part of the page cache that has not been used for long. Not Mesos', and
    /// not in the statistics.
    #[serde(skip)]
    pub working_set_bytes: Option<u64>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Waiting for a CPU, throttled time included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Stall>,
    /// Waiting for memory to be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Stall>,
    /// Waiting for disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<Stall>,
}

/// A reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// What is known.
    pub usage: Usage,
    /// One line for each source that failed.
    pub notes: Vec<String>,
}

/// How many CPUs the cgroup at `place` allows; `None` without a limit, or where that cannot be read.
pub fn allowed(place: &Place) -> Option<f64> {
    let cgroup = place.of(Controller::Cpu).ok()?;
    let limit =
        match cgroup.version {
            Version::V2 => File::of(cgroup, "cpu.max").parsed(parse::bandwidth),
            Version::V1 => File::of(cgroup, "cpu.cfs_quota_us")
                .parsed(|text| Some(text.trim_end().to_owned()))
                .and_then(|quota| match quota.as_str() {
                    "-1" => Ok(None),
                    quota => File::of(cgroup, "cpu.cfs_period_us")
                        .parsed(|period| parse::bandwidth(&format!("{quota} {period}"))),
                }),
        };
    limit.ok().flatten()
}

/// Reads what the container at `place` uses. Fails when none of its cgroups is there any more.
///
/// `count` also counts its processes and threads, which takes longer the more there are (Mesos'
/// cgroups_cpu_enable_pids_and_tids_count). Those in cgroups that it made itself only count if all are there.
pub fn read(place: &Place, count: bool) -> Result<Reading> {
    let mut reading = Reading::default();
    let Reading { usage, notes } = &mut reading;
    let mut noted = |done: Result<()>| notes.extend(done.err().map(|e| e.to_string()));
    let known = [place.of(Controller::Cpuacct), place.of(Controller::Cpu), place.of(Controller::Memory)];
    let known = known.map(|found| found.and_then(Cgroup::present));
    if known.iter().all(Result::is_err) {
        return place.processes().and_then(Cgroup::present).and(Err(Error::NotFound("it has no cgroup".into())));
    }
    let [cpuacct, cpu, memory] = known;
    noted(cpuacct.and_then(|cgroup| usage.time(cgroup)));
    noted(cpu.and_then(|cgroup| usage.throttling(cgroup)));
    for done in match memory {
        Ok(cgroup) => usage.memory.fill(cgroup),
        Err(e) => vec![Err(e)],
    } {
        noted(done);
    }
    // crun sets a limit on the cgroup of the processes, within a scope that has none (crun(1), run.oci.systemd.subgroup)
    if let (Ok(memory), Ok(inner)) = (place.of(Controller::Memory), place.processes())
        && inner.version == Version::V2
        && inner.directory != memory.directory
        && let Ok(Some(Some(limit))) = File::of(inner, "memory.max").optional(value)
    {
        usage.memory.mem_limit_bytes = Some(usage.memory.mem_limit_bytes.map_or(limit, |outer| outer.min(limit)));
    }
    if count {
        noted(place.processes().and_then(|cgroup| usage.tasks(cgroup)));
    }
    if let Some(cgroup) = place.unified() {
        for (file, into) in [
            ("cpu.pressure", &mut usage.pressure.cpu),
            ("memory.pressure", &mut usage.pressure.memory),
            ("io.pressure", &mut usage.pressure.io),
        ] {
            noted(File::of(cgroup, file).optional(stall).map(|stall| *into = stall));
        }
    }
    Ok(reading)
}

/// `cpus_limit` and `cpus_soft_limit` by Mesos' rule: what it asked for is the soft limit. The limit is the one it asked
/// for, or what it asked for if that is enforced, as it says; the host's CPUs for `inf`. Where nothing was `written` there
/// is none but the runtime's (see [`allowed`]).
pub fn limits(asked: &Asked, written: Option<Bandwidth>, host: u32) -> (Option<f64>, Option<f64>) {
    let number = |cpus: crate::cpus::Cpus| cpus.thousandths() as f64 / 1000.0;
    let request = asked.cpus.map(number);
    let limit = written.and_then(|_| match asked.limit {
        Some(CpuLimit::Cpus(cpus)) => Some(number(cpus)),
        Some(CpuLimit::Infinite) => Some(f64::from(host)),
        None => request,
    });
    (limit, request)
}

impl Usage {
    /// What both use together. Limits and pressure are no sums, and what is not known of one is not known of both.
    pub fn plus(&self, other: &Usage) -> Usage {
        let sum = |of: fn(&Usage) -> Option<u64>| of(self).zip(of(other)).map(|(one, two)| one + two);
        let time = |of: fn(&Usage) -> Option<f64>| of(self).zip(of(other)).map(|(one, two)| one + two);
        Usage {
            cpus_nr_periods: sum(|u| u.cpus_nr_periods),
            cpus_nr_throttled: sum(|u| u.cpus_nr_throttled),
            cpus_system_time_secs: time(|u| u.cpus_system_time_secs),
            cpus_throttled_time_secs: time(|u| u.cpus_throttled_time_secs),
            cpus_user_time_secs: time(|u| u.cpus_user_time_secs),
            processes: sum(|u| u.processes),
            threads: sum(|u| u.threads),
            memory: Memory {
                mem_anon_bytes: sum(|u| u.memory.mem_anon_bytes),
                mem_cache_bytes: sum(|u| u.memory.mem_cache_bytes),
                mem_file_bytes: sum(|u| u.memory.mem_file_bytes),
                mem_kmem_tcp_usage_bytes: sum(|u| u.memory.mem_kmem_tcp_usage_bytes),
                mem_kmem_usage_bytes: sum(|u| u.memory.mem_kmem_usage_bytes),
                mem_mapped_file_bytes: sum(|u| u.memory.mem_mapped_file_bytes),
                mem_rss_bytes: sum(|u| u.memory.mem_rss_bytes),
                mem_swap_bytes: sum(|u| u.memory.mem_swap_bytes),
                mem_total_bytes: sum(|u| u.memory.mem_total_bytes),
                mem_total_memsw_bytes: sum(|u| u.memory.mem_total_memsw_bytes),
                mem_unevictable_bytes: sum(|u| u.memory.mem_unevictable_bytes),
                working_set_bytes: sum(|u| u.memory.working_set_bytes),
                ..Memory::default()
            },
            ..Usage::default()
        }
    }

    /// Both times or neither.
    fn time(&mut self, cgroup: &Cgroup) -> Result<()> {
        let (file, names, unit) = match cgroup.version {
            Version::V1 => ("cpuacct.stat", ["user", "system"], ticks_per_second()),
            Version::V2 => ("cpu.stat", ["user_usec", "system_usec"], 1e6),
        };
        let [user, system] = File::of(cgroup, file).parsed(|text| {
            let [user, system] = names.map(|name| keyed(text, name));
            Some([user??, system??])
        })?;
        self.cpus_user_time_secs = Some(user as f64 / unit);
        self.cpus_system_time_secs = Some(system as f64 / unit);
        Ok(())
    }

    /// A kernel without quotas does not count these.
    fn throttling(&mut self, cgroup: &Cgroup) -> Result<()> {
        let (time, unit) = match cgroup.version {
            Version::V1 => ("throttled_time", 1e9),
            Version::V2 => ("throttled_usec", 1e6),
        };
        let names = ["nr_periods", "nr_throttled", time];
        let [periods, throttled, time] = File::of(cgroup, "cpu.stat").parsed(|text| {
            let [periods, throttled, time] = names.map(|name| keyed(text, name));
            Some([periods?, throttled?, time?])
        })?;
        self.cpus_nr_periods = periods;
        self.cpus_nr_throttled = throttled;
        self.cpus_throttled_time_secs = time.map(|time| time as f64 / unit);
        Ok(())
    }

    fn tasks(&mut self, cgroup: &Cgroup) -> Result<()> {
        let threads = match cgroup.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        };
        let processes = File::of(cgroup, "cgroup.procs").parsed(listed)?;
        let listed_threads = File::of(cgroup, threads).parsed(listed)?;
        let counts = match (processes, listed_threads) {
            (0, 0) => below(&cgroup.directory, threads),
            counts => counts,
        };
        self.processes = Some(counts.0);
        self.threads = Some(counts.1);
        Ok(())
    }
}

impl Memory {
    /// Every file by itself.
    fn fill(&mut self, cgroup: &Cgroup) -> Vec<Result<()>> {
        let file = |name| File::of(cgroup, name);
        let number = |name, into: &mut Option<u64>| file(name).optional(value).map(|n| *into = n.flatten());
        let names = match cgroup.version {
            Version::V1 => ["total_rss", "total_cache", "total_mapped_file", "total_unevictable"],
            Version::V2 => ["anon", "file", "file_mapped", "unevictable"],
        };
        let in_v2 = cgroup.version == Version::V2;
        let idle_cache = if in_v2 { "inactive_file" } else { "total_inactive_file" };
        let mut idle = None;
        let mut done = Vec::new();
        done.push(file("memory.stat").parsed(|text| {
            [self.mem_rss_bytes, self.mem_cache_bytes, self.mem_mapped_file_bytes, self.mem_unevictable_bytes] =
                all(names.map(|name| keyed(text, name)))?;
            idle = keyed(text, idle_cache)?;
            if in_v2 {
                [self.mem_kmem_usage_bytes, self.mem_kmem_tcp_usage_bytes] =
                    all(["kernel", "sock"].map(|name| keyed(text, name)))?;
            } else {
                self.mem_swap_bytes = keyed(text, "total_swap")?;
            }
            Some(())
        }));
        self.mem_anon_bytes = self.mem_rss_bytes;
        self.mem_file_bytes = self.mem_cache_bytes;
        if in_v2 {
            done.push(number("memory.current", &mut self.mem_total_bytes));
            done.push(number("memory.swap.current", &mut self.mem_swap_bytes));
            done.push(number("memory.max", &mut self.mem_limit_bytes));
            done.push(number("memory.low", &mut self.mem_soft_limit_bytes));
            // 0: nothing is protected
            self.mem_soft_limit_bytes = self.mem_soft_limit_bytes.filter(|low| *low > 0);
        } else {
            done.push(number("memory.usage_in_bytes", &mut self.mem_total_bytes));
            done.push(number("memory.memsw.usage_in_bytes", &mut self.mem_total_memsw_bytes));
            done.push(number("memory.kmem.usage_in_bytes", &mut self.mem_kmem_usage_bytes));
            done.push(number("memory.kmem.tcp.usage_in_bytes", &mut self.mem_kmem_tcp_usage_bytes));
            done.push(number("memory.limit_in_bytes", &mut self.mem_limit_bytes));
            done.push(number("memory.soft_limit_in_bytes", &mut self.mem_soft_limit_bytes));
        }
        self.working_set_bytes = self.mem_total_bytes.zip(idle).map(|(total, idle)| total.saturating_sub(idle));
        done
    }
}

impl Pressure {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A file of a cgroup.
struct File {
    path: PathBuf,
}

impl File {
    fn of(cgroup: &Cgroup, name: &str) -> Self {
        Self { path: cgroup.directory.join(name) }
    }

    fn parsed<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let text = fs::read_to_string(&self.path).map_err(Error::file("read", &self.path))?;
        parse(&text).ok_or_else(|| not_understood(&self.path))
    }

    /// `None` where the kernel was built or started without what the file tells.
    fn optional<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        match self.parsed(parse) {
            Err(Error::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(None)
            }
            read => read.map(Some),
        }
    }
}

/// Processes and threads in the cgroups below one in which there are none: a container that manages its own, like one
/// with systemd in it, has to keep that empty. What ends meanwhile does not count.
fn below(directory: &Path, threads: &str) -> (u64, u64) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let children = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    children.fold((0, 0), |(processes, all), child| {
        let path = child.path();
        let count = |name: &str| File { path: path.join(name) }.parsed(listed).unwrap_or(0);
        let further = below(&path, threads);
        (processes + count("cgroup.procs") + further.0, all + count(threads) + further.1)
    })
}

fn not_understood(path: &Path) -> Error {
    Error::Failed(format!("cannot read {}: it does not hold what the kernel writes there", path.display()))
}

fn all<const N: usize>(values: [Option<Option<u64>>; N]) -> Option<[Option<u64>; N]> {
    values.iter().all(Option::is_some).then(|| values.map(Option::flatten))
}

/// USER_HZ.
fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes a number and returns one.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    // it is 100 on every architecture that has containers
    if ticks > 0 { ticks as f64 } else { 100.0 }
}
