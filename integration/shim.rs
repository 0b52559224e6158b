//! Promise: the runtime shim gives a container its slice and what its bundle needs for that, whichever engine calls it; what did
//! not ask stays as it was, to the byte; and what stands in the way is said where the user looks.

mod ctr;
mod devices;
mod difference;
mod direct;
mod docker;
mod engine;
mod overhead;
mod podman;
mod refused;
mod reserved;

pub use engine::{Shimmed, assert_known};

use crate::lab::bundle::{Bundle, Runtime};
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

const PEER_PORT: u16 = 20_000;

/// A host whose shim runs this runtime, with a log file and whatever else is configured.
pub fn host(name: &str, program: &str, more: &str) -> Host {
    let host = Host::new(name);
    configure(&host, program, more);
    host
}

fn configure(host: &Host, program: &str, more: &str) {
    let (log, runtime) = (host.dir.join("portslice.log"), path_of(program));
    let text = format!(
        "ports = \"31000-31999\"\nlog_file = \"{}\"\n{more}\n[runtime]\npath = [\"/nonexistent/runc\", \"{runtime}\"]\n",
        log.display()
    );
    std::fs::write(host.config_file(), text).expect("config");
}

/// Where a runtime is installed: engines have no PATH.
fn path_of(program: &str) -> String {
    if program.contains('/') {
        return program.to_owned();
    }
    let places = ["/usr/bin", "/usr/sbin"].map(|place| format!("{place}/{program}"));
    places.into_iter().find(|path| Path::new(path).exists()).unwrap_or_else(|| panic!("{program} is not installed"))
}

pub fn log(host: &Host) -> String {
    std::fs::read_to_string(host.dir.join("portslice.log")).unwrap_or_default()
}

/// The only slice.
#[track_caller]
fn slice(what: &str, host: &Host) -> Value {
    let mut all = host.list();
    assert_eq!(all.len(), 1, "{what}: one slice: {all:?}; log:\n{}", log(host));
    all.remove(0)
}

#[track_caller]
pub fn assert_gone(what: &str, host: &Host) {
    assert!(eventually(|| host.ids().is_empty()), "{what}: leases {:?}; log:\n{}", host.ids(), log(host));
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "{what}: devices {:?}", host.links());
}

/// `32768-33791`, as the environment tells it.
fn block_of(lease: &Value) -> String {
    format!("{}-{}", lease["block"]["begin"], lease["block"]["end"])
}

/// What a program prints that looks around: its variables, its range of ports, its resolver.
const LOOKS: &str = "env; echo RANGE=$(cat /proc/sys/net/ipv4/ip_local_port_range); cat /etc/resolv.conf";

/// Asserts that a program that looked around was told of its slice.
#[track_caller]
fn assert_told(what: &str, host: &Host, said: &str, ports: &[u16], block: &str) {
    let all = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let each = ports.iter().enumerate().map(|(n, port)| format!("PORT{n}={port}"));
    let more =
        [format!("PORTS={all}"), format!("PORTSLICE_BLOCK={block}"), format!("RANGE={}", block.replace('-', " "))];
    for line in each.chain(more) {
        assert!(said.lines().any(|said| said == line), "{what}: no line {line:?} in:\n{said}");
    }
    let resolver = std::fs::read_to_string(host.ns.root("/etc/resolv.conf")).expect("the host's resolver");
    assert!(said.contains(resolver.trim_end()), "{what}: it has not the host's resolver:\n{said}");
}

/// Asserts that it is served at the host's addresses, and connects out from its block.
#[track_caller]
pub fn assert_works(what: &str, host: &Host, pid: u32, port: u16, lease: &Value) {
    let ns = Ns::of_pid(what, pid);
    for at in [HOST4, HOST6] {
        let _server = Echo::start(&ns, Proto::Tcp, SocketAddr::new(probe::any(at), port));
        let from = probe::assert_reaches(what, &host.peer, Proto::Tcp, SocketAddr::new(at, port));
        assert_ne!(from.port(), port, "{what}: {from}");
    }
    for at in [PEER4, PEER6] {
        let _peer = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(at, PEER_PORT));
        let seen = probe::assert_reaches(what, &ns, Proto::Tcp, SocketAddr::new(at, PEER_PORT));
        let block = lease["block"]["begin"].as_u64().unwrap()..=lease["block"]["end"].as_u64().unwrap();
        assert!(block.contains(&u64::from(seen.port())), "{what}: the peer saw {seen}, the block is {block:?}");
    }
}

/// Variables of a bundle's process.
fn with_env(bundle: Bundle, entries: &[&str]) -> Bundle {
    bundle.edit(|c| c["process"]["env"].as_array_mut().expect("env").extend(entries.iter().map(|e| json!(e))))
}
