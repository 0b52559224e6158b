//! Name resolution: a container that may not reach the host through loopback cannot ask a resolver that listens there.

use std::net::IpAddr;
use std::path::Path;

use super::{Finding, Scene, ok, warn};
use crate::config::Acceptable;
use crate::host::resolver::{RESOLV_CONF, servers};

/// Where systemd-resolved lists the servers that it asks itself.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// Matters only where containers are kept from the host's 127.0.0.1 unless they ask otherwise.
pub fn look(scene: &Scene<'_>) -> Vec<Finding> {
    if scene.config.host_loopback || scene.accepts(Acceptable::Resolver) {
        return Vec::new();
    }
    let Some(server) = on_loopback(&servers()) else {
        return vec![ok("resolver", format!("{RESOLV_CONF} names no server on loopback"))];
    };
    let seen = format!("{RESOLV_CONF} names the server {server}, and host_loopback is false");
    let why = "containers that are given this file, as engines do, resolve no names; where they have one of their own, say that \
               you know (accepted_findings)";
    let file = scene.origin.file.display();
    let command = if Path::new(UPSTREAM).exists() {
        format!("ln -sf {UPSTREAM} {RESOLV_CONF}")
    } else {
        format!("sed -i 's/^ *host_loopback *=.*/host_loopback = true/' {file}")
    };
    vec![warn("resolver", seen, why, command)]
}

/// The first server that only the host itself reaches.
fn on_loopback(servers: &[IpAddr]) -> Option<IpAddr> {
    servers.iter().copied().find(IpAddr::is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::resolver::listed;

    #[test]
    fn a_server_on_loopback_is_found() {
        let found = |text| on_loopback(&listed(text)).map(|ip| ip.to_string());
        assert_eq!(
            found("# nameserver 127.0.0.1\nnameserver 9.9.9.9\n nameserver\t127.0.0.53\n").as_deref(),
            Some("127.0.0.53")
        );
        assert_eq!(found("nameserver ::1").as_deref(), Some("::1"));
        assert_eq!(found("search example.org\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n"), None);
    }
}
