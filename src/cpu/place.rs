//! Which cgroups a container is in: the kernel names those of the container's first process, and the table of mounts says
//! where their directories are.
//!
//! Nothing is guessed from names that runtimes give. What does not live here: reading and writing the files in those cgroups.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::unit::unit_of;
use super::version::Version;
use crate::error::{Error, Result};
use crate::file;
use crate::refusal::one_line;

/// Where the kernel's files are: `/proc` and `/`, or in tests a copy of both.
#[derive(Clone, Debug)]
pub struct Roots {
    /// The process file system.
    pub proc: PathBuf,
    /// The directory that mount points are relative to.
    pub prefix: PathBuf,
}

/// The host's own `/proc` and `/`.
impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), prefix: "/".into() }
    }
}

/// The controllers that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Weight and quota of CPU time.
    Cpu,
    /// Used CPU time. In v2 every cgroup counts it, without a controller.
    Cpuacct,
    /// Memory.
    Memory,
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// v1 or v2.
    pub version: Version,
    /// The cgroup's path in its hierarchy, as in `/proc/PID/cgroup`.
    pub path: String,
    /// The cgroup's directory.
    pub directory: PathBuf,
    /// The directory's inode: the next container of the same name may have another cgroup in the same directory.
    inode: u64,
}

impl Cgroup {
    fn at(version: Version, path: &str, directory: PathBuf) -> Option<Self> {
        let inode = fs::metadata(&directory).ok()?.ino();
        Some(Self { version, path: path.to_string(), directory, inode })
    }

    /// Fails with `NotFound` when the cgroup is gone, even if another one has its directory now.
    pub fn present(&self) -> Result<&Self> {
        if fs::metadata(&self.directory).is_ok_and(|now| now.ino() == self.inode) {
            return Ok(self);
        }
        Err(Error::NotFound(format!("the container's cgroup {} is gone: it has ended", self.directory.display())))
    }
}

/// The cgroups of one container. They are found when the container is attached, and kept in its lease: its first process
/// may move to other cgroups later, or end before the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Where the container's share of the CPUs is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cgroup>,
    /// Where the container's CPU time is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuacct: Option<Cgroup>,
    /// Where the container's memory is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Cgroup>,
    /// The v2 cgroup, wherever v2 is mounted: where pressure is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    unified: Option<Cgroup>,
    /// Where the container's processes are listed. Below the other cgroups, when the runtime made a cgroup for the processes
    /// in there.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Cgroup>,
    /// The fields above that are missing, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<(String, String)>,
}

impl Controller {
    /// The kernel's name.
    pub const fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Memory => "memory",
        }
    }

    /// A file that a v2 cgroup has if, and only if, this controller is enabled in it. CPU time is counted without a
    /// controller.
    const fn proof(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu.weight",
            Controller::Cpuacct => "cpu.stat",
            Controller::Memory => "memory.current",
        }
    }
}

impl Place {
    /// Finds the cgroups of process `pid`. A cgroup that also holds the calling process is not the container's own and
    /// counts as missing: its limits and counters would cover other processes too.
    ///
    /// Fails only when the process, or the table of mounts, cannot be read. Why a cgroup is missing is the error of
    /// [`Place::of`].
    pub fn find(pid: u32, roots: &Roots) -> Result<Self> {
        Finder::new(roots)?.find(pid)
    }

    /// Finds the cgroups at `path` in every hierarchy: of a pod, whose path its runtime tells before a process is in there.
    ///
    /// Fails only when the table of mounts cannot be read.
    pub fn at(path: &str, roots: &Roots) -> Result<Self> {
        Ok(Finder::new(roots)?.at(path))
    }

    /// The container's cgroup for `controller`. Fails if the container has none of its own.
    pub fn of(&self, controller: Controller) -> Result<&Cgroup> {
        let cgroup = match controller {
            Controller::Cpu => &self.cpu,
            Controller::Cpuacct => &self.cpuacct,
            Controller::Memory => &self.memory,
        };
        cgroup.as_ref().ok_or_else(|| self.absent(controller.name(), &format!(" for {}", controller.name())))
    }

    /// The container's v2 cgroup, whichever controllers it has.
    pub fn unified(&self) -> Option<&Cgroup> {
        self.unified.as_ref()
    }

    /// The cgroup that lists the container's processes. Fails if the container has none of its own.
    pub fn processes(&self) -> Result<&Cgroup> {
        self.processes.as_ref().ok_or_else(|| self.absent(PROCESSES, ""))
    }

    fn absent(&self, name: &str, purpose: &str) -> Error {
        let why = self.missing.iter().find(|(of, _)| of == name).map_or("it was not looked for", |(_, why)| why);
        Error::unsupported(
            format!("the container has no cgroup of its own{purpose}: {why}"),
            "let the runtime give it one, and mount the controller",
        )
    }
}

/// Finds the cgroups of many processes. The table of mounts and this process' own cgroups are read once.
#[derive(Debug)]
pub struct Finder {
    roots: Roots,
    ours: Vec<Membership>,
    mounts: Vec<Mount>,
}

impl Finder {
    /// Fails when the table of mounts cannot be read.
    pub fn new(roots: &Roots) -> Result<Self> {
        let ours = memberships(&read(roots, "self/cgroup").unwrap_or_default());
        Ok(Finder { ours, mounts: mounts(&read(roots, "self/mountinfo")?), roots: roots.clone() })
    }

    /// As [`Place::find`].
    pub fn find(&self, pid: u32) -> Result<Place> {
        let theirs = match read(&self.roots, &format!("{pid}/cgroup")) {
            Err(Error::File { source, .. }) if gone(&source) => {
                return Err(Error::NotFound(format!(
                    "there is no process {pid}: it ended before its cgroup was found"
                )));
            }
            text => memberships(&text?),
        };
        Ok(self.search(theirs))
    }

    /// As [`Place::at`].
    fn at(&self, path: &str) -> Place {
        let path = format!("/{}", path.trim_matches('/'));
        let there =
            |membership: &Membership| Membership { controllers: membership.controllers.clone(), path: path.clone() };
        self.search(self.ours.iter().map(there).collect())
    }

    fn search(&self, theirs: Vec<Membership>) -> Place {
        Search { theirs, ours: &self.ours, mounts: &self.mounts, prefix: &self.roots.prefix }.place()
    }
}

fn read(roots: &Roots, name: &str) -> Result<String> {
    let path = roots.proc.join(name);
    file::read_generated_text(&path).map_err(Error::file("read", path))
}

/// The key in [`Place::missing`] for [`Place::processes`].
const PROCESSES: &str = "processes";

/// One line of `/proc/PID/cgroup`.
#[derive(Debug)]
struct Membership {
    /// The hierarchy's controllers; empty for v2.
    controllers: Vec<String>,
    path: String,
}

/// One mount of a hierarchy.
#[derive(Debug)]
struct Mount {
    version: Version,
    /// The cgroup that is mounted, as a path in the hierarchy.
    root: String,
    at: PathBuf,
    /// Super block options: a v1 hierarchy's controllers among them.
    options: Vec<String>,
}

/// What the search for a container's cgroups needs.
struct Search<'a> {
    theirs: Vec<Membership>,
    ours: &'a [Membership],
    mounts: &'a [Mount],
    prefix: &'a Path,
}

impl Search<'_> {
    fn place(&self) -> Place {
        let mut place = Place::default();
        let mut missing = Vec::new();
        let mut noted =
            |name: &str, found: Result<Cgroup, String>| found.map_err(|why| missing.push((name.to_string(), why))).ok();
        let unified = self.unified();
        let has = |controller| self.controller(controller, &unified);
        place.cpu = noted("cpu", has(Controller::Cpu));
        place.cpuacct = noted("cpuacct", has(Controller::Cpuacct));
        place.memory = noted("memory", has(Controller::Memory));
        place.processes = match place.cpu.as_ref().or(place.cpuacct.as_ref()).or(place.memory.as_ref()) {
            Some(v1) if v1.version == Version::V1 => Some(v1.clone()),
            _ => noted(PROCESSES, unified.clone()),
        };
        place.unified = unified.ok().map(whole);
        place.missing = missing;
        place
    }

    /// The container's cgroup for `controller`: in the controller's v1 hierarchy if there is one, else in v2.
    fn controller(&self, controller: Controller, unified: &Result<Cgroup, String>) -> Result<Cgroup, String> {
        let name = controller.name();
        let bound = |m: &Membership| m.controllers.iter().any(|c| c == name);
        if let Some(membership) = self.theirs.iter().find(|m| bound(m)) {
            let own = self.ours.iter().find(|m| bound(m)).map(|m| m.path.as_str());
            let of_it = |mount: &Mount| mount.version == Version::V1 && mount.options.iter().any(|o| o == name);
            return self.directory(&membership.path, own, Version::V1, of_it);
        }
        let cgroup = whole(unified.clone().map_err(|why| format!("no v1 hierarchy has it, and {why}"))?);
        if !cgroup.directory.join(controller.proof()).exists() {
            return Err(format!(
                "no v1 hierarchy has it, and {} has no {}: it is not in cgroup.subtree_control of the cgroup above",
                cgroup.directory.display(),
                controller.proof()
            ));
        }
        Ok(cgroup)
    }

    /// The container's v2 cgroup.
    fn unified(&self) -> Result<Cgroup, String> {
        let bound = |m: &&Membership| m.controllers.is_empty();
        let membership = self.theirs.iter().find(bound).ok_or("the kernel has no cgroup v2")?;
        let own = self.ours.iter().find(bound).map(|m| m.path.as_str());
        self.directory(&membership.path, own, Version::V2, |mount| mount.version == Version::V2)
    }

    /// Finds the directory of the cgroup `path` below the mounts for which `of_it` holds. `own`: the calling process' cgroup
    /// in the same hierarchy.
    fn directory(
        &self,
        path: &str,
        own: Option<&str>,
        version: Version,
        of_it: impl Fn(&Mount) -> bool,
    ) -> Result<Cgroup, String> {
        let shown = one_line(path);
        if path.split('/').any(|part| part == "..") {
            return Err(format!("its cgroup {shown} is outside of this process' cgroup namespace"));
        }
        if path == "/" {
            return Err("it is in the root cgroup, as the whole host".to_string());
        }
        if own.is_some_and(|own| below(own, path).is_some()) {
            return Err(format!("it is in {shown}, as this process"));
        }
        let mounts: Vec<&Mount> = self.mounts.iter().filter(|mount| of_it(mount)).collect();
        if mounts.is_empty() {
            return Err(format!("it is in {shown}, but that hierarchy is not mounted"));
        }
        // the last one lies on top
        for mount in mounts.iter().rev() {
            let Some(inside) = below(path, &mount.root) else { continue };
            let at = mount.at.strip_prefix("/").unwrap_or(&mount.at);
            let directory = self.prefix.join(at).join(inside);
            if !directory.join("cgroup.procs").exists() {
                continue;
            }
            if let Some(cgroup) = Cgroup::at(version, path, directory) {
                return Ok(cgroup);
            }
        }
        let at: Vec<String> = mounts.iter().map(|m| one_line(&m.at.to_string_lossy())).collect();
        Err(format!("its cgroup {shown} is not there below {}", at.join(", ")))
    }
}

/// Returns the scope's cgroup instead of the cgroup `container` that crun makes below it for the processes (crun(1),
/// run.oci.systemd.subgroup). Limits and counters of the whole container are the scope's: inside the scope the container
/// has nobody to share with.
fn whole(cgroup: Cgroup) -> Cgroup {
    let Some(scope) = cgroup.path.strip_suffix("/container") else { return cgroup };
    match (unit_of(scope), cgroup.directory.parent()) {
        (Some(unit), Some(parent)) if unit.ends_with(".scope") => {
            Cgroup::at(cgroup.version, scope, parent.to_path_buf()).unwrap_or(cgroup)
        }
        _ => cgroup,
    }
}

/// `path` relative to `root`; `None` if `path` is neither `root` nor below it.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

/// Parses `/proc/PID/cgroup`: lines of `hierarchy-ID:controller-list:cgroup-path`, see cgroups(7). The path of a removed
/// v2 cgroup ends in " (deleted)", so no directory is found for it.
fn memberships(text: &str) -> Vec<Membership> {
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?.split(',').filter(|c| !c.is_empty()).map(str::to_string).collect();
        let path = parts.next().filter(|path| path.starts_with('/'))?.to_string();
        Some(Membership { controllers, path })
    };
    text.lines().filter_map(line).collect()
}

/// Parses `/proc/PID/mountinfo` for the mounts of cgroup hierarchies, see proc_pid_mountinfo(5).
fn mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut source = source.split(' ');
        let version = match source.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        Some(Mount {
            version,
            root: unescaped(mount.next()?),
            at: unescaped(mount.next()?).into(),
            options: source.nth(1)?.split(',').map(str::to_string).collect(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// Decodes a path of mountinfo, in which blanks, tabs, line ends and backslashes are a backslash and three octal digits.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok()).filter(u8::is_ascii);
        match digits {
            Some(byte) => out.push(byte as char),
            None => out.push('\\'),
        }
        rest = &rest[at + if digits.is_some() { 4 } else { 1 }..];
    }
    out + rest
}

/// Whether `error` says that a process has ended. Reading a file of a process that ends meanwhile fails with ESRCH.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
