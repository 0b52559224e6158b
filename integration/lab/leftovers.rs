//! What a host, and the machine under it, must look like afterwards: as before.

use super::ns::Ns;
use super::settings::told;
use super::wait::eventually;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

/// A host's state before portslice saw it.
pub struct Baseline {
    links: Vec<String>,
    addresses: String,
    routes: String,
    rules: String,
    sysctls: BTreeMap<String, String>,
}

impl Baseline {
    /// Takes the picture.
    pub fn of(ns: &Ns) -> Baseline {
        Baseline {
            links: links(ns),
            addresses: addresses(ns),
            routes: routes(ns),
            rules: rules(ns),
            sysctls: sysctls(ns),
        }
    }

    /// The same for a host that the test itself altered: devices, addresses, routes, rules and settings of devices are not compared.
    pub fn of_altered(mut self, ns: &Ns) -> Baseline {
        let ours = |name: &String| name.starts_with("portslice");
        self.links = links(ns).into_iter().filter(|name| !ours(name)).collect();
        (self.addresses, self.routes, self.rules) = (addresses(ns), routes(ns), rules(ns));
        let of_lo = |key: &String| !key.contains("/conf/") || key.contains("/conf/lo/");
        self.sysctls.retain(|key, _| of_lo(key) && !key.contains("/neigh/"));
        self
    }

    /// Waits for what the kernel does a little later: it takes the devices of dying namespaces along, and gives a device that came
    /// up again its link-local address and that one's route (net/core/link_watch.c tells of a carrier after up to a second).
    pub fn settle(&self, ns: &Ns) {
        eventually(|| links(ns) == self.links && addresses(ns) == self.addresses && routes(ns) == self.routes);
    }

    /// Every difference to now, one line each.
    pub fn compare(&self, ns: &Ns, state_dir: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        let now = links(ns);
        if now != self.links {
            problems.push(format!("devices {now:?}, were {:?}", self.links));
        }
        let mut differs = |what: &str, before: &str, now: String| {
            if before != now {
                problems.push(format!("{what} differ, before:\n{before}now:\n{now}"));
            }
        };
        differs("addresses", &self.addresses, addresses(ns));
        differs("routes", &self.routes, routes(ns));
        differs("rules", &self.rules, rules(ns));
        let after = sysctls(ns);
        for (key, before) in &self.sysctls {
            let now = after.get(key).map(String::as_str).unwrap_or("(gone)");
            if now != before {
                problems.push(format!("sysctl {key} = {now:?}, was {before:?}"));
            }
        }
        for device in ["lo", "eth0"] {
            let qdiscs = told(ns.command("tc").args(["qdisc", "show", "dev", device]));
            for line in qdiscs.lines().filter(|l| l.contains("clsact") || l.contains("ingress") || l.contains("htb")) {
                problems.push(format!("{device} still has {line}"));
            }
        }
        problems.extend(programs(ns));
        problems.extend(
            std::fs::read_dir(state_dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| format!("state: {}", e.path().display())),
        );
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", ns.pid())).unwrap_or_default();
        let below = |l: &&str| l.split(' ').nth(1).is_some_and(|at| Path::new(at).starts_with(state_dir));
        problems.extend(mounts.lines().filter(below).map(|l| format!("mount: {l}")));
        problems
    }
}

/// Device names, sorted, from the host's own sysfs.
pub fn links(ns: &Ns) -> Vec<String> {
    devices(&ns.root("/sys/class/net"))
}

/// What is a link to a device: a driver may have a file there, as bonding has.
fn devices(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| dir.join(name).is_symlink()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Addresses of all devices.
fn addresses(ns: &Ns) -> String {
    told(ns.command("ip").args(["-o", "addr"]))
}

/// IPv4 and IPv6 routes of the main table, sorted.
fn routes(ns: &Ns) -> String {
    let all = told(ns.command("sh").args(["-c", "ip route; ip -6 route"]));
    let mut lines: Vec<&str> = all.lines().collect();
    lines.sort();
    lines.join("\n") + "\n"
}

/// IPv4 and IPv6 routing rules.
fn rules(ns: &Ns) -> String {
    told(ns.command("sh").args(["-c", "ip rule; ip -6 rule"]))
}

/// Programs attached to a device of the host, through clsact or tcx, as bpftool sees them (if it is installed).
fn programs(ns: &Ns) -> Vec<String> {
    let out = ns.command("bpftool").args(["net", "-j"]).output();
    let Some(json) = out.ok().and_then(|o| serde_json::from_slice::<serde_json::Value>(&o.stdout).ok()) else {
        return Vec::new();
    };
    let kinds = json.as_array().into_iter().flatten().filter_map(|o| o.as_object()).flatten();
    let entries = kinds.flat_map(|(kind, list)| list.as_array().into_iter().flatten().map(move |e| (kind, e)));
    entries.filter(|(kind, _)| *kind != "netfilter").map(|(kind, e)| format!("bpf program left: {kind} {e}")).collect()
}

/// Not settings: what kernel modules were loaded meanwhile, by whomever, and secrets the kernel makes when it needs them.
const NO_SETTINGS: [&str; 5] = [
    "tcp_available_congestion_control",
    "tcp_allowed_congestion_control",
    "tcp_available_ulp",
    "tcp_fastopen_key",
    "stable_secret",
];

/// Every readable network sysctl.
fn sysctls(ns: &Ns) -> BTreeMap<String, String> {
    fn walk(dir: &Path, into: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, into);
            } else if let Ok(value) = super::ns::setting(&path) {
                into.insert(path.to_string_lossy().into_owned(), value);
            }
        }
    }
    ns.inside(|| {
        let mut all = BTreeMap::new();
        for area in ["core", "ipv4", "ipv6"] {
            walk(&Path::new("/proc/sys/net").join(area), &mut all);
        }
        all.retain(|key, _| !NO_SETTINGS.iter().any(|name| key.ends_with(name)));
        all
    })
}

/// The machine's own devices, mounts and cgroup directories.
#[derive(PartialEq)]
struct Machine {
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
}

impl Machine {
    fn now() -> Machine {
        fn dirs(at: &Path, into: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    into.insert(entry.path().to_string_lossy().into_owned());
                    dirs(&entry.path(), into);
                }
            }
        }
        let mut cgroups = BTreeSet::new();
        dirs(Path::new("/sys/fs/cgroup"), &mut cgroups);
        Machine {
            links: devices(Path::new("/sys/class/net")).into_iter().collect(),
            mounts: std::fs::read_to_string("/proc/self/mounts")
                .unwrap_or_default()
                .lines()
                .map(String::from)
                .collect(),
            cgroups,
        }
    }

    /// What is here now and was not before. Other runs of this lab may be under way: their cgroups carry their own tag. And somebody
    /// may work on the machine: a cgroup that has processes and not our tag is his.
    fn added_since(&self, before: &Machine) -> Vec<String> {
        let ours = format!("lab{}-", std::process::id());
        let foreign = |c: &&String| !c.contains(&ours) && (c.contains("/lab") || is_inhabited(Path::new(c.as_str())));
        let cgroups = self.cgroups.difference(&before.cgroups).filter(|c| !foreign(c)).map(|c| format!("cgroup {c}"));
        let links = self.links.difference(&before.links).map(|l| format!("device {l}"));
        links.chain(self.mounts.difference(&before.mounts).map(|m| format!("mount {m}"))).chain(cgroups).collect()
    }
}

/// Does a process live in a cgroup, or below it?
fn is_inhabited(cgroup: &Path) -> bool {
    let here = std::fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|procs| !procs.is_empty());
    let below = || std::fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
    here || below().any(|entry| is_inhabited(&entry.path()))
}

static MACHINE: OnceLock<Machine> = OnceLock::new();

/// Remembers the machine as it is; when the process ends it must be the same, or the process fails.
pub fn watch_the_machine() {
    extern "C" fn check() {
        let Some(before) = MACHINE.get() else { return };
        if eventually(|| Machine::now().added_since(before).is_empty()) {
            return;
        }
        eprintln!("the machine itself was changed:\n  {}", Machine::now().added_since(before).join("\n  "));
        // SAFETY: ends the process at once, with the failure as its exit code.
        unsafe { libc::_exit(102) };
    }
    MACHINE.get_or_init(|| {
        // SAFETY: registers a handler that needs nothing but the static above.
        unsafe { libc::atexit(check) };
        Machine::now()
    });
}
