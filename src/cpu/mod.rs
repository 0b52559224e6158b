//! CPU limits of one container: which values follow from what is asked, which cgroup they belong into, and writing them
//! there.
//!
//! What does not live here: counters (`stats::cgroup`), and what else scales with CPUs (`rate::scale`).

mod bus;
pub mod place;
pub mod share;
pub mod systemd;
pub mod write;

pub use crate::cpus::CpuLimit;
pub use bus::Systemd;
pub use place::{Cgroup, Controller, Place, Roots, Version};
pub use share::{Asked, Policy, Quota, Settings, settings};
pub use systemd::{Property, Units};
pub use write::{Bandwidth, Intended, Values, forget, intend, read, set};
