//! The ways a server can sit behind a host's address, each on a host of its own with its own wire and peer.

use super::load::Route;
use super::net::{HOST, Netns, PEER, host_and_peer};
use super::product::Product;
use std::io;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;

/// Where the server listens: behind the host for inbound traffic, on the peer for outbound.
const INBOUND: u16 = 31000;
const OUTBOUND: u16 = 5000;

/// One way of networking, ready to carry load in both directions.
pub struct Stage {
    pub inbound: Route,
    pub outbound: Route,
}

impl Stage {
    fn new(inside: Netns, peer: Netns) -> Stage {
        let inbound = Route { client: peer.clone(), server: inside.clone(), target: SocketAddrV4::new(HOST, INBOUND) };
        Stage { inbound, outbound: Route { client: inside, server: peer, target: SocketAddrV4::new(PEER, OUTBOUND) } }
    }

    /// The program runs in the host's own namespace.
    pub fn host(name: &str) -> io::Result<Stage> {
        let (host, peer) = host_and_peer(name)?;
        Ok(Stage::new(host, peer))
    }

    /// The usual container network: a veth on a bridge, masqueraded outwards, the port published by DNAT.
    pub fn bridge(name: &str) -> io::Result<Stage> {
        let (host, peer) = host_and_peer(name)?;
        let inside = Netns::create(&format!("{name}-inside"))?;
        host.feed(&["tee", "/proc/sys/net/ipv4/ip_forward"], "1")?;
        host.ip(&format!(
            "link add br0 type bridge\naddr add 10.88.0.1/16 dev br0\nlink set br0 up\n\
             link add veth0 type veth peer name eth0 netns {}\nlink set veth0 master br0\nlink set veth0 up",
            inside.path.display()
        ))?;
        inside
            .ip("addr add 10.88.0.2/16 dev eth0\nlink set lo up\nlink set eth0 up\nroute add default via 10.88.0.1")?;
        let nat = format!(
            "table ip nat {{
               chain in {{ type nat hook prerouting priority dstnat
                 ip daddr {HOST} tcp dport {INBOUND} dnat to 10.88.0.2
                 ip daddr {HOST} udp dport {INBOUND} dnat to 10.88.0.2
               }}
               chain out {{ type nat hook postrouting priority srcnat
                 ip saddr 10.88.0.0/16 oifname eth0 masquerade
               }}
             }}"
        );
        host.feed(&["nft", "-f", "-"], &nat)?;
        Ok(Stage::new(inside, peer))
    }

    /// A slice of the host, on a host that has `leases` of them; the one that is measured came last.
    pub fn portslice(name: &str, leases: usize) -> io::Result<Stage> {
        let product = Product::for_host(name)?;
        let (host, peer) = host_and_peer(name)?;
        let portslice = |arguments: &[&str]| {
            let mut command = host.command(product.binary("portslice"));
            succeed(command.args(arguments).envs(product.environment.clone()))
        };
        let attach = |id: &str, netns: &Path, more: &[&str]| {
            let netns = netns.to_str().expect("the names of our namespaces are ASCII");
            portslice(&[&["attach", id, "--netns", netns], more].concat())
        };
        portslice(&["setup"])?;
        for n in 1..leases {
            let id = format!("{name}-{n}");
            attach(&id, &Netns::create(&id)?.path, &["--ephemeral-ports", "16"])?;
        }
        let inside = Netns::create(&format!("{name}-inside"))?;
        attach(&format!("{name}-inside"), &inside.path, &["--ephemeral-ports", "1024", "--ports", "31000-31009"])?;
        Ok(Stage::new(inside, peer))
    }
}

/// Runs `command` to its end and hands its standard error back if it fails.
fn succeed(command: &mut Command) -> io::Result<()> {
    let out = command.output()?;
    if out.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&out.stderr);
    Err(io::Error::other(format!("{command:?}: {}: {}", out.status, why.trim())))
}
