//! What containers are given of the host, as a value that can be kept and compared: the host's record has the present one,
//! and those that some slice still carries. Pure; the facts are read in [`super::facts`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Facts;
use super::sysctl::Setting;
use crate::net::link::Mac;
use crate::net::route::InnerRoute;

/// What every container of this host is given alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Which one this is, counted from 1. A lease names the one that its slice carries.
    pub generation: u32,
    /// `steer::program::VERSION` of the programs on its devices.
    pub version: String,
    /// Ethernet address of the container's device: the uplink's.
    pub mac: Mac,
    /// Addresses of the container's device: the uplink's.
    pub addresses: Vec<IpAddr>,
    /// What programs see in `ip route`.
    pub routes: Vec<InnerRoute>,
    /// Settings that the operator tuned on the host.
    pub copied: Vec<Setting>,
}

impl Given {
    /// What the facts come to, with the settings and the version of the programs that are not facts. It has no number yet.
    pub fn of(facts: &Facts, copied: &[Setting], version: &str) -> Self {
        Self {
            generation: 0,
            version: version.to_owned(),
            mac: facts.mac,
            addresses: facts.addresses.clone(),
            routes: inner_routes(facts),
            copied: copied.to_vec(),
        }
    }

    /// Does a container that was given this need nothing else?
    pub fn same(&self, other: &Self) -> bool {
        let number = |given: &Self| Self { generation: 0, ..given.clone() };
        number(self) == number(other)
    }
}

/// The host's routes out of the uplink with the gateways left out. A host with very many (a routing daemon's full
/// table) is represented by its default routes.
fn inner_routes(facts: &Facts) -> Vec<InnerRoute> {
    const MANY: usize = 64;
    let mut routes: Vec<InnerRoute> = Vec::new();
    for route in &facts.routes {
        // fe80::/64 reaches only neighbours, and a container has no link-local address to reach them from
        let link_local = matches!(route.destination, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80);
        if link_local || (facts.routes.len() > MANY && !route.is_default()) {
            continue;
        }
        let v6 = route.destination.is_ipv6();
        let Some(primary) = facts.primary(v6) else { continue };
        let inner = InnerRoute {
            destination: route.destination,
            prefix: route.prefix,
            source: Some(route.source.filter(|s| facts.addresses.contains(s)).unwrap_or(primary)),
            metric: route.metric,
            mtu: route.mtu.unwrap_or(facts.uplink.mtu).min(facts.uplink.mtu),
        };
        // several next hops of one route are one route out of one device
        if !routes.iter().any(|known| known.same_place(&inner)) {
            routes.push(inner);
        }
    }
    routes
}
