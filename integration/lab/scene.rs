//! One host, its peer and two containers, and every path between them that a program under plain host networking has.

use super::probe::{BOTH, assert_reaches};
use super::*;
use std::net::{IpAddr, SocketAddr};

/// A port of the host itself, outside of every pool.
const HOST_PORT: u16 = 20_000;
/// One host, two containers, and the peer.
pub struct Scene {
    /// The host, with its peer.
    pub host: Host,
    /// Has ports 31000-31009.
    pub a: Container,
    /// Has ports 31010-31019.
    pub b: Container,
}

/// One on a host with all defaults.
pub fn scene(name: &str) -> Scene {
    Scene::on(Host::new(name))
}

/// The host's address of both families, as the world writes it.
const BY_ADDRESS: [IpAddr; 2] = [HOST4, HOST6];
/// Loopback of both families.
const BY_LOOPBACK: [IpAddr; 2] = [LO4, LO6];

/// One row: from where, to where, by which addresses.
pub type Path<'s> = (&'static str, &'s Ns, &'s Ns, [IpAddr; 2]);

impl Scene {
    /// Its containers on this host.
    pub fn on(host: Host) -> Scene {
        let a = host.bare("a", &["--ports", "31000-31009"]);
        let b = host.bare("b", &["--ports", "31010-31019"]);
        Scene { host, a, b }
    }

    /// Every path works, once each: one port, both protocols, both families.
    #[track_caller]
    pub fn assert_every_path(&self, what: &str) {
        self.assert_paths(what, &[true, false]);
    }

    /// The same for some of the families; `true` is IPv6.
    #[track_caller]
    pub fn assert_paths(&self, what: &str, families: &[bool]) {
        for (path, client, server, addresses) in self.paths() {
            let port = self.ports(server)[0];
            for address in addresses.into_iter().filter(|address| families.contains(&address.is_ipv6())) {
                for proto in BOTH {
                    // a wildcard server would answer from the address that its route prefers
                    let _echo = Echo::start(server, proto, SocketAddr::new(address, port));
                    assert_reaches(&format!("{what}: {path}"), client, proto, SocketAddr::new(address, port));
                }
            }
        }
    }

    /// Every path of the promise.
    pub fn paths(&self) -> Vec<Path<'_>> {
        let (p, h, a, b) = (&self.host.peer, &self.host.ns, &self.a.ns, &self.b.ns);
        vec![
            ("P->A", p, a, BY_ADDRESS),
            ("P->B", p, b, BY_ADDRESS),
            ("A->P", a, p, [PEER4, PEER6]),
            ("B->P", b, p, [PEER4, PEER6]),
            ("A->P through the default route", a, p, [FAR4, FAR6]),
            ("A->B by address", a, b, BY_ADDRESS),
            ("A->B by loopback", a, b, BY_LOOPBACK),
            ("B->A by address", b, a, BY_ADDRESS),
            ("B->A by loopback", b, a, BY_LOOPBACK),
            ("A->H by address", a, h, BY_ADDRESS),
            ("A->H by loopback", a, h, BY_LOOPBACK),
            ("H->A by address", h, a, BY_ADDRESS),
            ("H->A by loopback", h, a, BY_LOOPBACK),
            ("A->A by address", a, a, BY_ADDRESS),
            ("A->A by loopback", a, a, BY_LOOPBACK),
            ("H->P", h, p, [PEER4, PEER6]),
            ("P->H", p, h, BY_ADDRESS),
            ("H->H by address", h, h, BY_ADDRESS),
            ("H->H by loopback", h, h, BY_LOOPBACK),
        ]
    }

    /// Ports a server in this place may be reached at.
    pub fn ports(&self, of: &Ns) -> Vec<u16> {
        match self.container(of) {
            Some(c) => vec![c.ports[0], *c.ports.last().unwrap(), *c.block.end()],
            None => vec![HOST_PORT],
        }
    }

    pub fn container(&self, ns: &Ns) -> Option<&Container> {
        [&self.a, &self.b].into_iter().find(|c| c.ns.pid() == ns.pid())
    }
}
