//! What a hook reads from the bundle: which settings of the network namespace it brings along, how many CPUs it has, and
//! whether the container has power over its network namespace.
//!
//! runc applies `linux.sysctl` after our hook, crun before it, so what the bundle sets is left alone. A range of ephemeral ports
//! is not among those settings: whether it is the block's, only whoever leases can tell.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::cpus::Cpus;
use crate::error::{Error, Result};
use crate::file;
use crate::ports::PortSet;
use crate::refusal::{one_line, quoted};

/// What the bundle says about its container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Keys of `linux.sysctl` below net, as paths under /proc/sys/net (`ipv4/tcp_ecn`).
    pub own_settings: Vec<String>,
    /// What it sets `net.ipv4.ip_local_port_range` to, with one blank between the numbers.
    pub port_range: Option<String>,
    /// What it sets `net.ipv4.ip_local_reserved_ports` to, unless the kernel would not take it.
    pub reserved_ports: Option<PortSet>,
    /// Its CPUs by `linux.resources`: the quota if there is one, else the shares, 1024 to a CPU. A `cpu.max` under `unified`
    /// stands above the quota under `cpu`, since runtimes write it later.
    pub cpus: Option<Cpus>,
    /// Whether nothing in the container can change or go around a queue in its network namespace.
    ///
    /// It is so if the bundle makes that namespace and no set of capabilities names CAP_NET_ADMIN, which takes queues
    /// away, or CAP_NET_RAW, which sends around them: by PACKET_QDISC_BYPASS, and by an SO_PRIORITY that HTB lets pass
    /// uncounted. What is not said is what the runtime makes of it, and counts as a capability.
    ///
    /// A user namespace of the bundle changes nothing. The runtime makes it first, so it owns the network namespace, and
    /// over that the container has the capabilities that are listed; in another one, made inside, it has all of them,
    /// over nothing but what that one owns. One that exists already has members nobody lists here, and a sandbox is
    /// joined by containers with capabilities of their own: both count as power. Capabilities that make a container root
    /// of the host are not looked at, since they beat a limit wherever it is.
    pub tamper_proof: bool,
    /// Whether no set of capabilities names CAP_NET_ADMIN or CAP_NET_RAW: the part of `tamper_proof` that also counts for a
    /// container that joins a namespace.
    pub powerless: bool,
    /// Whether a set of capabilities names CAP_NET_ADMIN, or none is said, and the bundle has no user namespace: it has the
    /// capability over the host's network as well.
    pub net_admin: bool,
    /// Whether the bundle names a network namespace that exists already.
    pub joins_namespace: bool,
    /// Whether it is the sandbox of a pod: a process that holds the namespaces for containers with cgroups of their own.
    pub sandbox: bool,
    /// The profile that it names in the arguments of our hook. Where the hook is registered twice, by a CDI device and
    /// by an annotation, only one of the two has the arguments, and both ask for the same.
    pub profile: Option<String>,
    /// The name of the container's host, where it has one.
    pub hostname: Option<String>,
}

/// The argument of a hook that the shim added for a container that did not ask: it is left alone unless its namespace is bare.
pub const ONLY_BARE: &str = "--only-bare";

/// What our hook's program is called.
pub const PRESTART: &str = "portslice-prestart";

/// The profile that arguments of our hook name: `--profile NAME`, which is all they may say.
pub fn profile_in<'a>(mut arguments: impl Iterator<Item = &'a str>) -> Result<Option<String>> {
    let mut profile = None;
    while let Some(argument) = arguments.next() {
        if argument == ONLY_BARE {
            continue;
        }
        let name = match argument.strip_prefix("--profile=") {
            None if argument == "--profile" => arguments.next(),
            name => name,
        };
        let Some(name) = name else {
            let why = "a hook takes nothing but --profile NAME, with the name of a profile of the configuration";
            return Err(Error::invalid(format!("argument {}", quoted(argument)), why));
        };
        profile = Some(name.to_owned());
    }
    Ok(profile)
}

/// Reads the bundle's config.json. One that cannot be read or understood is the runtime's to refuse, and says nothing; one
/// that is no file at all (a FIFO) or has no end is refused here, since no runtime would say why.
pub fn read(bundle: &Path) -> Result<Bundle> {
    let path = bundle.join("config.json");
    let spec: Spec = match file::read(&path).map(|text| serde_json::from_slice(&text)) {
        Ok(Ok(spec)) => spec,
        Ok(Err(e)) => {
            log::debug!("{}: {e}", path.display());
            Spec::default()
        }
        Err(e) if e.kind() == ErrorKind::InvalidInput => return Err(Error::file("read", path)(e)),
        Err(e) => {
            log::debug!("cannot read {}: {e}", path.display());
            Spec::default()
        }
    };
    Ok(spec.understood())
}

/// The same from the text of a config.json.
pub fn parse(text: &[u8]) -> serde_json::Result<Bundle> {
    Ok(serde_json::from_slice::<Spec>(text)?.understood())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    linux: Option<Linux>,
    process: Option<Process>,
    annotations: Option<BTreeMap<String, Value>>,
    hooks: Option<Hooks>,
    hostname: Option<String>,
}

/// Those lists in which a hook finds the container not yet running.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hooks {
    prestart: Option<Vec<Hook>>,
    create_runtime: Option<Vec<Hook>>,
}

#[derive(Deserialize)]
struct Hook {
    path: PathBuf,
    #[serde(default)]
    args: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Linux {
    sysctl: Option<BTreeMap<String, Value>>,
    resources: Option<Resources>,
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    cpu: Option<Cpu>,
    /// Files of a v2 cgroup.
    unified: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cpu {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Process {
    /// Bounding, effective, permitted, inheritable, ambient: it makes no difference which.
    capabilities: Option<BTreeMap<String, Option<Vec<String>>>>,
}

impl Spec {
    fn understood(self) -> Bundle {
        let (tamper_proof, sandbox) = (self.is_tamper_proof(), self.is_sandbox());
        let (powerless, net_admin) = (self.is_powerless(), self.has_net_admin());
        let joins_namespace = self.joins("network");
        let profile = self.profile();
        let hostname = self.hostname.map(|name| one_line(&name)).filter(|name| !name.is_empty());
        let linux = self.linux.unwrap_or_default();
        let cpus = linux.resources.and_then(|resources| resources.cpus());
        let (mut own_settings, mut port_range, mut reserved_ports) = (Vec::new(), None, None);
        for (key, value) in linux.sysctl.unwrap_or_default() {
            // sysctl(8): either separator, as long as it is the same throughout
            match key.replace('.', "/").strip_prefix("net/") {
                Some("ipv4/ip_local_port_range") => {
                    let words: Vec<&str> = value.as_str().unwrap_or_default().split_whitespace().collect();
                    port_range = Some(words.join(" "));
                }
                Some(setting) => {
                    own_settings.push(setting.to_owned());
                    if setting == "ipv4/ip_local_reserved_ports" {
                        reserved_ports = value.as_str().and_then(|ports| PortSet::of_kernel(ports).ok());
                    }
                }
                None => {}
            }
        }
        Bundle {
            own_settings,
            port_range,
            reserved_ports,
            cpus,
            tamper_proof,
            powerless,
            net_admin,
            joins_namespace,
            sandbox,
            profile,
            hostname,
        }
    }

    fn profile(&self) -> Option<String> {
        let lists = self.hooks.as_ref().map(|hooks| [&hooks.prestart, &hooks.create_runtime]);
        let ours = |hook: &&Hook| hook.path.file_name().is_some_and(|name| name == PRESTART);
        let args = lists.into_iter().flatten().flatten().flatten().filter(ours).filter_map(|hook| hook.args.as_ref());
        let mut named = args.filter_map(|args| profile_in(args.iter().skip(1).map(String::as_str)).ok().flatten());
        named.next()
    }

    fn is_tamper_proof(&self) -> bool {
        let own = self.namespaces().any(|namespace| namespace.kind == "network");
        own && !self.joins("network") && !self.joins("user") && self.is_powerless() && !self.is_sandbox()
    }

    /// Does it join a namespace of this kind that exists already?
    fn joins(&self, kind: &str) -> bool {
        let exists = |namespace: &Namespace| namespace.path.as_ref().is_some_and(|path| !path.is_empty());
        self.namespaces().any(|namespace| namespace.kind == kind && exists(namespace))
    }

    fn is_powerless(&self) -> bool {
        self.lacks(&["CAP_NET_ADMIN", "CAP_NET_RAW"])
    }

    fn has_net_admin(&self) -> bool {
        !self.lacks(&["CAP_NET_ADMIN"]) && !self.namespaces().any(|namespace| namespace.kind == "user")
    }

    /// Does no set of capabilities name one of these?
    fn lacks(&self, powers: &[&str]) -> bool {
        self.process.as_ref().and_then(|process| process.capabilities.as_ref()).is_some_and(|sets| {
            let mut names = sets.values().flatten().flatten();
            // crun also takes names in lower case.
            !names.any(|name| powers.iter().any(|power| name.eq_ignore_ascii_case(power)))
        })
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.linux.iter().flat_map(|linux| &linux.namespaces).flatten()
    }

    fn is_sandbox(&self) -> bool {
        const KEYS: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
        let mut annotations = self.annotations.iter().flatten();
        annotations.any(|(key, value)| KEYS.contains(&key.as_str()) && value == "sandbox")
    }
}

impl Resources {
    fn cpus(self) -> Option<Cpus> {
        let cpu = self.cpu.unwrap_or_default();
        match self.unified.as_ref().and_then(|files| files.get("cpu.max")) {
            Some(text) => cpu.with_max(text).count(),
            None => cpu.count(),
        }
    }
}

impl Cpu {
    /// Its bandwidth as the text of a `cpu.max` says: `50000 100000`, `50000`, `max`. Any other text is the kernel's to refuse.
    fn with_max(self, text: &str) -> Self {
        let mut words = text.split_whitespace();
        let quota = words.next().and_then(|quota| quota.parse().ok());
        Self { quota, period: words.next().and_then(|period| period.parse().ok()), ..self }
    }

    /// Unknown where neither is set: 0 shares and a quota of 0 or -1 are how runtimes write that.
    fn count(&self) -> Option<Cpus> {
        let thousandths = match (self.quota, self.shares) {
            (Some(quota @ 1..), _) => {
                let period = self.period.filter(|&period| period > 0).unwrap_or(DEFAULT_PERIOD);
                u128::from(quota.unsigned_abs()) * 1000 / u128::from(period)
            }
            (_, Some(shares @ 1..)) => u128::from(shares) * 1000 / 1024,
            _ => return None,
        };
        // A share of a thousandth and less is still one.
        Cpus::from_thousandths(u64::try_from(thousandths.max(1)).ok()?)
    }
}

/// The kernel's cpu.cfs_period_us, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bundle(spec: Value) -> Bundle {
        serde_json::from_value::<Spec>(spec).unwrap().understood()
    }

    /// A spec that is tamper-proof; the tests break it.
    fn proof() -> Value {
        json!({
            "process": {"capabilities": {"bounding": ["CAP_KILL"], "effective": [], "ambient": null}},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "user"}, {"type": "network", "path": ""}]},
        })
    }

    #[test]
    fn net_admin_over_the_hosts_network_is_what_no_user_namespace_keeps_back() {
        let with = |namespaces: Value, capabilities: Value| {
            bundle(json!({"process": {"capabilities": capabilities}, "linux": {"namespaces": namespaces}})).net_admin
        };
        let (plain, user) = (json!([{"type": "network"}]), json!([{"type": "network"}, {"type": "user"}]));
        for set in ["bounding", "permitted", "ambient"] {
            assert!(with(plain.clone(), json!({set: ["CAP_KILL", "cap_net_admin"]})), "{set}");
            assert!(!with(user.clone(), json!({set: ["CAP_NET_ADMIN"]})), "{set} in a user namespace");
        }
        assert!(!with(plain.clone(), json!({"bounding": ["CAP_KILL", "CAP_NET_RAW"]})), "no such power");
        assert!(with(plain, json!(null)), "what is not said is not certain");
        assert!(!with(user, json!(null)), "whatever it is, it is its own");
    }

    #[test]
    fn only_what_is_certain_is_tamper_proof() {
        assert!(bundle(proof()).tamper_proof);
        let plain = serde_json::to_value(oci_spec::runtime::Spec::default()).unwrap();
        assert!(bundle(plain).tamper_proof, "a spec as `runc spec` writes it");
        for (pointer, value) in [
            ("/process", json!(null)),
            ("/process/capabilities", json!(null)),
            ("/process/capabilities/bounding", json!(["CAP_KILL", "CAP_NET_ADMIN"])),
            ("/process/capabilities/bounding", json!(["CAP_NET_RAW"])),
            ("/process/capabilities/effective", json!(["cap_net_admin"])),
            ("/process/capabilities/ambient", json!(["CAP_NET_ADMIN"])),
            ("/linux", json!(null)),
            ("/linux/namespaces", json!(null)),
            ("/linux/namespaces", json!([{"type": "mount"}])),
            ("/linux/namespaces/2/path", json!("/run/netns/x")),
            ("/linux/namespaces/1", json!({"type": "user", "path": "/proc/1/ns/user"})),
        ] {
            let mut spec = proof();
            *spec.pointer_mut(pointer).unwrap() = value.clone();
            assert!(!bundle(spec).tamper_proof, "{pointer} {value}");
        }
        let mut sandbox = proof();
        sandbox["annotations"] = json!({"io.kubernetes.cri-o.ContainerType": "sandbox", "other": 1});
        let sandbox = bundle(sandbox);
        assert!(!sandbox.tamper_proof && sandbox.sandbox);
        assert!(!bundle(json!({})).tamper_proof);
    }

    #[test]
    fn cpus_are_the_quota_else_the_shares() {
        for (cpu, cpus) in [
            (json!({"quota": 150_000, "period": 100_000, "shares": 512}), Some("1.5")),
            (json!({"quota": 50_000}), Some("0.5")),
            (json!({"quota": 50_000, "period": 0}), Some("0.5")),
            (json!({"quota": 35_000, "period": 10_000}), Some("3.5")),
            (json!({"quota": 1, "period": 1_000_000}), Some("0.001")),
            (json!({"quota": -1, "shares": 2048}), Some("2")),
            (json!({"quota": 0, "shares": 359}), Some("0.35")),
            (json!({"shares": 2}), Some("0.001")),
            (json!({"shares": 0}), None),
            (json!({"quota": i64::MAX, "period": 1}), None),
            (json!({"shares": u64::MAX}), None),
            (json!({"quota": null, "shares": null, "cpus": "0-3"}), None),
            (json!(null), None),
        ] {
            let read = bundle(json!({"linux": {"resources": {"cpu": cpu}}})).cpus;
            assert_eq!(read, cpus.map(|cpus| cpus.parse().unwrap()), "{cpu}");
        }
        assert_eq!(bundle(json!({"linux": {"resources": null}})).cpus, None);
        for (max, cpus) in
            [("50000 100000", Some("0.5")), ("20000", Some("0.2")), ("max 100000", Some("2")), ("?", Some("2"))]
        {
            let resources = json!({"cpu": {"quota": 150_000, "shares": 2048}, "unified": {"cpu.max": max}});
            let read = bundle(json!({"linux": {"resources": resources}})).cpus;
            assert_eq!(read, cpus.map(|cpus| cpus.parse().unwrap()), "{max}");
        }
        let read = bundle(json!({"linux": {"resources": {"unified": {"cpu.max": "150000 100000"}}}})).cpus;
        assert_eq!(read, Some("1.5".parse().unwrap()));
    }

    #[test]
    fn settings_are_found_and_a_range_of_ports_is_apart() {
        let spec = |key: &str| json!({"linux": {"sysctl": {key: "1", "kernel.msgmax": "1"}}});
        assert_eq!(bundle(spec("net.ipv4.tcp_ecn")).own_settings, ["ipv4/tcp_ecn"]);
        assert_eq!(bundle(spec("net/core/somaxconn")).own_settings, ["core/somaxconn"]);
        let ranged = bundle(json!({"linux": {"sysctl": {"net/ipv4/ip_local_port_range": "32768\t33791"}}}));
        assert_eq!((ranged.own_settings.len(), ranged.port_range.as_deref()), (0, Some("32768 33791")));
        let reserved = |ports: &str| {
            let read = bundle(json!({"linux": {"sysctl": {"net.ipv4.ip_local_reserved_ports": ports}}}));
            assert_eq!(read.own_settings, ["ipv4/ip_local_reserved_ports"]);
            read.reserved_ports.map(|ports| ports.to_string())
        };
        for (text, ports) in [("0-33791,8\n", "8,1-33791"), ("", ""), ("0,7", "7"), ("0-0", "")] {
            let ports: PortSet = ports.parse().unwrap();
            assert_eq!(reserved(text), Some(ports.to_string()), "{text}");
        }
        assert_eq!(reserved("9-8"), None);
    }

    #[test]
    fn a_profile_is_what_the_arguments_of_our_hook_name() {
        let named = |list: &str, path: &str, args: Value| {
            let other = json!({"path": "/bin/other", "args": ["other", "--profile", "theirs"]});
            bundle(json!({"hooks": {list: [other, {"path": path, "args": args}]}})).profile
        };
        let args = || json!(["portslice-prestart", "--profile", "web"]);
        for list in ["prestart", "createRuntime"] {
            assert_eq!(named(list, "/x/portslice-prestart", args()).as_deref(), Some("web"), "{list}");
        }
        assert_eq!(named("poststop", "/x/portslice-prestart", args()), None);
        assert_eq!(named("prestart", "/x/portslice-poststop", args()), None);
        assert_eq!(
            named("prestart", "/x/portslice-prestart", json!(["--profile", "web"])),
            None,
            "the first is its name"
        );
        assert_eq!(named("prestart", "/x/portslice-prestart", json!(null)), None);
        let read = |words: &[&str]| profile_in(words.iter().copied());
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["--profile=a.b"]).unwrap().as_deref(), Some("a.b"));
        for bad in [&["--profile"][..], &["web"], &["--profil", "web"], &["--profile", "a", "b"]] {
            let line = read(bad).unwrap_err().to_string();
            assert!(line.contains("--profile NAME"), "{bad:?}: {line}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        // what is to be refused may be in it
        let nothing = Bundle { net_admin: true, ..Bundle::default() };
        assert_eq!(read(Path::new("/nonexistent")).unwrap(), nothing);
    }
}
