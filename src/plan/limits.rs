//! What limits a container gets, where they are enforced, and how much may wait behind them.
//!
//! What does not live here: the formula ([`crate::rate`]) and carrying out ([`crate::slice`]).

use crate::config::Config;
use crate::cpus::Cpus;
use crate::error::Result;
use crate::lease::{Asked, Placed, Terms};
use crate::net::qdisc::{Leaf, Throttle};
use crate::ports::PortSet;
use crate::rate::{Direction, Machine, Shape};

/// Where a queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host's end of the pair: what goes to the container.
    Ingress,
    /// The container's end: what it sends, under its own roof.
    Inside,
    /// A class of the shaper: what it sends, on the host.
    Shaper,
}

/// What one socket with a send buffer of the default size (212992 bytes with the kernel's own overhead,
/// net.core.wmem_default) can have under way: with less room it would lose packets instead of waiting.
const EGRESS_ROOM: u32 = 288 << 10;
/// Two of the largest packets: with one, a second that arrives meanwhile would always be lost.
const INGRESS_ROOM: u32 = 128 << 10;

/// What is known of a container beside what it asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// It cannot get at a queue on its own device, so that one may hold it to its limit.
    pub tamper_proof: bool,
    /// CPUs that its bundle gives it.
    pub bundle_cpus: Option<Cpus>,
}

/// The terms of a container that listens on `ports` and asked for `asked`. A limit that spares local traffic has to
/// look at each packet, which happens on the host.
///
/// # Errors
///
/// See [`crate::rate::Policy::shape`].
pub fn terms(config: &Config, ports: PortSet, asked: &Asked, known: Known, machine: &Machine) -> Result<Terms> {
    let cpus = asked.cpus.or(known.bundle_cpus);
    let egress = config.policy(Direction::Egress).shape(&asked.egress, cpus, machine)?;
    let ingress = config.policy(Direction::Ingress).shape(&asked.ingress, cpus, machine)?;
    let limit_local = asked.limit_local.unwrap_or(config.limit_local);
    let inside = egress.is_some() && known.tamper_proof && limit_local;
    Ok(Terms {
        ports,
        asked: asked.clone(),
        egress,
        egress_placed: if inside { Placed::Inside } else { Placed::Host },
        ingress,
        limit_local,
    })
}

/// Do these terms need the shaper that containers share?
pub fn need_shaper(terms: &Terms) -> bool {
    terms.egress.is_some() && terms.egress_placed == Placed::Host
}

/// Where limits of these terms stand, with their numbers.
pub fn queues(terms: &Terms, leaf: Leaf) -> Vec<(Place, Throttle)> {
    let egress = match terms.egress_placed {
        Placed::Host => Place::Shaper,
        Placed::Inside => Place::Inside,
    };
    [(Place::Ingress, terms.ingress), (egress, terms.egress)]
        .into_iter()
        .filter_map(|(place, shape)| shape.map(|shape| (place, throttle(place, shape, leaf))))
        .collect()
}

/// A limit with what may wait behind it.
pub fn throttle(place: Place, shape: Shape, leaf: Leaf) -> Throttle {
    let room = if place == Place::Ingress { INGRESS_ROOM } else { EGRESS_ROOM };
    Throttle { shape, leaf, room }
}
