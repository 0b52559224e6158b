//! Reading and writing `/proc/sys/net` of the namespace the calling thread is in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::ports::{PortRange, PortSet};

/// Host values a container starts with, as far as its kernel has them per namespace. The list is Mesos'
/// (port_mapping isolator, pre-exec script): a namespace begins with the kernel's defaults, not with what the
/// operator tuned.
pub const COPIED: [&str; 17] = [
    "core/somaxconn",
    "core/netdev_max_backlog",
    "core/rmem_max",
    "core/wmem_max",
    "ipv4/tcp_ecn",
    "ipv4/tcp_ecn_fallback",
    "ipv4/tcp_keepalive_time",
    "ipv4/tcp_keepalive_intvl",
    "ipv4/tcp_keepalive_probes",
    "ipv4/tcp_max_syn_backlog",
    "ipv4/tcp_rmem",
    "ipv4/tcp_wmem",
    "ipv4/tcp_retries2",
    "ipv4/tcp_synack_retries",
    "ipv4/neigh/default/gc_thresh1",
    "ipv4/neigh/default/gc_thresh2",
    "ipv4/neigh/default/gc_thresh3",
];

/// A setting and its value.
pub type Setting = (String, String);

/// The value of `/proc/sys/net/<key>`, without the line end; `None` when this namespace has no such setting.
pub fn read(key: &str) -> Result<Option<String>> {
    let path = path(key);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file("read", path)(e)),
    }
}

/// Writes `/proc/sys/net/<key>`; `false` when this namespace has no such setting.
pub fn write(key: &str, value: &str) -> Result<bool> {
    let path = path(key);
    match fs::write(&path, value) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::file("write", path)(e)),
    }
}

/// The settings of [`COPIED`] that exist here.
pub fn copied() -> Result<Vec<Setting>> {
    let mut settings = Vec::with_capacity(COPIED.len());
    for key in COPIED {
        if let Some(value) = read(key)? {
            settings.push((key.to_owned(), value));
        }
    }
    Ok(settings)
}

/// `ip_local_port_range`: the ports that connections get which do not choose one.
pub fn ephemeral_range() -> Result<PortRange> {
    const KEY: &str = "ipv4/ip_local_port_range";
    let text = read(KEY)?.unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(begin)), Some(Ok(end))) => PortRange::new(begin, end),
        _ => None,
    }
    .ok_or_else(|| Error::Failed(format!("cannot understand {}: {text:?}", path(KEY).display())))
}

/// `ip_local_reserved_ports`: ports that the kernel never gives to such a connection.
pub fn reserved_ports() -> Result<PortSet> {
    let text = read("ipv4/ip_local_reserved_ports")?.unwrap_or_default();
    if text.is_empty() {
        return Ok(PortSet::empty());
    }
    text.parse().map_err(|e| Error::Failed(format!("cannot understand ip_local_reserved_ports: {e}")))
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(key)
}
