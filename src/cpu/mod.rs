//! CPU limits of one container: the values that follow from its request, the cgroup they belong in, and writing them there.
//!
//! What does not live here: counters (`stats::cgroup`), and what else scales with CPUs (`rate::scale`).

mod bus;
pub mod place;
pub mod share;
pub mod systemd;
pub mod unit;
pub mod values;
pub mod version;
pub mod write;

pub use crate::cpus::CpuLimit;
pub use bus::Systemd;
pub use place::{Cgroup, Controller, Finder, Place, Roots};
pub use share::{Asked, Policy, Settings, settings};
pub use systemd::{Property, Units};
pub use values::{Bandwidth, Quota, Values};
pub use version::Version;
pub use write::{Intended, forget, intend, read, set};
