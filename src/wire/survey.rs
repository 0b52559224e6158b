//! What stands in a network namespace before a slice is made in it: read before the ledger is locked, while the other
//! processor looks for sockets. What does not live here: the decision, and everything that is written ([`super::furnish`]).

use super::pair::occupied;
use crate::error::{Error, Result};
use crate::host::record::Changed;
use crate::host::sysctl::{Proc, Setting};
use crate::lease::record::Found;
use crate::net::link::{self, LO};
use crate::net::{Netlink, Netns, qdisc};
use crate::plan::slice::{EPHEMERAL, LO_TAKES, common};
use crate::ports::{Block, PortSet};

/// What was found in a namespace.
pub struct Survey {
    /// A socket in it.
    pub netlink: Netlink,
    /// Devices beside lo that are up. Those that the kernel puts into every namespace (tunl0, sit0) are down.
    devices: Vec<String>,
    /// lo has a qdisc for filters.
    lo_qdisc: bool,
    /// The bundle says whether IPv6 is on.
    own_ipv6: bool,
    /// The settings that a slice will have a say in.
    settings: Vec<Setting>,
    /// Ports that its connections never get.
    reserved: PortSet,
}

impl Survey {
    /// Looks around in `container`. `copied` and `own`: see [`common`].
    pub fn of(container: &Netns, proc: &Proc, copied: &[Setting], own: &[String]) -> Result<Self> {
        container.inside(|| {
            let mut netlink = Netlink::route()?;
            let (links, lo) = link::all_and_lo(&mut netlink)?;
            let devices = links.into_iter().filter(|link| link.up && link.index != LO).map(|link| link.name).collect();
            let lo_qdisc = qdisc::has_ingress(&mut netlink, LO)?.is_some();
            let mut here = proc.here();
            // it was told with the link
            let mut settings: Vec<Setting> =
                LO_TAKES.into_iter().zip(lo).map(|(key, on)| (key.to_owned(), u8::from(on).to_string())).collect();
            let keys = common(copied, own).into_iter().map(|(key, _)| key).chain([EPHEMERAL.to_owned()]);
            for key in keys.filter(|key| !LO_TAKES.contains(&key.as_str())) {
                settings.extend(here.read(&key)?.map(|value| (key, value)));
            }
            let reserved = here.reserved_ports()?;
            let own_ipv6 = own.iter().any(|key| key.ends_with("disable_ipv6"));
            Ok(Self { netlink, devices, lo_qdisc, own_ipv6, settings, reserved })
        })
    }

    /// Has the namespace no network?
    pub fn is_bare(&self) -> bool {
        self.devices.is_empty()
    }

    /// Refuses a namespace that another network is in than that of a slice whose device is called `device`.
    pub fn alone(&self, device: &str) -> Result<()> {
        self.devices.iter().find(|other| *other != device).map_or(Ok(()), |other| Err(occupied(other)))
    }

    /// Refuses a namespace whose connections could get no port of `block`. `own`: what the container's bundle reserves, which is
    /// written only after this by some runtimes.
    pub fn connects(&self, block: Block, own: Option<&PortSet>) -> Result<()> {
        if !own.unwrap_or(&self.reserved).contains_range(block.range()) {
            return Ok(());
        }
        Err(Error::invalid(
            "net.ipv4.ip_local_reserved_ports of the container",
            format!(
                "it reserves all of {}, the ports of the container's connections, which would get none; leave some of them out \
                 of it",
                block.range()
            ),
        ))
    }

    /// What `wanted` settings will replace, and what else is put back when the slice ends: recorded before anything is
    /// written, so that an attach that is killed can be taken back.
    pub fn found(&self, wanted: &[Setting]) -> Found {
        let change = |(key, value): &Setting| {
            let (before, now) = (&self.settings.iter().find(|(there, _)| there == key)?.1, canonical(value));
            (*before != now).then(|| Changed { key: key.clone(), before: before.clone(), now })
        };
        Found { lo_qdisc: self.lo_qdisc, own_ipv6: self.own_ipv6, settings: wanted.iter().filter_map(change).collect() }
    }
}

/// A value as the kernel writes it.
pub fn canonical(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join("\t")
}
