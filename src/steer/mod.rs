//! The BPF data path: the programs in `bpf/`, the maps they share with user space, loading and attaching.
//!
//! `bpf/` decides per packet whose it is. [`program`] loads and pins it once per boot and hooks it to the uplink and
//! lo; [`maps`] is the way to say who owns which port. What does not live here: who gets which port
//! ([`crate::lease`]), and the devices that the programs hang on ([`crate::net`]).

mod sys;

pub mod maps;
pub mod program;

pub use maps::{Counters, HostFacts, Maps, SlotEntry};
pub use program::Programs;
