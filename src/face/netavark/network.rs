//! A network of the driver `portslice`, as `podman network create` makes it: the host's own network, shared out. So there is
//! nothing to choose but defaults for its containers, and whatever describes another kind of network is refused.

use serde_json::{Map, Value, json};

use super::call::{Options, ask};
use crate::error::{Error, Result};
use crate::refusal::one_line;
use crate::request::Request;

/// Checks a network, and returns it with what it is in any case. Fields that are not looked at stay as they are.
pub fn create(network: Value) -> Result<Value> {
    let Value::Object(mut network) = network else {
        return Err(Error::invalid("netavark's document on stdin", "a network is a JSON object"));
    };
    fits(&network)?;
    let options: Option<Options> = network.get("options").map_or(Ok(None), |options| {
        serde_json::from_value(options.clone())
            .map_err(|e| Error::invalid("options of the network", one_line(&e.to_string())))
    })?;
    let name = network.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut request = Request::new("any".parse()?);
    ask(&mut request, &options.unwrap_or_default(), name)?;
    // Names are the host's resolver's, and addresses are nobody's to give.
    network.insert("dns_enabled".into(), false.into());
    network.insert("ipam_options".into(), json!({ "driver": "none" }));
    Ok(Value::Object(network))
}

/// Refuses what a slice cannot be.
fn fits(network: &Map<String, Value>) -> Result<()> {
    const ADDRESSES: &str = "containers carry the host's own addresses and routes";
    let filled = |key: &str| match network.get(key) {
        Some(Value::Array(all)) => !all.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Bool(set)) => *set,
        _ => false,
    };
    for (key, option, why) in [
        ("subnets", "--subnet", ADDRESSES),
        ("routes", "--route", ADDRESSES),
        ("internal", "--internal", "containers reach what the host reaches; filter in front of the host"),
        (
            "network_interface",
            "--interface-name",
            "the uplink is the config key uplink, or the device of the default route",
        ),
        ("network_dns_servers", "--dns", "containers ask the host's resolvers; give the container its --dns"),
    ] {
        if filled(key) {
            return Err(Error::invalid(format!("network option {option} ({key})"), format!("{why}; leave it out")));
        }
    }
    match network.get("ipam_options").and_then(|ipam| ipam["driver"].as_str()) {
        None | Some("" | "none") => Ok(()),
        Some(driver) => Err(Error::invalid(
            format!("network option --ipam-driver ({})", one_line(driver)),
            format!("{ADDRESSES}; leave it out"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Podman 5.4 calls for `podman network create -d portslice ps`.
    fn plain() -> Value {
        json!({
            "name": "ps", "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9", "driver": "portslice",
            "created": "0001-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false, "dns_enabled": true,
            "ipam_options": {}
        })
    }

    #[test]
    fn what_podman_gave_comes_back() {
        let mut expected = plain();
        expected["options"] = json!({"egress-rate": "100mbit", "ports": "auto:2"});
        let given = expected.clone();
        expected["dns_enabled"] = json!(false);
        expected["ipam_options"] = json!({"driver": "none"});
        assert_eq!(create(given).unwrap(), expected);
    }

    #[test]
    fn another_kind_of_network_is_refused_in_one_line() {
        for (key, value, says) in [
            ("subnets", json!([{"subnet": "10.0.0.0/16"}]), "--subnet"),
            ("routes", json!([{"destination": "10.0.0.0/16", "gateway": "10.1.0.1"}]), "--route"),
            ("internal", json!(true), "--internal"),
            ("network_interface", json!("enp1"), "uplink"),
            ("network_dns_servers", json!(["1.1.1.1"]), "--dns"),
            ("ipam_options", json!({"driver": "dhcp"}), "--ipam-driver (dhcp)"),
            ("options", json!({"mtu": "9000"}), "option \"mtu\" of network \"ps\": unknown key"),
            ("options", json!({"egress-rate": "100"}), "option egress-rate of network \"ps\""),
            ("options", json!({"cpus": 2}), "options of the network"),
        ] {
            let mut network = plain();
            network[key] = value;
            let line = create(network).unwrap_err().to_string();
            assert!(line.contains(says) && !line.contains('\n'), "{key}: {line}");
        }
        assert!(create(json!([])).is_err());
    }
}
