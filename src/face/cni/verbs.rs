//! One verb a command.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::ask::{FILES, asked};
use super::chain;
use super::decode::{Environment, NEWEST, Network, VERSIONS};
use super::failure::Failure;
use super::result::{Attached, result};
use crate::config::Config;
use crate::error::Error;
use crate::face::command::prepare;
use crate::host::process::boot_id;
use crate::host::sysctl::Proc;
use crate::host::{Facts, HostRecord};
use crate::lease::{Lease, Ledger};
use crate::net::link::own_mac;
use crate::net::{Netlink, Netns};
use crate::plan::slice::PAIR_MTU;
use crate::request::ContainerId;
use crate::slice::fsck::Difference;
use crate::slice::{self, By, Container, fsck, network as networks};

/// What a command came to: what is printed, if anything.
pub type Outcome = Result<Option<Value>, Failure>;

/// Says which versions are spoken.
pub fn version(network: &Network) -> Value {
    let version = network.cni_version.as_deref().filter(|version| VERSIONS.contains(version)).unwrap_or(NEWEST);
    json!({"cniVersion": version, "supportedVersions": VERSIONS})
}

/// The configuration of portslice: the file that the network names, else what hooks take.
pub fn configure(network: &Network) -> Result<Config, Failure> {
    let file = |key: &str| match network.portslice.as_ref().and_then(|ours| ours.get(key)) {
        None => Ok(None),
        Some(Value::String(path)) if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
        Some(_) => {
            Err(Failure::config(format!("network configuration, portslice.{key}"), "give an absolute path in quotes"))
        }
    };
    let [config, state_dir] = FILES.map(file);
    Ok(Config::load(config?.as_deref())?.with_state_dir(state_dir?.as_deref())?)
}

/// Attaches a container.
pub fn add(config: &Config, id: ContainerId, environment: &Environment, network: &Network) -> Outcome {
    let asked = asked(id, environment, network)?;
    published_here(config, &asked.published_at)?;
    let container = Container::Path(&environment.netns);
    let lease = slice::attach(config, &asked.request, container, &prepare)?;
    let lease = lease.ok_or_else(|| Failure::from(Error::Failed("attaching came to no slice".into())))?;
    let record = HostRecord::read(&config.state_dir, boot_id())?;
    let given = record.given.iter().find(|given| given.generation == lease.given).cloned();
    let given = given.unwrap_or_else(|| record.given());
    let attached = Attached {
        outer: (lease.link(), own_mac(record.instance, lease.slot)),
        inner: (&lease.device, given.mac),
        mtu: PAIR_MTU,
        sandbox: &environment.netns.to_string_lossy(),
        addresses: &given.addresses,
        routes: &given.routes,
    };
    Ok(Some(result(&attached, network)))
}

/// Takes a container's network away. That there is none is success.
pub fn del(config: &Config, id: &ContainerId, environment: &Environment, network: &Network) -> Outcome {
    slice::detach(config, id, &By::Network(network.attachment(environment)))?;
    Ok(None)
}

/// Looks whether everything is as planned, and as the ADD of the whole list said: what plugins behind this one made of the
/// container's network is in its result.
pub fn check(config: &Config, id: &ContainerId, environment: &Environment, network: &Network) -> Outcome {
    let Some(told) = &network.prev_result else {
        return Err(Failure::config("prevResult is missing", "CHECK needs the result of the ADD before it"));
    };
    let lease = attached(config, id, environment, network)?;
    let differs = |line: String| Failure::new(Failure::NOT_AS_PLANNED, format!("container {id}: {line}"));
    if Netns::open(&environment.netns)?.id != lease.netns_id {
        return Err(differs(format!("{} is not its network namespace", environment.netns.display())));
    }
    let given = HostRecord::read(&config.state_dir, boot_id())?.given();
    let others = chain::others(told, &lease.device, &given);
    let others = others.ok_or_else(|| differs(format!("prevResult does not have its device {}", lease.device)))?;
    let differences = fsck::check(config, &lease, &others)?;
    if let Some(Difference { what, .. }) = differences.first() {
        let more = match differences.len() {
            1 => String::new(),
            n => format!(" (and {} more: `portslice fsck` tells all)", n - 1),
        };
        return Err(differs(format!("{what}{more}")));
    }
    Ok(None)
}

/// Ends what is attached to the network and not listed.
pub fn gc(config: &Config, network: &Network) -> Outcome {
    let Some(listed) = network.listed() else {
        let why = "GC ends every attachment that is not listed there; give an empty list to end all";
        return Err(Failure::config("cni.dev/valid-attachments is missing", why));
    };
    let name = network.name.as_deref().unwrap_or_default();
    networks::keep_only(config, name, |id, attachment| {
        listed.iter().any(|valid| valid.container == id.as_str() && valid.device == attachment.device)
    })?;
    Ok(None)
}

/// Says whether a container could be attached.
pub fn status(config: &Config) -> Outcome {
    let failed = match networks::takes_another(config) {
        Ok(()) => return Ok(None),
        Err(e) => e,
    };
    let full = matches!(failed, Error::Exhausted(_) | Error::Busy(_));
    let alone = Ledger::at(&config.state_dir).ids().is_ok_and(|ids| ids.is_empty());
    let code = if full || alone { Failure::UNAVAILABLE } else { Failure::LIMITED };
    Err(Failure::new(code, failed.to_string()))
}

/// The slice that this network gave the container.
fn attached(config: &Config, id: &ContainerId, environment: &Environment, network: &Network) -> Result<Lease, Failure> {
    let attachment = network.attachment(environment);
    let lease = Ledger::at(&config.state_dir).of_member(id)?;
    let by_it = |lease: &Lease| lease.member(id).is_some_and(|member| member.attachment.as_ref() == Some(&attachment));
    lease.filter(by_it).ok_or_else(|| {
        let line = format!("container {id} is not attached to network {} as {}", attachment.network, attachment.device);
        Failure::new(Failure::UNKNOWN_CONTAINER, line)
    })
}

/// Refuses to publish at an address that containers do not carry. Without translation a port is open at all of the others.
fn published_here(config: &Config, addresses: &[IpAddr]) -> Result<(), Failure> {
    if addresses.is_empty() {
        return Ok(());
    }
    let facts = Facts::read(&mut Netlink::route()?, &Proc::private(), config)?;
    match addresses.iter().find(|ip| !facts.addresses.contains(ip)) {
        Some(ip) => Err(Failure::config(
            format!("hostIP {ip}"),
            "containers carry the addresses of the host, and this is none of them; leave it out",
        )),
        None => Ok(()),
    }
}
