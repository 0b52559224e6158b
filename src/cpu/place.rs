//! Which cgroups a container is in: what the kernel says of its first process, found again below the mounts.
//!
//! Nothing is guessed from names of runtimes. What does not live here: reading and writing the files in those cgroups.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::systemd;
use crate::error::{Error, Result};
use crate::refusal::one_line;

/// Where the kernel's files are: `/proc` and `/`, or a copy of them.
#[derive(Clone, Debug)]
pub struct Roots {
    /// The process file system.
    pub proc: PathBuf,
    /// What mount points are below.
    pub prefix: PathBuf,
}

/// The machine's own.
impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), prefix: "/".into() }
    }
}

/// Which interface a cgroup has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A hierarchy for each controller, or for some together.
    V1,
    /// One hierarchy for all.
    V2,
}

/// What a cgroup controls or counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Weight and quota.
    Cpu,
    /// CPU time. In v2 every cgroup counts it.
    Cpuacct,
    /// Memory.
    Memory,
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its interface.
    pub version: Version,
    /// Where it is in its hierarchy, as `/proc/PID/cgroup` says.
    pub path: String,
    /// Its directory.
    pub directory: PathBuf,
    /// The directory's inode: another cgroup may come to be at the same place, that of the next container of a name.
    inode: u64,
}

impl Cgroup {
    fn at(version: Version, path: &str, directory: PathBuf) -> Option<Self> {
        let inode = fs::metadata(&directory).ok()?.ino();
        Some(Self { version, path: path.to_string(), directory, inode })
    }

    /// This one, if it is still there.
    pub fn present(&self) -> Result<&Self> {
        if fs::metadata(&self.directory).is_ok_and(|now| now.ino() == self.inode) {
            return Ok(self);
        }
        Err(Error::NotFound(format!("the container's cgroup {} is gone: it has ended", self.directory.display())))
    }
}

/// The cgroups of one container. To be found when it is attached and kept: its first process may move on, or end before
/// the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Where its share of the CPUs is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cgroup>,
    /// Where its CPU time is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuacct: Option<Cgroup>,
    /// Where its memory is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Cgroup>,
    /// In v2, mounted anywhere: where pressure is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    unified: Option<Cgroup>,
    /// Where its processes are listed; below the others when the runtime made a cgroup for them in there.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Cgroup>,
    /// What is missing above, and why.
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

    /// A file that every v2 cgroup has in which this controller is there. CPU time is counted without one.
    const fn proof(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu.weight",
            Controller::Cpuacct => "cpu.stat",
            Controller::Memory => "memory.current",
        }
    }
}

impl Place {
    /// Finds the cgroups of process `pid`. One that also holds this process is not the container's own, and counts as
    /// missing: its limits would hold others, and its counters would count them.
    ///
    /// Fails only when the process, or the table of mounts, cannot be read; what is missing is told by
    /// [`Place::of`].
    pub fn find(pid: u32, roots: &Roots) -> Result<Self> {
        let read = |name: &str| {
            let path = roots.proc.join(name);
            fs::read_to_string(&path).map_err(Error::file("read", path))
        };
        let theirs = match read(&format!("{pid}/cgroup")) {
            Err(Error::File { source, .. }) if gone(&source) => {
                return Err(Error::NotFound(format!(
                    "there is no process {pid}: it ended before its cgroup was found"
                )));
            }
            text => memberships(&text?),
        };
        let ours = memberships(&read("self/cgroup").unwrap_or_default());
        let search = Search { theirs, ours, mounts: mounts(&read("self/mountinfo")?), prefix: &roots.prefix };
        Ok(search.place())
    }

    /// The cgroup in which `controller` has this container.
    pub fn of(&self, controller: Controller) -> Result<&Cgroup> {
        let cgroup = match controller {
            Controller::Cpu => &self.cpu,
            Controller::Cpuacct => &self.cpuacct,
            Controller::Memory => &self.memory,
        };
        cgroup.as_ref().ok_or_else(|| self.absent(controller.name(), &format!(" for {}", controller.name())))
    }

    /// The v2 cgroup, whichever controllers it has.
    pub fn unified(&self) -> Option<&Cgroup> {
        self.unified.as_ref()
    }

    /// The cgroup whose processes are the container's.
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

/// Where [`Place::missing`] has the reason for a missing [`Place::processes`].
const PROCESSES: &str = "processes";

/// One line of `/proc/PID/cgroup`.
struct Membership {
    /// Empty for v2.
    controllers: Vec<String>,
    path: String,
}

/// One mount of a hierarchy.
struct Mount {
    version: Version,
    /// What is mounted: a path in the hierarchy.
    root: String,
    at: PathBuf,
    /// Super block options: a v1 hierarchy's controllers among them.
    options: Vec<String>,
}

struct Search<'a> {
    theirs: Vec<Membership>,
    ours: Vec<Membership>,
    mounts: Vec<Mount>,
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

    /// Where `controller` has the container: its v1 hierarchy if there is one, else v2.
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

    fn unified(&self) -> Result<Cgroup, String> {
        let bound = |m: &&Membership| m.controllers.is_empty();
        let membership = self.theirs.iter().find(bound).ok_or("the kernel has no cgroup v2")?;
        let own = self.ours.iter().find(bound).map(|m| m.path.as_str());
        self.directory(&membership.path, own, Version::V2, |mount| mount.version == Version::V2)
    }

    /// The directory of the cgroup `path` in the hierarchy that is mounted where `of_it` says.
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

/// crun puts the processes of a systemd scope into a cgroup `container` below it (crun(1), run.oci.systemd.subgroup).
/// What the container as a whole gets and uses is that of the scope: in there it has nobody to share with.
fn whole(cgroup: Cgroup) -> Cgroup {
    let Some(scope) = cgroup.path.strip_suffix("/container") else { return cgroup };
    match (systemd::unit(scope), cgroup.directory.parent()) {
        (Some(unit), Some(parent)) if unit.ends_with(".scope") => {
            Cgroup::at(cgroup.version, scope, parent.to_path_buf()).unwrap_or(cgroup)
        }
        _ => cgroup,
    }
}

/// `path` relative to `root`, if it is that or below.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

/// `hierarchy-ID:controller-list:cgroup-path`, see cgroups(7). A removed v2 cgroup is marked, and then has no directory.
fn memberships(text: &str) -> Vec<Membership> {
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?.split(',').filter(|c| !c.is_empty()).map(str::to_string).collect();
        let path = parts.next().filter(|path| path.starts_with('/'))?.to_string();
        Some(Membership { controllers, path })
    };
    text.lines().filter_map(line).collect()
}

/// The mounts of cgroup hierarchies, see proc_pid_mountinfo(5).
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

/// Blanks, tabs, line ends and backslashes are three octal digits there.
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

/// Reading a process that ended meanwhile says ESRCH.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
