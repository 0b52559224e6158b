//! The servers that the host asks for names: resolv.conf(5).

use std::fs;
use std::net::IpAddr;

/// The host's file.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The servers of the host's file, in its order; none where it cannot be read.
pub fn servers() -> Vec<IpAddr> {
    listed(&fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

/// The servers that a file lists. One that is reached through a device alone (`fe80::1%eth0`) is left out.
pub fn listed(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|server| server.trim().parse().ok()).collect()
}
