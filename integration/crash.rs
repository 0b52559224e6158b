//! Promise: a verb killed at any step leaves nothing that the next one does not finish or take back, and verbs may race.

mod container_killed;
mod host_killed;
mod overtaken;
mod raced;
mod remembered;

use crate::lab::probe::assert_reaches;
use crate::lab::still::released;
use crate::lab::*;
use std::net::SocketAddr;

const PORT: u16 = 31_000;

/// A UDP server on the host's own port: reached only when nothing is steered there any more.
#[track_caller]
fn assert_not_steered(host: &Host, what: &str) {
    let echo = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), PORT));
    assert_reaches(&format!("{what}: the host's own {PORT}"), &host.peer, Proto::Udp, SocketAddr::new(HOST4, PORT));
    assert_eq!(echo.served(), 1, "{what}: who answered");
    drop(echo);
    released(&host.ns, PORT);
}

/// The same server in a container.
#[track_caller]
fn assert_steered(host: &Host, ns: &Ns, what: &str) {
    let echo = Echo::start(ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), PORT));
    assert_reaches(what, &host.peer, Proto::Udp, SocketAddr::new(HOST4, PORT));
    assert_eq!(echo.served(), 1, "{what}: who answered");
}

/// A container that must not notice anything.
struct Neighbour {
    container: Container,
    echo: Echo,
}

impl Neighbour {
    fn on(host: &Host) -> Neighbour {
        let container = host.bare("neighbour", &["--ports", "31999"]);
        let echo = Echo::start(&container.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), 31_999));
        Neighbour { container, echo }
    }

    #[track_caller]
    fn check(&self, host: &Host, what: &str) {
        let served = self.echo.served();
        assert_reaches(&format!("{what}: the neighbour"), &host.peer, Proto::Udp, SocketAddr::new(HOST4, 31_999));
        assert_eq!(self.echo.served(), served + 1, "{what}: who answered");
        let known = host.list().into_iter().find(|l| l["id"] == "neighbour");
        assert_eq!(known.as_ref(), Some(&self.container.lease), "{what}: the neighbour's lease");
    }
}
