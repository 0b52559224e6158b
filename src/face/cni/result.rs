//! What ADD prints: interfaces, addresses, routes and name servers, in the shape of each version of the specification.
//!
//! Interfaces of plugins that came before are kept, with whatever they say, and ours added behind them.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::decode::{Network, VERSIONS};
use crate::net::link::{Mac, mac_text};
use crate::net::route::InnerRoute;

/// A slice as its network's users see it.
#[derive(Clone, Debug)]
pub struct Attached<'a> {
    /// The host's end of the pair: its name and its MAC address.
    pub outer: (String, Mac),
    /// The container's end.
    pub inner: (&'a str, Mac),
    /// Largest packet that fits either, in bytes.
    pub mtu: u32,
    /// The container's namespace, as the runtime calls it.
    pub sandbox: &'a str,
    /// Addresses that the container carries.
    pub addresses: &'a [IpAddr],
    /// What programs see in `ip route`.
    pub routes: &'a [InnerRoute],
}

/// The result of an attachment for the version of `network`.
pub fn result(attached: &Attached<'_>, network: &Network) -> Value {
    let version = network.version();
    let mut result = if is_before(version, "0.3.0") {
        flat(attached)
    } else {
        chained(attached, version, network.prev_result.as_ref())
    };
    // The Mesos agent reads addresses where they stood up to 0.2.0, whatever version it speaks of (its spec.proto).
    if network.is_of_mesos() {
        for (key, value) in flat(attached) {
            result.entry(key).or_insert(value);
        }
    }
    if let Some(dns) = network.dns.clone().filter(|dns| !dns.is_empty()) {
        result.insert("dns".to_owned(), Value::Object(dns));
    }
    result.insert("cniVersion".to_owned(), json!(version));
    Value::Object(result)
}

impl<'a> Attached<'a> {
    /// The specification has no words for a route that refuses, or leads to everybody.
    fn leading(&self) -> impl Iterator<Item = &'a InnerRoute> {
        self.routes.iter().filter(|route| route.kind.is_unicast())
    }
}

/// One address of each family.
fn flat(attached: &Attached<'_>) -> Map<String, Value> {
    let mut result = Map::new();
    for (key, v6) in [("ip4", false), ("ip6", true)] {
        let Some(ip) = attached.addresses.iter().find(|ip| ip.is_ipv6() == v6) else { continue };
        let routes = attached.leading().filter(|route| route.destination.is_ipv6() == v6);
        let routes: Vec<Value> = routes.map(|route| json!({"dst": route.to_string()})).collect();
        result.insert(key.to_owned(), json!({"ip": host_prefix(*ip), "routes": routes}));
    }
    result
}

/// Ours, behind what came before.
fn chained(attached: &Attached<'_>, version: &str, before: Option<&Map<String, Value>>) -> Map<String, Value> {
    let mut result = before.cloned().unwrap_or_default();
    let newest = !is_before(version, "1.1.0");
    let mut add = |key: &str, more: Vec<Value>| {
        let mut all = match result.get_mut(key).map(Value::take) {
            Some(Value::Array(all)) => all,
            _ => Vec::new(),
        };
        all.extend(more);
        let count = all.len();
        result.insert(key.to_owned(), Value::Array(all));
        count
    };
    let interface = |name: &str, mac: Mac, sandbox: Option<&str>| {
        let mut interface = json!({"name": name, "mac": mac_text(mac)});
        if let Some(sandbox) = sandbox {
            interface["sandbox"] = json!(sandbox);
        }
        if newest {
            interface["mtu"] = json!(attached.mtu);
        }
        interface
    };
    let (outer, inner) = (&attached.outer, attached.inner);
    let ends = vec![interface(&outer.0, outer.1, None), interface(inner.0, inner.1, Some(attached.sandbox))];
    let index = add("interfaces", ends) - 1;
    let address = |ip: &IpAddr| {
        let mut entry = json!({"address": host_prefix(*ip), "interface": index});
        if is_before(version, "1.0.0") {
            entry["version"] = json!(if ip.is_ipv6() { "6" } else { "4" });
        }
        entry
    };
    add("ips", attached.addresses.iter().map(address).collect());
    let route = |route: &InnerRoute| {
        let mut entry = json!({"dst": route.to_string()});
        if newest {
            entry["mtu"] = json!(route.mtu);
        }
        if newest && route.metric > 0 {
            entry["priority"] = json!(route.metric);
        }
        entry
    };
    add("routes", attached.leading().map(route).collect());
    result
}

/// A container carries its addresses alone, without the network around them.
fn host_prefix(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv6() { 128 } else { 32 })
}

/// Is `version` older than `other`? Both are spoken here.
fn is_before(version: &str, other: &str) -> bool {
    let place = |of: &str| VERSIONS.iter().position(|known| *known == of);
    place(version) < place(other)
}
