//! What a container is given before it exists: a lease, and what of it goes into its bundle.
//!
//! What does not live here: where the bundle comes from and goes to (the shim, or Podman's hook), and how it is edited
//! ([`crate::oci::edit`]).

use std::path::{Path, PathBuf};

use crate::config::{Config, Mode};
use crate::cpu::{self, Policy, Version, settings};
use crate::error::{Error, Result};
use crate::face::command::prepare;
use crate::face::hook::{of_bundle, with_profile};
use crate::host::process::Worker;
use crate::lease::Lease;
use crate::net::Netns;
use crate::oci::asked::{Asked, Network};
use crate::oci::bundle::ONLY_BARE;
use crate::oci::edit::{self, Edit, Granted, Hooks};
use crate::oci::{bundle, engine};
use crate::ports::{Block, PortSet};
use crate::request::{PREFIX, Request};
use crate::slice::state::in_namespace;
use crate::slice::{self, By, Container};

/// Where the hooks are when they are not beside the shim.
const INSTALLED: &str = "/usr/libexec/portslice";
/// The host's resolver.
const RESOLVER: &str = "/etc/resolv.conf";

/// The container that is to be created.
pub struct Target<'a> {
    /// Its id, as it was given.
    pub id: &'a str,
    /// Its bundle, without links on the way, where that is known: whoever takes up what is leased has to name the same one.
    pub bundle: Option<&'a Path>,
    /// A directory of the container, from which relative paths of its bundle lead.
    pub directory: &'a Path,
    /// Who creates it: what is leased is leased for as long as that runs.
    pub worker: Worker,
}

/// What was leased, for whoever has to give it back.
pub struct Given {
    config: Config,
    /// `None`: it has its place in the slice of others, or gets one from the hook.
    lease: Option<Lease>,
}

impl Given {
    /// The container is not created after all.
    pub fn take_back(&self) {
        let Some(lease) = &self.lease else { return };
        let bundle = lease.members.first().and_then(|member| member.bundle.clone());
        if let Err(e) = slice::detach(&self.config, &lease.id, &By::Runtime(bundle)) {
            log::error!("{e}, while giving back what was leased to {}", lease.id);
        }
    }
}

/// Leases what the container asks for, and returns that with the edited bundle. `None` for a container that is none of ours.
pub fn give(text: &[u8], target: &Target<'_>, load: &dyn Fn() -> Result<Config>) -> Result<Option<(Given, Vec<u8>)>> {
    let Some(asked) = Asked::read(text)? else { return Ok(None) };
    // A device of ours asks as well, by the profile in the arguments of its hook.
    let asks = asked.asks() || bundle::parse(text).is_ok_and(|bundle| bundle.profile.is_some());
    let config = match load() {
        // A file that is wrong keeps no container from starting that has nothing to do with it.
        Err(_) if !asks => return Ok(None),
        config => config?,
    };
    if !asks {
        return without_asking(text, &asked, config);
    }
    let request = request(text, &asked, target, &config)?;
    let (granted, lease) = grant(&config, &request, &asked, target.worker)?;
    let given = Given { config, lease };
    let own = edit::own_ports(text, &granted);
    if !own.is_empty() {
        let (id, own, ports) = (&request.id, own.join(", "), &granted.ports);
        log::warn!(
            "{id}: its own {own} stays, although it was given ports {ports}: leave that variable out to be told them"
        );
    }
    let edit = Edit { granted, ..edits(&given.config, &request, &asked, target) };
    let edited =
        hooks(&given.config, Vec::new()).and_then(|hooks| edit::edit(text, &Edit { hooks: Some(hooks), ..edit }));
    match edited {
        Ok(text) => Ok(Some((given, text))),
        Err(e) => {
            given.take_back();
            Err(e)
        }
    }
}

/// A container that asks for nothing: one of a pod whose namespace has a slice belongs to that; with `mode = "all"` one that
/// will have no network gets a slice. Only the hook can tell whether it has one.
fn without_asking(text: &[u8], asked: &Asked, config: Config) -> Result<Option<(Given, Vec<u8>)>> {
    let edit = match &asked.network {
        Network::Joined(path) if asked.joins_a_pod() => {
            let Some(lease) = in_namespace(&config, Netns::open(path)?.id)? else { return Ok(None) };
            let granted = Granted { block: Some(lease.block), set_range: false, ports: lease.ports };
            Edit { hooks: Some(hooks(&config, Vec::new())?), granted, ..Edit::default() }
        }
        Network::Own if config.runtime.mode == Mode::All => {
            Edit { hooks: Some(hooks(&config, vec![ONLY_BARE.to_owned()])?), ..Edit::default() }
        }
        _ => return Ok(None),
    };
    let text = edit::edit(text, &edit)?;
    Ok(Some((Given { config, lease: None }, text)))
}

/// The request, complete with what the bundle says.
fn request(text: &[u8], asked: &Asked, target: &Target<'_>, config: &Config) -> Result<Request> {
    let bundle = bundle::parse(text).unwrap_or_default();
    let mut pairs = asked.annotations.clone();
    if let Some(name) = &bundle.profile {
        pairs = with_profile(&config.profile(name)?, pairs);
    }
    let mut request = Request::from_annotations(target.id.parse()?, pairs)?;
    of_bundle(&mut request, bundle);
    // What an earlier edit of the same bundle wrote is replaced.
    request.fits(asked.earlier_block.as_deref().and_then(block_of))?;
    request.port_range = None;
    let engine = engine::identify(&asked.annotations, Some(target.directory));
    request.bundle = target.bundle.map(Path::to_owned);
    request.names = engine.names;
    (request.name, request.engine) = (request.names.joined(), engine.name.map(str::to_owned));
    Ok(request)
}

fn block_of(text: &str) -> Option<Block> {
    let ports: PortSet = text.parse().ok()?;
    ports.ranges().first().and_then(|range| Block::try_from(*range).ok())
}

/// What it gets: of the slice of the namespace that it joins, or of its own.
fn grant(config: &Config, request: &Request, asked: &Asked, worker: Worker) -> Result<(Granted, Option<Lease>)> {
    match &asked.network {
        Network::Host => return Err(slice::without_namespace(&request.id)),
        Network::Joined(path) => {
            let netns = Netns::open(path)?;
            if netns.id == Netns::here()? {
                return Err(slice::without_namespace(&request.id));
            }
            if let Some(lease) = in_namespace(config, netns.id)? {
                let own = &request.ports.set;
                let ports = if own.is_empty() { lease.ports } else { own.clone() };
                return Ok((Granted { block: Some(lease.block), set_range: false, ports }, None));
            }
        }
        Network::Own => {}
    }
    let lease = slice::attach(config, request, Container::Expected(worker), &prepare)?;
    let Some(lease) = lease else { return Ok((Granted::default(), None)) };
    let set_range = asked.network == Network::Own;
    let granted = Granted { block: Some(lease.block), set_range, ports: lease.ports.clone() };
    Ok((granted, Some(lease)))
}

/// What is edited besides the lease and the hooks.
fn edits(config: &Config, request: &Request, asked: &Asked, target: &Target<'_>) -> Edit {
    let policy =
        Policy { enable_cfs: config.enable_cfs, revocable_cpu_low_priority: config.revocable_cpu_low_priority };
    let revocable = request.cpus_revocable.unwrap_or(false);
    let cpu = cpu::Asked { cpus: request.cpus, limit: request.cpus_limit, revocable };
    let version = Version::of_this_host();
    let of_us = |(key, value): &(String, String)| Some((key.strip_prefix(PREFIX)?.to_owned(), value.clone()));
    Edit {
        annotations: asked.by_environment().iter().filter_map(of_us).collect(),
        cpu: (!request.sandbox).then(|| (settings(&cpu, &policy, version), version)),
        resolver: if asked.has_resolver { None } else { resolver(asked.root.as_deref(), target.directory) },
        ..Edit::default()
    }
}

/// The host's resolv.conf, where the image has none that names a server. A link in the image leads into the container, and is
/// not followed here.
fn resolver(root: Option<&Path>, bundle: &Path) -> Option<PathBuf> {
    let host = Path::new(RESOLVER).canonicalize().ok()?;
    let image = bundle.join(root?).join("etc/resolv.conf");
    let plain = image.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let text = if plain { crate::file::read(&image).unwrap_or_default() } else { Vec::new() };
    let names = String::from_utf8_lossy(&text).lines().any(|line| line.split_whitespace().next() == Some("nameserver"));
    (!names).then_some(host)
}

/// The hooks, with an environment that leads them to this configuration whatever the runtime is called with later.
fn hooks(config: &Config, arguments: Vec<String>) -> Result<Hooks> {
    let beside = std::env::current_exe().ok().and_then(|shim| Some(shim.parent()?.to_owned()));
    let mut places = beside.into_iter().chain([PathBuf::from(INSTALLED)]);
    let directory = places.find(|at| at.join("portslice-prestart").exists()).ok_or_else(|| {
        Error::unsupported(
            format!("there is no portslice-prestart beside this program, nor in {INSTALLED}"),
            "install the hooks in one of the two places",
        )
    })?;
    let file = config.file.as_ref().map(|file| format!("PORTSLICE_CONFIG={}", file.display()));
    let state = format!("PORTSLICE_STATE_DIR={}", config.state_dir.display());
    Ok(Hooks { directory, arguments, environment: file.into_iter().chain([state]).collect() })
}
