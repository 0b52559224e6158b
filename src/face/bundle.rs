//! The one thing a hook reads from the bundle: which settings of the network namespace it brings along.
//!
//! runc applies `linux.sysctl` after our hook, crun before it, so what the bundle sets is left alone, and a range of
//! ephemeral ports other than the block is refused: under runc it would silently win.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, Result};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    linux: Option<Linux>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Linux {
    sysctl: Option<BTreeMap<String, IgnoredAny>>,
}

/// Keys of `linux.sysctl` below net, as paths under /proc/sys/net (`ipv4/tcp_ecn`). A bundle that cannot be read or
/// understood is the runtime's to refuse.
pub fn settings(bundle: &Path) -> Result<Vec<String>> {
    let path = bundle.join("config.json");
    let spec: Spec = match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
        Ok(Ok(spec)) => spec,
        Ok(Err(e)) => {
            log::debug!("{}: {e}", path.display());
            Spec::default()
        }
        Err(e) => {
            log::debug!("cannot read {}: {e}", path.display());
            Spec::default()
        }
    };
    let keys = spec.linux.unwrap_or_default().sysctl.unwrap_or_default().into_keys();
    // sysctl(8): either separator, as long as it is the same throughout
    let paths: Vec<String> =
        keys.filter_map(|key| Some(key.replace('.', "/").strip_prefix("net/")?.to_owned())).collect();
    if paths.iter().any(|key| key == "ipv4/ip_local_port_range") {
        return Err(Error::invalid(
            "linux.sysctl net.ipv4.ip_local_port_range of the bundle",
            "a container's ephemeral ports are the block it leases; remove it, and ask for a size with the annotation \
             portslice/ephemeral-ports",
        ));
    }
    Ok(paths)
}
