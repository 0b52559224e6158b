//! The ways a server can sit behind a host's address, each on a host of its own with its own wire and peer.

use super::group::Group;
use super::load::{Place, Route};
use super::net::{HOST, Netns, PEER, host_and_peer};
use super::product::Product;
use super::rows::{Distance, Path};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::Arc;

/// An address of the peer that the host reaches through its gateway only; the peer is that as well.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The address of its own that a program has on a macvlan.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// The host's address on its second network, and its neighbour's there. What comes from that address has a route table of its own.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const SECOND_PEER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Where servers listen: in the container that is measured (by a lease, or by a claim), in the one beside it, on the host, on
/// the peer.
const INSIDE: u16 = 31000;
const CLAIMED: u16 = 8080;
const BESIDE: u16 = 31010;
const ON_HOST: u16 = 20_000;
const ON_PEER: u16 = 5000;

/// One way of networking, ready to carry load.
pub struct Stage {
    inside: Place,
    peer: Place,
    port: u16,
    distance: Distance,
    address: Ipv4Addr,
    local: Option<Local>,
}

/// Who is on the same host: a container beside the one that is measured, and the host itself.
struct Local {
    beside: Place,
    host: Place,
}

/// What containers of a stage are.
#[derive(Clone, Copy)]
pub enum Lease {
    /// The last of this many.
    Among(usize),
    /// One with limits both ways that its load never reaches.
    Limited,
    /// One with another beside it.
    Paired,
    /// One whose bind() is judged, with a port that it claims.
    Claiming,
    /// One whose programs are in a cgroup as those of the claiming one, on which nothing is. The kernel's accounts of a cgroup take
    /// 1 to 5 per cent of a packet.
    Grouped,
}

impl Stage {
    /// The program runs in the host's own namespace.
    pub fn host(name: &str, distance: Distance) -> io::Result<Stage> {
        let (host, peer) = ground(name, distance)?;
        let host = Place::from(host);
        let local = Some(Local { beside: host.clone(), host: host.clone() });
        Ok(Stage { inside: host, peer: peer.into(), port: INSIDE, distance, address: HOST, local })
    }

    /// The usual container network: a veth on a bridge, masqueraded outwards, the port published by DNAT.
    pub fn bridge(name: &str, distance: Distance) -> io::Result<Stage> {
        let (host, peer) = ground(name, distance)?;
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
                 ip daddr {HOST} tcp dport {INSIDE} dnat to 10.88.0.2
                 ip daddr {HOST} udp dport {INSIDE} dnat to 10.88.0.2
               }}
               chain out {{ type nat hook postrouting priority srcnat
                 ip saddr 10.88.0.0/16 oifname eth0 masquerade
               }}
             }}"
        );
        host.feed(&["nft", "-f", "-"], &nat)?;
        Ok(Stage { inside: inside.into(), peer: peer.into(), port: INSIDE, distance, address: HOST, local: None })
    }

    /// A macvlan of the host's device, with an address of its own. `None` where the kernel has none.
    pub fn macvlan(name: &str, distance: Distance) -> io::Result<Option<Stage>> {
        let (host, peer) = ground(name, distance)?;
        let inside = Netns::create(&format!("{name}-inside"))?;
        let netns = inside.path.display();
        if host
            .ip(&format!("link add macvlan0 link eth0 type macvlan mode bridge\nlink set macvlan0 netns {netns}"))
            .is_err()
        {
            return Ok(None);
        }
        inside.ip(&format!(
            "addr add {OWN}/24 dev macvlan0\nlink set lo up\nlink set macvlan0 up\nroute add default via {PEER}"
        ))?;
        Ok(Some(Stage { inside: inside.into(), peer: peer.into(), port: INSIDE, distance, address: OWN, local: None }))
    }

    /// A slice of the host.
    pub fn portslice(name: &str, distance: Distance, lease: Lease) -> io::Result<(Stage, Product)> {
        let group = match lease {
            Lease::Claiming | Lease::Grouped => Some(Arc::new(Group::new(name)?)),
            _ => None,
        };
        let judged = group.as_ref().filter(|_| matches!(lease, Lease::Claiming));
        let product = Product::for_host(name, judged.map(|group| group.path()))?;
        let (host, peer) = ground(name, distance)?;
        let portslice = |arguments: &[&str]| {
            let mut command = host.command(product.binary("portslice"));
            succeed(command.args(arguments).envs(product.environment.clone()))
        };
        let attach = |id: &str, more: &[&str]| -> io::Result<Netns> {
            let netns = Netns::create(id)?;
            let path = netns.path.to_str().expect("the names of our namespaces are ASCII");
            portslice(&[&["attach", id, "--netns", path], more].concat())?;
            Ok(netns)
        };
        portslice(&["setup"])?;
        if distance == Distance::MultiHomed {
            // Without this device no packet asks the host's routes, and the row would measure something else.
            host.ip("link show portslice-fib")?;
        }
        let others = if let Lease::Among(leases) = lease { leases - 1 } else { 0 };
        for n in 0..others {
            attach(&format!("{name}-{n}"), &["--ephemeral-ports", "16"])?;
        }
        let (port, more): (u16, &[&str]) = match lease {
            Lease::Claiming => (CLAIMED, &["--open-ports", "8080-8089"]),
            Lease::Limited => {
                (INSIDE, &["--ports", "31000-31009", "--egress-rate", "100gbit", "--ingress-rate", "100gbit"])
            }
            _ => (INSIDE, &["--ports", "31000-31009"]),
        };
        let netns = attach(&format!("{name}-inside"), &[&["--ephemeral-ports", "1024"], more].concat())?;
        let inside = Place { netns, group };
        let local = match lease {
            Lease::Paired => {
                let beside =
                    attach(&format!("{name}-beside"), &["--ephemeral-ports", "1024", "--ports", "31010-31019"])?;
                Some(Local { beside: beside.into(), host: host.into() })
            }
            _ => None,
        };
        Ok((Stage { inside, peer: peer.into(), port, distance, address: HOST, local }, product))
    }

    /// Who talks to whom on a path; `None` if this stage does not have it.
    pub fn route(&self, path: Path) -> Option<Route> {
        let route = |client: &Place, server: &Place, address, port| {
            Some(Route { client: client.clone(), server: server.clone(), target: SocketAddrV4::new(address, port) })
        };
        let local = self.local.as_ref();
        match path {
            Path::Inbound => route(&self.peer, &self.inside, self.address, self.port),
            Path::Outbound if self.distance == Distance::Near => route(&self.inside, &self.peer, PEER, ON_PEER),
            Path::Outbound => route(&self.inside, &self.peer, FAR, ON_PEER),
            Path::Loopback => local.and_then(|_| route(&self.inside, &self.inside, Ipv4Addr::LOCALHOST, self.port)),
            Path::Beside => local.and_then(|local| route(&self.inside, &local.beside, HOST, BESIDE)),
            Path::ToHost => local.and_then(|local| route(&self.inside, &local.host, HOST, ON_HOST)),
        }
    }
}

/// A host and its peer. A peer that is not a neighbour speaks from behind the gateway.
fn ground(name: &str, distance: Distance) -> io::Result<(Netns, Netns)> {
    let (host, peer) = host_and_peer(name)?;
    if distance != Distance::Near {
        peer.ip(&format!(
            "addr add {FAR}/32 dev lo\nroute replace 10.77.0.0/24 dev eth0 proto kernel scope link src {FAR}"
        ))?;
    }
    if distance == Distance::MultiHomed {
        host.ip(&format!(
            "link add eth1 type veth peer name eth1 netns {}\naddr add {SECOND}/24 dev eth1\nlink set eth1 up\n\
             rule add from {SECOND} lookup 99\nroute add default via {SECOND_PEER} dev eth1 table 99",
            peer.path.display()
        ))?;
        peer.ip(&format!("addr add {SECOND_PEER}/24 dev eth1\nlink set eth1 up"))?;
    }
    Ok((host, peer))
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
