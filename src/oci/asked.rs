//! What a bundle asks of us, before its container exists: by annotations, and by the environment of its process, which is all
//! that some engines let a person set.
//!
//! Pure: config.json in, a value out. What does not live here: what the keys mean ([`crate::request`]), and what a hook reads
//! of a bundle (`bundle`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::edit::{BLOCK, RESOLVER};
use crate::error::{Error, Result};
use crate::refusal::{nearest, quoted};
use crate::request::{KEYS, PREFIX};

/// What the variables begin with that ask for something: `PORTSLICE_EGRESS_RATE` is `portslice/egress-rate`.
const VARIABLE: &str = "PORTSLICE_";

/// Variables of ours that ask for nothing: where programs find configuration and state, and what an edit tells a container.
const OTHERS: [&str; 4] = ["PORTSLICE_CONFIG", "PORTSLICE_STATE_DIR", "PORTSLICE_LOG", BLOCK];

/// A file that Podman writes for every container and mounts from the container's own directory; most others it takes from the
/// first container of a pod (container_internal_common.go, makeBindMounts).
pub const CONTAINER_ENVIRONMENT: &str = "/run/.containerenv";

/// Which network namespace a bundle has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// That of whoever calls the runtime.
    Host,
    /// One that the runtime makes.
    Own,
    /// This one.
    Joined(PathBuf),
}

/// What a bundle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// All annotations, and behind them what the environment asks and no annotation does. Whatever begins with [`PREFIX`] is
    /// meant for us.
    pub annotations: Vec<(String, String)>,
    /// How many of these, the last ones, the environment asks.
    pub by_environment: usize,
    /// Its network.
    pub network: Network,
    /// The block that an earlier edit told its process.
    pub earlier_block: Option<String>,
    /// Its root file system, relative to the bundle.
    pub root: Option<PathBuf>,
    /// Whether something is mounted as its resolv.conf.
    pub has_resolver: bool,
    /// What is mounted as [`CONTAINER_ENVIRONMENT`].
    pub container_environment: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    annotations: Option<BTreeMap<String, Value>>,
    process: Option<Process>,
    root: Option<Root>,
    mounts: Option<Vec<Mount>>,
    linux: Option<Linux>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Process {
    env: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Root {
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Mount {
    destination: Option<PathBuf>,
    source: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<PathBuf>,
}

impl Asked {
    /// Reads a config.json. `None` for one that no runtime would understand: it says why better than we could.
    pub fn read(text: &[u8]) -> Result<Option<Self>> {
        let Ok(spec) = serde_json::from_slice::<Spec>(text) else { return Ok(None) };
        let network = spec.network();
        let mut annotations = Vec::new();
        for (key, value) in spec.annotations.unwrap_or_default() {
            match value {
                Value::String(text) => annotations.push((key, text)),
                _ if key.starts_with(PREFIX) => {
                    let why = "its value is not a string; write it in quotes";
                    return Err(Error::invalid(format!("annotation {}", quoted(&key)), why));
                }
                _ => {}
            }
        }
        let env = spec.process.unwrap_or_default().env.unwrap_or_default();
        let (mut by_environment, mut earlier_block) = (Vec::new(), None);
        for (name, value) in env.iter().filter_map(|entry| entry.split_once('=')) {
            let Some(rest) = name.strip_prefix(VARIABLE) else { continue };
            if name == BLOCK {
                earlier_block = Some(value.to_owned());
            }
            if OTHERS.contains(&name) {
                continue;
            }
            let key = format!("{PREFIX}{}", key_of(name, rest)?);
            if !annotations.iter().any(|(known, _)| *known == key) {
                by_environment.retain(|(known, _)| *known != key);
                by_environment.push((key, value.to_owned()));
            }
        }
        let mounts = spec.mounts.unwrap_or_default();
        let mounted = |at: &str| mounts.iter().find(|mount| mount.destination.as_deref() == Some(Path::new(at)));
        Ok(Some(Asked {
            by_environment: by_environment.len(),
            annotations: annotations.into_iter().chain(by_environment).collect(),
            network,
            earlier_block,
            root: spec.root.and_then(|root| root.path),
            has_resolver: mounted(RESOLVER).is_some(),
            container_environment: mounted(CONTAINER_ENVIRONMENT).and_then(|mount| mount.source.clone()),
        }))
    }

    /// Does it ask for anything?
    pub fn asks(&self) -> bool {
        self.annotations.iter().any(|(key, _)| key.starts_with(PREFIX))
    }

    /// What the environment asks, for those who are only given annotations.
    pub fn by_environment(&self) -> &[(String, String)] {
        &self.annotations[self.annotations.len() - self.by_environment..]
    }

    /// Is it one of the containers of a pod, which join the namespace of its sandbox?
    pub fn joins_a_pod(&self) -> bool {
        const TYPES: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
        self.annotations.iter().any(|(key, value)| TYPES.contains(&key.as_str()) && value == "container")
    }
}

impl Spec {
    fn network(&self) -> Network {
        let namespaces = self.linux.iter().flat_map(|linux| &linux.namespaces).flatten();
        match namespaces.into_iter().find(|namespace| namespace.kind == "network") {
            None => Network::Host,
            Some(Namespace { path: Some(path), .. }) if !path.as_os_str().is_empty() => Network::Joined(path.clone()),
            Some(_) => Network::Own,
        }
    }
}

/// The key that a variable means: `EGRESS_RATE` is `egress-rate`.
fn key_of(name: &str, rest: &str) -> Result<String> {
    let key = rest.to_ascii_lowercase().replace('_', "-");
    let variable = |key: &str| format!("{VARIABLE}{}", key.to_ascii_uppercase().replace('-', "_"));
    if KEYS.contains(&key.as_str()) && variable(&key) == name {
        return Ok(key);
    }
    let why = match nearest(&key, &KEYS) {
        Some(near) => format!("unknown variable; did you mean {}?", variable(near)),
        None => format!("unknown variable; known are {}", KEYS.map(variable).join(", ")),
    };
    Err(Error::invalid(format!("environment variable {}", quoted(name)), why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(spec: Value) -> Asked {
        Asked::read(spec.to_string().as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn the_environment_asks_where_no_annotation_does() {
        let env = [
            "PATH=/bin",
            "PORTSLICE_PORTS=31000",
            "PORTSLICE_EGRESS_RATE=1mbit",
            "PORTSLICE_EGRESS_RATE=2mbit",
            "PORTSLICE_CONFIG=/x",
            "PORTSLICE_BLOCK=32768-33791",
            "PORTSLICE_CPUS",
        ];
        let asked = asked(json!({"annotations": {"portslice/ports": "31001", "x": 1}, "process": {"env": env}}));
        assert_eq!(asked.by_environment(), [("portslice/egress-rate".to_owned(), "2mbit".to_owned())]);
        assert_eq!(asked.annotations[0], ("portslice/ports".to_owned(), "31001".to_owned()));
        assert_eq!(asked.earlier_block.as_deref(), Some("32768-33791"));
        assert!(asked.asks());
    }

    #[test]
    fn what_asks_for_nothing_known_is_refused_by_name() {
        for (name, says) in
            [("PORTSLICE_PROTS", "did you mean PORTSLICE_PORTS?"), ("PORTSLICE_Ports", "did you mean PORTSLICE_PORTS?")]
        {
            let spec = json!({"process": {"env": [format!("{name}=1")]}}).to_string();
            let line = Asked::read(spec.as_bytes()).unwrap_err().to_string();
            assert!(line.contains(name) && line.contains(says) && !line.contains('\n'), "{line}");
        }
        assert!(Asked::read(br#"{"annotations": {"portslice/cpus": 1}}"#).is_err());
        assert_eq!(Asked::read(b"no JSON").unwrap(), None);
    }

    #[test]
    fn a_bundle_that_asks_for_nothing() {
        let network = |namespaces: Value| asked(json!({"linux": {"namespaces": namespaces}})).network;
        assert_eq!(network(json!(null)), Network::Host);
        assert_eq!(network(json!([{"type": "pid"}])), Network::Host);
        assert_eq!(network(json!([{"type": "network", "path": ""}])), Network::Own);
        assert_eq!(network(json!([{"type": "network", "path": "/n"}])), Network::Joined("/n".into()));
        let plain = asked(json!({"annotations": null, "process": {"env": null}, "root": null, "mounts": null}));
        assert!(!plain.asks() && !plain.has_resolver && plain.root.is_none());
        let mounted = asked(json!({"mounts": [{"destination": "/etc/resolv.conf", "source": "/x"}, {}]}));
        assert!(mounted.has_resolver && mounted.container_environment.is_none());
        let told = asked(json!({"mounts": [{"source": "/y"}, {"destination": "/run/.containerenv", "source": "/x"}]}));
        assert_eq!(told.container_environment, Some("/x".into()));
    }
}
