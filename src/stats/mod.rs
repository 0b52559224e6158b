//! Statistics: one container's counters as one value, and its renderings. Names, units and meaning follow Mesos
//! (`ResourceStatistics`), seen from inside the container: rx is what it received.

pub mod cgroup;
pub mod collect;
pub mod limits;
pub mod net;
pub mod openmetrics;
pub mod rates;
pub mod sample;
pub mod snmp;
pub mod table;
pub mod told;

pub use collect::collect;
pub use sample::{Groups, Monitored, Sources, Statistics, sample};
pub use told::Told;
