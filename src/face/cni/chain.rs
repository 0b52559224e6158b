//! What the plugins of a list came to together: CHECK is handed the result of the last one. A plugin behind ours may have given
//! the container's device another MAC address, or added addresses and routes; the result tells so.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::host::Given;
use crate::net::link::Mac;
use crate::wire::Others;

/// What others made of the container's network by this result. `None` where the result does not have its device.
pub fn others(told: &Map<String, Value>, device: &str, given: &Given) -> Option<Others> {
    let list = |key: &str| told.get(key).and_then(Value::as_array).into_iter().flatten();
    let is_it = |one: &Value| one["name"] == device && one["sandbox"].as_str().is_some_and(|path| !path.is_empty());
    let (index, interface) = list("interfaces").enumerate().find(|(_, one)| is_it(one))?;
    let of_it = list("ips").filter(|ip| ip["interface"].as_u64() == Some(index as u64));
    let addresses = of_it.filter_map(|ip| prefixed(&ip["address"])).map(|(ip, _)| ip);
    Some(Others {
        mac: interface["mac"].as_str().and_then(mac),
        addresses: addresses.filter(|ip| !given.addresses.contains(ip)).collect(),
        routes: list("routes").filter_map(|route| prefixed(&route["dst"])).collect(),
    })
}

/// `10.0.0.0/8`
fn prefixed(value: &Value) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = value.as_str()?.split_once('/')?;
    Some((ip.parse().ok()?, prefix.parse().ok()?))
}

/// `02:00:00:00:00:01`
fn mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_result_tells_what_others_made() {
        let told = json!({
            "interfaces": [
                {"name": "eth0", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:99", "sandbox": "/n"},
            ],
            "ips": [
                {"address": "10.77.0.2/32", "interface": 1},
                {"address": "192.0.2.7/24", "interface": 1},
                {"address": "192.0.2.8/24", "interface": 0},
                {"address": "192.0.2.9/24"},
            ],
            "routes": [{"dst": "198.51.100.0/24"}, {"dst": "no"}],
        });
        let given = Given { addresses: vec!["10.77.0.2".parse().unwrap()], ..Given::default() };
        let told = told.as_object().unwrap();
        let expected = Others {
            mac: Some([2, 0, 0, 0, 0, 0x99]),
            addresses: vec!["192.0.2.7".parse().unwrap()],
            routes: vec![("198.51.100.0".parse().unwrap(), 24)],
        };
        assert_eq!(others(told, "eth0", &given), Some(expected));
        assert_eq!(others(told, "net1", &given), None);
    }
}
