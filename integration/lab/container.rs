//! A container without a runtime: a bare network namespace, attached with the CLI.

use super::host::{Host, Inner};
use super::leftovers;
use super::ns::Ns;
use super::run::Output;
use super::wait::eventually;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

/// An attached bare namespace.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its namespace.
    pub ns: Ns,
    /// Its block of ephemeral ports.
    pub block: RangeInclusive<u16>,
    /// Its assigned ports, in order.
    pub ports: Vec<u16>,
    /// What `list --json` says about it.
    pub lease: serde_json::Value,
    mount: Option<PathBuf>,
    host: Arc<Inner>,
}

impl Host {
    /// With two containers: A has ports 31000 to 31009, and B the ten behind them.
    pub fn with_two(name: &str) -> (Host, Container, Container) {
        let host = Host::new(name);
        let a = host.bare("a", &["--ports", "31000-31009"]);
        let b = host.bare("b", &["--ports", "31010-31019"]);
        (host, a, b)
    }

    /// Attaches a bare namespace: `attach ID --pid HOLDER args...`, which must succeed.
    pub fn bare(&self, id: &str, args: &[&str]) -> Container {
        self.try_bare(id, args).unwrap_or_else(|out| panic!("`{}` failed: {out}", out.line))
    }

    /// The same for an attach that may be refused.
    pub fn try_bare(&self, id: &str, args: &[&str]) -> Result<Container, Output> {
        Container::attach(self.share(), id, args)
    }

    /// Attaches a namespace that is bind-mounted at /run/netns/ID, through `--netns`.
    pub fn bare_named(&self, id: &str, args: &[&str]) -> Container {
        Container::attach_named(self.share(), id, args).unwrap_or_else(|out| panic!("`{}` failed: {out}", out.line))
    }
}

impl Container {
    fn attach(host: Arc<Inner>, id: &str, args: &[&str]) -> Result<Container, Output> {
        let ns = Ns::net_only(&format!("{} ({id})", host.name));
        let pid = ns.pid().to_string();
        let out = host.portslice([&["attach", id, "--pid", &pid], args].concat());
        if out.code == Some(0) { Ok(Container::known(host, id, ns, None)) } else { Err(out) }
    }

    fn attach_named(host: Arc<Inner>, id: &str, args: &[&str]) -> Result<Container, Output> {
        let ns = Ns::net_only(&format!("{} ({id})", host.name));
        let mount = PathBuf::from("/run/netns").join(id);
        let (from, at) = (ns.path(), mount.clone());
        host.ns.inside_mounts(move || {
            std::fs::write(&at, "").expect("mount point");
            let none = None::<&str>;
            nix::mount::mount(Some(&from), &at, none, nix::mount::MsFlags::MS_BIND, none).expect("bind mount");
        });
        let path = mount.to_string_lossy().into_owned();
        let out = host.portslice([&["attach", id, "--netns", &path], args].concat());
        if out.code == Some(0) { Ok(Container::known(host, id, ns, Some(mount))) } else { Err(out) }
    }

    fn known(host: Arc<Inner>, id: &str, ns: Ns, mount: Option<PathBuf>) -> Container {
        let lease =
            host.list().into_iter().find(|l| l["id"] == id).unwrap_or_else(|| panic!("{id} is not in list --json"));
        let port = |key: &str| {
            let value = lease["block"][key].as_u64().and_then(|p| u16::try_from(p).ok());
            value.unwrap_or_else(|| panic!("{id}: no block.{key} in {lease}"))
        };
        let (block, ports) = (port("begin")..=port("end"), ports_of(lease["ports"].as_str().unwrap_or_default()));
        Container { id: id.into(), ns, block, ports, lease, mount, host }
    }

    /// The host it is on.
    pub fn host(&self) -> &Inner {
        &self.host
    }

    /// Runs a closure in the container's network namespace.
    pub fn inside<R: Send>(&self, job: impl FnOnce() -> R + Send) -> R {
        self.ns.inside(job)
    }

    /// Detaches it with the CLI; the namespace lives on.
    #[track_caller]
    pub fn detach(&self) -> Output {
        self.host.portslice(["detach", self.id.as_str()]).ok()
    }

    /// `show ID --json`.
    #[track_caller]
    pub fn show(&self) -> serde_json::Value {
        self.host.portslice(["show", self.id.as_str(), "--json"]).ok().json()
    }

    /// How many packets of this container were dropped for a reason so far.
    #[track_caller]
    pub fn drops(&self, reason: &str) -> u64 {
        let shown = self.show();
        let drops =
            shown["drops"].as_object().unwrap_or_else(|| panic!("show {} --json has no `drops`: {shown}", self.id));
        drops.get(reason).and_then(serde_json::Value::as_u64).unwrap_or(0)
    }

    /// The host's end of its device pair: the one whose name ends in its slot.
    pub fn device(&self) -> Option<String> {
        let slot = self.lease["slot"].to_string();
        let ours =
            |name: &&String| name.strip_suffix(&slot).is_some_and(|n| !n.ends_with(|c: char| c.is_ascii_digit()));
        leftovers::links(&self.host.ns).iter().find(ours).cloned()
    }

    /// Ends the namespace without telling anybody; returns when the kernel has taken its devices away, which it does later.
    #[track_caller]
    pub fn kill(&self) {
        if let Some(mount) = self.mount.clone() {
            self.host.ns.inside_mounts(move || {
                let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
                let _ = std::fs::remove_file(&mount);
            });
        }
        self.ns.kill();
        assert!(eventually(|| self.device().is_none()), "{}: {:?} outlives its namespace", self.id, self.device());
    }
}

/// The members of a port set such as "31000-31009,31100".
pub fn ports_of(set: &str) -> Vec<u16> {
    let one = |part: &str| -> Vec<u16> {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        (low.trim().parse().unwrap()..=high.trim().parse().unwrap()).collect()
    };
    set.split(',').filter(|p| !p.trim().is_empty()).flat_map(one).collect()
}
