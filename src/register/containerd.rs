//! containerd: a runtime handler `portslice` for CRI, beside those that are there. Pods under it have our network alone, if
//! the CNI plugin is installed; pods under other handlers keep theirs.

use std::path::Path;

use serde_json::{Value, json};

use super::cni;
use super::document::{Document, Edit, Format};
use super::files::{Content, Wanted};
use super::system::{ask, version};
use super::{Desk, Engine, Plan};
use crate::error::{Error, Result};

const FILE: &str = "/etc/containerd/config.toml";
/// Where the configuration of our handler's network is: not where other handlers look.
const NETWORK: &str = "/etc/cni/portslice.d";
/// Where CRI looks for CNI plugins unless it is told.
const PLUGINS: &str = "/opt/cni/bin";

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    let runtime = desk.system.program("portslice-runtime")?;
    let containerd = desk.engine("containerd")?;
    let installed = match &containerd {
        Some(program) => version(&ask(program, &["--version"])?.out),
        None => None,
    };
    let base = desk.base(FILE)?;
    let document = Document::parse(Format::Toml, base.as_deref().unwrap_or_default(), FILE)?;
    let is_empty = document.get::<&str>(&[]).is_none_or(|all| all == json!({}));
    let fresh = is_empty.then(|| if installed.is_some_and(|(major, _)| major >= 2) { 3 } else { 2 });
    let cri = Cri::of(fresh.or_else(|| document.get(&["version"])?.as_i64()).unwrap_or(1));
    let network = cni::files(desk.system, NETWORK, cri.plugins(&document).as_deref().unwrap_or(PLUGINS))?;
    let mut edits = Vec::new();
    edits.extend(fresh.map(|version| Edit::new(&[], "version", version)));
    let with_network = !network.is_empty() && installed.is_none_or(|version| version >= (1, 6));
    edits.extend(cri.edits(&document, &runtime.display().to_string(), with_network));
    let check = containerd.map(|program| {
        let runtime = runtime.display().to_string();
        let check = move |file: &Path| loads(&program, file, &runtime);
        Box::new(check) as super::files::Check
    });
    let mut then = Vec::new();
    if check.is_none() {
        then.push(desk.system.unasked("containerd"));
    }
    if !with_network {
        then.push(format!("pods under the handler portslice keep the network of {}", cni::DIRECTORY));
    }
    let mut wanted = vec![Wanted { check, ..Wanted::new(FILE, Content::Keys(Format::Toml, edits)) }];
    if with_network {
        wanted.extend(network);
    }
    Ok(Plan { wanted, then }.reload(Engine::Containerd))
}

/// What the part of CRI that starts containers is called, by the version of the file.
struct Cri(&'static str);

impl Cri {
    fn of(version: i64) -> Self {
        Cri(match version {
            ..=1 => "cri",
            2 => "io.containerd.grpc.v1.cri",
            3.. => "io.containerd.cri.v1.runtime",
        })
    }

    /// The directory of CNI plugins. One key had it, until there could be several.
    fn plugins(&self, document: &Document) -> Option<String> {
        let one = || document.get(&["plugins", self.0, "cni", "bin_dir"]);
        let several = document.get(&["plugins", self.0, "cni", "bin_dirs"]);
        let directory = several.and_then(|list| list.as_array()?.first().cloned()).or_else(one)?;
        directory.as_str().filter(|directory| !directory.is_empty()).map(str::to_owned)
    }

    fn edits(&self, document: &Document, runtime: &str, network: bool) -> Vec<Edit> {
        let containerd = ["plugins", self.0, "containerd"];
        let runtimes = [&containerd[..], &["runtimes"]].concat();
        let mut edits = Vec::new();
        // With one runtime named, CRI knows no other, and refuses to start without the default one.
        let default = document.get(&[&containerd[..], &["default_runtime_name"]].concat());
        let default = default.as_ref().and_then(Value::as_str).unwrap_or("runc");
        if default == "runc" && document.get(&[&runtimes[..], &["runc"]].concat()).is_none() {
            edits.push(Edit::new(&[&runtimes[..], &["runc"]].concat(), "runtime_type", RUNTIME_TYPE));
        }
        let ours = [&runtimes[..], &["portslice"]].concat();
        edits.push(Edit::new(&ours, "runtime_type", RUNTIME_TYPE));
        for key in ["pod_annotations", "container_annotations"] {
            edits.push(Edit::new(&ours, key, json!(["portslice/*"])));
        }
        if network {
            edits.push(Edit::new(&ours, "cni_conf_dir", NETWORK));
        }
        let options = [&ours[..], &["options"]].concat();
        edits.push(Edit::new(&options, "BinaryName", runtime));
        // The kubelet expects one driver of cgroups for all handlers.
        let systemd = document.get(&[&runtimes[..], &[default, "options", "SystemdCgroup"]].concat());
        edits.extend(systemd.map(|value| Edit::new(&options, "SystemdCgroup", value)));
        edits
    }
}

const RUNTIME_TYPE: &str = "io.containerd.runc.v2";

/// Asks containerd what it makes of a file: our handler has to be there, and the one that is the default.
fn loads(containerd: &Path, file: &Path, runtime: &str) -> Result<Vec<String>> {
    let answer = ask(containerd, &["--config".as_ref(), file.as_os_str(), "config".as_ref(), "dump".as_ref()])?;
    let refused = |why: &str| {
        Err(Error::Refused(format!(
            "containerd would not load {FILE} with the handler portslice: {why}; nothing was changed"
        )))
    };
    if !answer.ok {
        return refused(&answer.complaint);
    }
    let dump = Document::parse(Format::Toml, &answer.out, "the output of `containerd config dump`")?;
    let disabled = dump.get(&["disabled_plugins"]).unwrap_or_default();
    if disabled
        .as_array()
        .is_some_and(|names| names.iter().any(|name| name.as_str().is_some_and(|n| n.ends_with("cri"))))
    {
        let said =
            "disabled_plugins turns CRI off, which alone reads it: take that out, unless only Docker uses containerd";
        return Ok(vec![format!("{FILE} names the handler portslice, but {said}")]);
    }
    let cri = [1, 2, 3].map(Cri::of).into_iter().find_map(|cri| dump.get(&["plugins", cri.0, "containerd"]));
    let Some(cri) = cri else { return refused("it has no plugin CRI") };
    if cri["runtimes"]["portslice"]["options"]["BinaryName"] != runtime {
        return refused("it makes nothing of it; does a file that it imports have the last word on runtimes?");
    }
    let default = cri["default_runtime_name"].as_str().unwrap_or("runc");
    if cri["runtimes"][default].is_null() {
        return refused(&format!("its default runtime {default} is not configured"));
    }
    Ok(Vec::new())
}
