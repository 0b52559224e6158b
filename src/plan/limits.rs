//! What limits a container gets, where they are enforced, and how much may wait behind them.
//!
//! What does not live here: the formula ([`crate::rate`]) and carrying out ([`crate::slice`]).

use std::fmt;

use crate::config::Config;
use crate::cpus::Cpus;
use crate::error::Result;
use crate::lease::{Asked, Placed, Second, Terms};
use crate::net::qdisc::{Leaf, Throttle};
use crate::rate::{Direction, Machine, Rate, Shape};

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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Ingress => "ingress",
            Place::Inside => "inside egress",
            Place::Shaper => "egress",
        })
    }
}

/// What a sender may have under way before the kernel makes it wait: a UDP socket its send buffer (212992 bytes of
/// net.core.wmem_default), a TCP connection what its pace made it send ahead before the rate was lowered
/// (net/ipv4/tcp_output.c, tcp_small_queue_check). With less room they would lose packets instead.
const EGRESS_ROOM: u32 = 1 << 20;
/// Two of the largest packets: with one, a second that arrives meanwhile would always be lost.
const INGRESS_ROOM: u32 = 128 << 10;

/// Below this rate one packet of 64 KB blocks the queue for over 50 ms. Such limits need two classes, so they are placed on
/// the host.
const INSIDE_FROM: Rate = Rate::from_bits_per_second(10_000_000);

/// What is known of a container beside what it asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Nothing in its namespace can get at a queue on its own device, so that one may hold it to its limit.
    pub tamper_proof: bool,
    /// The CPUs of all its members.
    pub cpus: Option<Cpus>,
}

/// The bandwidth of a slice that asked for `asked`. A slow limit, and one that spares local traffic, are held on the host,
/// where each packet can be led to another class or past it.
///
/// # Errors
///
/// See [`crate::rate::Policy::shape`].
pub fn terms(config: &Config, asked: &Asked, known: Known, machine: &Machine) -> Result<Terms> {
    let cpus = known.cpus;
    let egress = config.policy(Direction::Egress).shape(&asked.egress, cpus, machine)?;
    let ingress = config.policy(Direction::Ingress).shape(&asked.ingress, cpus, machine)?;
    let limit_local = asked.limit_local.unwrap_or(config.limit_local);
    let fast = egress.is_some_and(|shape| !shape.rate.is_below(INSIDE_FROM));
    let inside = fast && known.tamper_proof && limit_local;
    Ok(Terms {
        asked: asked.clone(),
        egress,
        egress_placed: if inside { Placed::Inside } else { Placed::Host },
        ingress,
        limit_local,
        second: Second::default(),
    })
}

/// What a device takes unless it is told otherwise: GSO_LEGACY_MAX_SIZE.
pub const LARGEST_PACKET: u32 = 65536;

/// The largest packet, in bytes, that TCP inside may make of many segments: what takes 50 ms at the rate, and two
/// segments. A packet of 64 KB, the kernel's default, would keep a container at 64 kbit/s from everything else for 8 s.
pub fn largest_packet(terms: &Terms) -> u32 {
    const DEFAULT: u64 = LARGEST_PACKET as u64;
    /// The kernel takes MAX_TCP_HEADER off what it is told (net/ipv4/tcp.c, sk_gso_max_size); two frames besides.
    const LEAST: u64 = 2 * 1514 + 400;
    let worth = terms.egress.map_or(DEFAULT, |shape| shape.rate.bytes_per_second() / 20);
    worth.clamp(LEAST, DEFAULT) as u32
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
