//! The hosts that programs run on, and ports that no program had before: what a connection leaves behind rests for a minute.

use super::program::PORTS;
use super::run::World;
use crate::counted::{FREE, OPEN};
use crate::lab::{Container, Host};

/// Runs that one program may need while it is judged or made smaller.
const RESERVE: usize = 1000;

/// A plain host and one to compare it with.
pub struct Ground {
    pub alone: World,
    pub others: Vec<World>,
    ports: Vec<u16>,
    _containers: Vec<Container>,
    _hosts: Vec<Host>,
}

impl Ground {
    /// Compares with containers that have open ports: one process in each, and some beside processes of their host.
    pub fn ours() -> Ground {
        let plain = plain("claims-plain");
        let host = crate::counted::host("claims-programs");
        let containers: Vec<Container> = ["a", "b", "c", "d"]
            .iter()
            .map(|id| host.bare(id, &[&OPEN[..], &["--ephemeral-ports", "4096"]].concat()))
            .collect();
        let places: Vec<_> = containers.iter().map(|container| &container.ns).collect();
        let others = vec![
            World::new("one container each", [places[0], places[1], places[2], places[3]]),
            World::new("host and containers", [&host.ns, places[0], places[1], &host.ns]),
        ];
        Ground::with(World::new("plain", [&plain.ns; 4]), others, containers, vec![plain, host])
    }

    /// Compares with another plain host.
    pub fn plain() -> Ground {
        let (one, two) = (plain("claims-one"), plain("claims-two"));
        let others = vec![World::new("another plain host", [&two.ns; 4])];
        Ground::with(World::new("plain", [&one.ns; 4]), others, Vec::new(), vec![one, two])
    }

    fn with(alone: World, others: Vec<World>, _containers: Vec<Container>, _hosts: Vec<Host>) -> Ground {
        Ground { alone, others, ports: FREE.into_iter().flatten().collect(), _containers, _hosts }
    }

    /// Whether there are enough for one more program.
    pub fn has_ports(&self) -> bool {
        self.ports.len() > RESERVE * PORTS
    }

    /// Ports that nobody had.
    pub fn ports(&mut self) -> [u16; PORTS] {
        std::array::from_fn(|_| self.ports.pop().expect("the reserve is enough"))
    }
}

/// A host whose own range is what containers are given blocks of.
fn plain(name: &str) -> Host {
    Host::with(name).port_range("32768 57343").unprepared().build()
}
