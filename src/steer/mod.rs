//! The BPF data path: the programs in `bpf/`, the maps they share with user space, loading and attaching.
//!
//! `bpf/` decides per packet whose it is, and at bind() whose a port is. [`program`] loads and pins it once per boot and version and hooks it to the uplink
//! and lo; [`maps`] is the way to say who owns which port, [`book`] keeps the lease records in the kernel, [`tenants`] says
//! who has which slot, [`joined`] who is in which group, and [`find`] finds all of that where no pin leads to it; [`pins`] says
//! whose the pins are and makes missing ones again; [`model`] says in Rust what the programs decide. [`sockets`] attaches what
//! judges bind() to a cgroup, [`namespaces`] tells it whose a socket is, [`offers`] what a container may claim, [`claims`] which ports
//! sockets hold without a lease, [`claimed`] reads them one by one; [`names`] tells which numbers stand for a port inside, and
//! [`naming`] attaches what translates them. What does not live here: who gets which port ([`crate::lease`]), and the devices that
//! the programs hang on ([`crate::net`]).

mod convert;
mod shared;
mod word;

pub mod book;
pub mod claimed;
pub mod claims;
pub mod find;
pub mod joined;
pub mod layout;
pub mod maps;
pub mod model;
pub mod names;
pub mod namespaces;
pub mod naming;
pub mod offers;
pub mod pins;
pub mod program;
pub mod sockets;
pub mod sys;
pub mod tenants;

pub use book::Book;
pub use claimed::{Claim, Held};
pub use claims::Claims;
pub use joined::Joined;
pub use layout::{Addresses, Counters, Holder, HostFacts, MAX_SLOTS, SlotEntry};
pub use maps::{Maps, Owner, Taken};
pub use names::Naming;
pub use namespaces::Namespaces;
pub use offers::Offer;
pub use pins::Programs;
pub use tenants::{Cursor, Tenant, TenantState, Tenants};
