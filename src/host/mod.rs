//! Facts about this host: its uplink, addresses and routes, its ephemeral ports, what its kernel can do.
//!
//! Everything here only looks, except [`sysctl`] and [`unmanaged`], which also write where a verb tells them to. What does not live
//! here: what follows from the facts ([`crate::plan`]).

pub mod beside;
pub mod carried;
pub mod cgroup2;
pub mod facts;
pub mod features;
pub mod given;
pub mod process;
pub mod procfs;
pub mod record;
pub mod resolver;
pub mod sysctl;

pub use beside::Beside;
pub use facts::Facts;
pub use given::Given;
pub use record::HostRecord;
