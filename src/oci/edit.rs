//! Editing a bundle's config.json: what a container with a slice is given besides its network.
//!
//! Pure: text in, text out. Only the lists and fields named here change, everything else keeps its text ([`Object`]). An edit
//! of a bundle that was edited before replaces what the earlier one wrote: a bundle that a person runs twice is the same as one
//! that its engine writes anew each time. What does not live here: what is written ([`crate::face`]), and reading (`bundle`).

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, HookBuilder, Mount, MountBuilder};
use serde_json::value::{RawValue, to_raw_value};

use super::object::Object;
use crate::cpu::values::PERIOD;
use crate::cpu::{Quota, Settings, Version};
use crate::error::{Error, Result};
use crate::ports::{Block, PortSet};
use crate::refusal::one_line;
use crate::request::PREFIX;

/// The variable that tells a program its ephemeral ports: `32768-33791`.
pub const BLOCK: &str = "PORTSLICE_BLOCK";
/// The setting that holds them.
pub const RANGE: &str = "net.ipv4.ip_local_port_range";
/// Where a program looks for its resolver.
pub const RESOLVER: &str = "/etc/resolv.conf";

/// So many ports have a variable each, and are listed one by one in `PORTS`, as Marathon does it; further ones are only in
/// `PORTS`, which has ranges then. An environment of thousands of variables is what no program expects.
const COUNTED: u32 = 256;

/// The programs that attach and detach, as a bundle names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Directory of `portslice-prestart` and `portslice-poststop`.
    pub directory: PathBuf,
    /// Further arguments of the first.
    pub arguments: Vec<String>,
    /// The whole environment of both: a runtime that deletes may have been given an empty one.
    pub environment: Vec<String>,
}

/// What a container was granted, as its programs see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The block of its slice.
    pub block: Option<Block>,
    /// Whether the runtime is to write the block into the namespace's settings: not into a namespace that has it already.
    pub set_range: bool,
    /// Ports to listen on.
    pub ports: PortSet,
}

/// Everything that is added to a bundle.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// Requests that the environment made, as annotations, which are all that a hook is given.
    pub annotations: Vec<(String, String)>,
    /// The hooks, unless they are in the bundle already.
    pub hooks: Option<Hooks>,
    /// The slice, for settings and environment.
    pub granted: Granted,
    /// CPU limits, and for which version of cgroups.
    pub cpu: Option<(Settings, Version)>,
    /// A file of the host that is mounted as the container's resolv.conf.
    pub resolver: Option<PathBuf>,
}

/// The bundle with the edit. `text` is config.json.
///
/// # Errors
///
/// [`Error::Invalid`] where a field that is to be changed is something else than the specification says.
pub fn edit(text: &[u8], edit: &Edit) -> Result<Vec<u8>> {
    let wrong = |e: serde_json::Error| {
        Error::invalid(
            "the bundle's config.json",
            format!("{}; a runtime would refuse it, too", one_line(&e.to_string())),
        )
    };
    let mut spec = Object::parse(text).map_err(wrong)?;
    apply(&mut spec, edit).and_then(|()| spec.text()).map_err(wrong)
}

fn apply(spec: &mut Object, edit: &Edit) -> serde_json::Result<()> {
    spec.within("annotations", |annotations| {
        edit.annotations.iter().try_for_each(|(key, value)| annotations.set(&format!("{PREFIX}{key}"), value))
    })?;
    if let Some(hooks) = &edit.hooks {
        spec.within("hooks", |there| add_hooks(there, hooks))?;
    }
    if edit.granted.block.is_some() && spec.raw("process").is_some() {
        spec.within("process", |process| {
            let there = process.list("env")?;
            process.set("env", &environment(there, &edit.granted))
        })?;
    }
    spec.within("linux", |linux| {
        if let Some(block) = edit.granted.block.filter(|_| edit.granted.set_range) {
            let range = format!("{} {}", block.begin(), block.end());
            linux.within("sysctl", |sysctl| sysctl.set(RANGE, &range))?;
        }
        match &edit.cpu {
            Some((settings, version)) if !settings.is_empty() => {
                linux.within("resources", |resources| limit(resources, settings, *version))
            }
            _ => Ok(()),
        }
    })?;
    match &edit.resolver {
        Some(source) => spec.append("mounts", &resolver(source)),
        None => Ok(()),
    }
}

/// Variables for ports that the container brings along, with another value than it would be told: they stay, so its program
/// looks for other ports than it was given. Each as `PORT0=8080`, with control characters made harmless.
pub fn own_ports(text: &[u8], granted: &Granted) -> Vec<String> {
    let there: Option<Vec<String>> =
        Object::parse(text).ok().and_then(|spec| spec.get::<Object>("process")?.get("env"));
    let told = variables(granted);
    let differs = |entry: &&String| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        told.iter().any(|(known, told)| known == name && told != value)
    };
    // What stands behind the block was written by an earlier edit.
    let own = there.iter().flatten().take_while(|entry| !entry.starts_with(&format!("{BLOCK}=")));
    own.filter(differs).map(|entry| one_line(entry)).collect()
}

/// Our hooks behind those of others, which may make the network that ours looks at. Never `prestart`: Docker's own is one, and
/// turns IPv6 off; runtimes run createRuntime hooks after all of that list.
fn add_hooks(there: &mut Object, hooks: &Hooks) -> serde_json::Result<()> {
    let attach = ["prestart", "createRuntime"].iter().any(|list| is_there(there, list, "portslice-prestart"));
    if !attach {
        there.append("createRuntime", &hook(hooks, "portslice-prestart", &hooks.arguments))?;
    }
    if !is_there(there, "poststop", "portslice-poststop") {
        there.append("poststop", &hook(hooks, "portslice-poststop", &[]))?;
    }
    Ok(())
}

fn is_there(hooks: &Object, list: &str, program: &str) -> bool {
    let listed: Vec<Object> = hooks.get(list).unwrap_or_default();
    let mut paths = listed.iter().filter_map(|hook| hook.get::<PathBuf>("path"));
    paths.any(|path| path.file_name().is_some_and(|name| name == program))
}

fn hook(hooks: &Hooks, program: &str, more: &[String]) -> Hook {
    /// Seconds. An attach takes milliseconds; one that waits for the host to be set up, at most 10 seconds.
    const PATIENCE: i64 = 30;
    let args: Vec<String> = std::iter::once(program.to_owned()).chain(more.iter().cloned()).collect();
    let builder = HookBuilder::default().path(hooks.directory.join(program)).args(args).env(hooks.environment.clone());
    builder.timeout(PATIENCE).build().expect("a hook needs nothing but its path")
}

/// What a program finds out without asking anybody: [`BLOCK`], `PORT0`, `PORT1` and `PORTS` (Marathon's names).
///
/// A variable that the container brings along is the container's; the block is a fact. What an earlier edit wrote stands behind
/// the block that it wrote.
fn environment(there: Vec<Box<RawValue>>, granted: &Granted) -> Vec<Box<RawValue>> {
    let mut edited = false;
    let mut names = Vec::new();
    let mut all = there;
    all.retain(|entry| {
        let entry: String = serde_json::from_str(entry.get()).unwrap_or_default();
        let name = entry.split('=').next().unwrap_or_default();
        edited |= name == BLOCK;
        let stays = name != BLOCK && !(edited && is_ours(name));
        if stays {
            names.push(name.to_owned());
        }
        stays
    });
    for (name, value) in variables(granted).into_iter().filter(|(name, _)| !names.contains(name)) {
        all.extend(to_raw_value(&format!("{name}={value}")).ok());
    }
    all
}

fn is_ours(name: &str) -> bool {
    name == "PORTS" || name.strip_prefix("PORT").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn variables(granted: &Granted) -> Vec<(String, String)> {
    let ports: Vec<u16> = granted.ports.ranges().iter().flat_map(|range| range.begin()..=range.end()).collect();
    let each = ports.iter().take(COUNTED as usize).enumerate().map(|(n, port)| (format!("PORT{n}"), port.to_string()));
    let block = granted.block.map(|block| (BLOCK.to_owned(), block.to_string()));
    let mut all: Vec<(String, String)> = block.into_iter().chain(each).collect();
    if granted.ports.len() > COUNTED {
        all.push(("PORTS".into(), granted.ports.to_string()));
    } else if !ports.is_empty() {
        all.push(("PORTS".into(), ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")));
    }
    all
}

/// CPU limits as the runtime writes them, which also survive a reload of systemd. The specification has shares only; what a
/// runtime makes of them where there are weights differs between versions, so the weight is given as itself.
fn limit(resources: &mut Object, settings: &Settings, version: Version) -> serde_json::Result<()> {
    let quota = settings.quota.map(|quota| match quota {
        Quota::Micros(micros) => i64::try_from(micros).unwrap_or(i64::MAX),
        Quota::Unlimited => -1,
    });
    resources.within("cpu", |cpu| {
        if let (Some(shares), Version::V1) = (settings.weight, version) {
            cpu.set("shares", &shares)?;
        }
        if let Some(quota) = quota {
            cpu.set("quota", &quota)?;
            cpu.set("period", &PERIOD)?;
        }
        Ok(())
    })?;
    if version == Version::V1 {
        return Ok(());
    }
    resources.within("unified", |unified| {
        if let Some(weight) = settings.weight {
            unified.set("cpu.weight", &weight.to_string())?;
        }
        // The engine's own would win over the quota.
        match quota.filter(|_| unified.raw("cpu.max").is_some()) {
            Some(-1) => unified.set("cpu.max", &format!("max {PERIOD}")),
            Some(quota) => unified.set("cpu.max", &format!("{quota} {PERIOD}")),
            None => Ok(()),
        }
    })
}

fn resolver(source: &Path) -> Mount {
    let options = ["rbind", "ro"].map(str::to_owned).to_vec();
    let mount = MountBuilder::default().destination(RESOLVER).typ("bind").source(source).options(options);
    mount.build().expect("a mount needs nothing but its destination")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_container_are_named_where_they_say_something_else() {
        let granted = Granted { ports: "31000-31001".parse().unwrap(), ..Granted::default() };
        let own = |env: &[&str]| {
            let text = serde_json::json!({ "process": { "env": env } }).to_string();
            own_ports(text.as_bytes(), &granted)
        };
        assert_eq!(own(&["PATH=/bin", "PORT0=8080", "PORT1=31001", "PORT7=1", "PORTS=80"]), ["PORT0=8080", "PORTS=80"]);
        assert_eq!(
            own(&["PORT1", "PORTSLICE_BLOCK=32768-33791", "PORT0=31005"]),
            ["PORT1"],
            "an earlier edit's is not its own"
        );
        assert_eq!(own_ports(b"{}", &granted), [""; 0]);
    }
}
