//! Promise: open ports are taken by bind() and given back by close(), as on a plain host, whoever binds: the host or a container;
//! every socket counts, in random programs, under churn, and by the ten thousand.

mod accepted;
mod churn;
mod differential;
mod runner;

use crate::lab::Host;
use std::ops::RangeInclusive;

/// Ports outside the pool, the ports that are assigned and the host's own range: open to whoever asks for them.
const FREE: [RangeInclusive<u16>; 2] = [1024..=30_999, 61_000..=65_535];
/// The same, as a container asks for them.
const OPEN: [&str; 2] = ["--open-ports", "1024-30999,61000-65535"];

/// A host whose containers may have open ports, as many as they like. Its programs see the sockets of this test process.
fn host(name: &str) -> Host {
    let config = "ports = \"31000-31999\"\nopen_ports_per_container = 65535\n";
    Host::with(name).config(config).judged("require").build()
}
