//! Containers that ask for a slice and have none: their engine was never told of portslice, and started them without a word.
//!
//! Engines keep the bundles of containers that run where they can be looked at. A container has what it asks for when it is a
//! member, or when its network namespace has a slice, as in a pod.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{Finding, Scene, fail, ok, some_of};
use crate::file;
use crate::lease::Ledger;
use crate::net::Netns;
use crate::net::netns::NetnsId;
use crate::register::{Engine, is_registered};
use crate::request::{ContainerId, KEYS, PREFIX};

/// One finding for each engine whose containers ask in vain.
pub fn look(scene: &Scene<'_>) -> Vec<Finding> {
    // Leases that cannot be read are a finding already.
    let Ok(leases) = Ledger::at(&scene.config.state_dir).all() else { return Vec::new() };
    let slices = Slices {
        members: leases.iter().flat_map(|lease| &lease.members).map(|member| member.id.clone()).collect(),
        namespaces: leases.iter().map(|lease| lease.netns_id).collect(),
    };
    let mut unheard: BTreeMap<&str, (Engine, Vec<String>)> = BTreeMap::new();
    for (engine, id) in in_vain(Path::new("/"), &slices) {
        unheard.entry(engine.name()).or_insert((engine, Vec::new())).1.push(id);
    }
    if unheard.is_empty() {
        return vec![ok("engines", "no container asks in vain")];
    }
    unheard.into_values().map(|(engine, ids)| told(scene, engine, &ids)).collect()
}

const WHY: &str = "its ports and limits are not in force: the engine started it without portslice, and has to start it again \
                   once it is registered";

fn told(scene: &Scene<'_>, engine: Engine, ids: &[String]) -> Finding {
    let short: Vec<String> = ids.iter().map(|id| id.chars().take(12).collect()).collect();
    let (ask, have) = if ids.len() == 1 { ("asks", "has") } else { ("ask", "have") };
    let seen = format!("{} of {} {ask} for a slice and {have} none", some_of(&short), engine.name());
    // Registered since it was started, or started in a way that goes around what is registered.
    let command =
        if is_registered(engine) { String::new() } else { scene.command(&format!("setup {}", engine.name())) };
    fail("engines", seen, WHY, command)
}

/// Who has a slice.
struct Slices {
    members: HashSet<ContainerId>,
    namespaces: HashSet<NetnsId>,
}

/// The containers that run, ask, and have no slice; below `root` is what engines keep.
fn in_vain(root: &Path, slices: &Slices) -> Vec<(Engine, String)> {
    let candidates = bundles(root)
        .into_iter()
        .filter(|bundle| bundle.id.parse::<ContainerId>().map_or(true, |id| !slices.members.contains(&id)));
    let lacks = candidates.filter(|bundle| asks(&bundle.directory.join("config.json")) && bundle.runs_without(slices));
    lacks.map(|bundle| (bundle.engine, bundle.id)).collect()
}

/// A container as its engine keeps it.
struct Bundle {
    engine: Engine,
    id: String,
    directory: PathBuf,
    /// The file with the number of its first process.
    pid: PathBuf,
}

impl Bundle {
    /// Does it run, in a network namespace without a slice?
    fn runs_without(&self, slices: &Slices) -> bool {
        let pid = fs::read_to_string(&self.pid).ok().and_then(|text| text.trim().parse().ok());
        pid.and_then(|pid| Netns::of_pid(pid).ok()).is_some_and(|netns| !slices.namespaces.contains(&netns.id))
    }
}

/// Every bundle of every engine, at the places where they keep them unless their configuration says otherwise.
fn bundles(root: &Path) -> Vec<Bundle> {
    let mut all = Vec::new();
    // containerd, and the one that dockerd starts for itself: a directory a namespace, and in it one a container
    for state in ["run/containerd", "run/docker/containerd/daemon"] {
        for namespace in entries(&root.join(state).join("io.containerd.runtime.v2.task")) {
            let engine = if namespace.ends_with("moby") { Engine::Docker } else { Engine::Containerd };
            all.extend(entries(&namespace).into_iter().filter_map(|directory| {
                let id = directory.file_name()?.to_str()?.to_owned();
                Some(Bundle { engine, id, pid: directory.join("init.pid"), directory })
            }));
        }
    }
    // Podman's bundles outlive a boot, CRI-O's do not; the process of either is told below /run.
    let running = root.join("run/containers/storage/overlay-containers");
    let places =
        [(Engine::Podman, root.join("var/lib/containers/storage/overlay-containers")), (Engine::Crio, running.clone())];
    for (engine, place) in places {
        all.extend(entries(&running).into_iter().filter_map(|running| {
            let id = running.file_name()?.to_str()?.to_owned();
            let directory = place.join(&id).join("userdata");
            Some(Bundle { engine, id, pid: running.join("userdata/pidfile"), directory })
        }));
    }
    all
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    annotations: Option<BTreeMap<String, Value>>,
    process: Option<Process>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Process {
    env: Option<Vec<String>>,
}

/// Does a bundle ask: by annotations, or by environment where an engine has no annotations?
fn asks(config: &Path) -> bool {
    let Ok(text) = file::read(config) else { return false };
    let Ok(text) = String::from_utf8(text) else { return false };
    // Most containers do not, and need not be understood.
    if !text.contains(PREFIX) && !text.contains(VARIABLE) {
        return false;
    }
    let spec: Spec = serde_json::from_str(&text).unwrap_or_default();
    let env = spec.process.and_then(|process| process.env).unwrap_or_default();
    spec.annotations.is_some_and(|all| all.keys().any(|key| key.starts_with(PREFIX)))
        || env.iter().any(|entry| is_request(entry))
}

const VARIABLE: &str = "PORTSLICE_";

/// `PORTSLICE_EGRESS_RATE=8mbit` asks; `PORTSLICE_CONFIG=...` does not.
fn is_request(entry: &str) -> bool {
    let name = entry.split('=').next().and_then(|name| name.strip_prefix(VARIABLE));
    name.is_some_and(|name| KEYS.contains(&name.to_ascii_lowercase().replace('_', "-").as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Root(PathBuf);

    impl Root {
        fn write(&self, path: &str, text: impl ToString) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.to_string()).unwrap();
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn who_runs_and_asks_is_found_with_every_engine() {
        let root = Root(std::env::temp_dir().join(format!("portslice-asked-{}", std::process::id())));
        let annotated = json!({"annotations": {"portslice/ports": "31000"}});
        let env = json!({"process": {"env": ["PATH=/bin", "PORTSLICE_EGRESS_RATE=8mbit"]}});
        let quiet = json!({"annotations": {"other": "portslice/"}, "process": {"env": ["PORTSLICE_CONFIG=/x"]}});
        let (task, here) = ("io.containerd.runtime.v2.task", std::process::id());
        let dir = |engine: &str| match engine {
            "podman" => "var/lib/containers/storage/overlay-containers",
            _ => "run/containers/storage/overlay-containers",
        };
        for (id, spec, pid) in
            [("asks", &annotated, here), ("env", &env, here), ("quiet", &quiet, here), ("ended", &annotated, u32::MAX)]
        {
            for place in [format!("run/containerd/{task}/k8s.io"), format!("run/docker/containerd/daemon/{task}/moby")]
            {
                root.write(&format!("{place}/{id}/config.json"), spec);
                root.write(&format!("{place}/{id}/init.pid"), pid);
            }
            for engine in ["podman", "crio"] {
                root.write(&format!("{}/{engine}-{id}/userdata/config.json", dir(engine)), spec);
                root.write(&format!("{}/{engine}-{id}/userdata/pidfile", dir("crio")), format!("{pid}\n"));
            }
        }
        let none = Slices { members: HashSet::new(), namespaces: HashSet::new() };
        let found = |slices: &Slices| {
            let mut found: Vec<String> =
                in_vain(&root.0, slices).iter().map(|(engine, id)| format!("{} {id}", engine.name())).collect();
            found.sort();
            found
        };
        let all = [
            "containerd asks",
            "containerd env",
            "crio crio-asks",
            "crio crio-env",
            "docker asks",
            "docker env",
            "podman podman-asks",
            "podman podman-env",
        ];
        assert_eq!(found(&none), all);
        let member = Slices { members: HashSet::from(["asks".parse().unwrap()]), ..none };
        assert_eq!(found(&member).len(), all.len() - 2);
        let namespace = Slices { members: HashSet::new(), namespaces: HashSet::from([Netns::current().unwrap().id]) };
        assert_eq!(found(&namespace), [""; 0]);
    }
}
