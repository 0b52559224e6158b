//! Statistics: one container's counters as one value, and its renderings. Names, units and meaning follow Mesos'
//! `ResourceStatistics`. Directions are the container's: rx is what the container received.

pub mod cgroup;
pub mod collect;
pub mod inhabitants;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod rates;
pub mod reported;
pub mod sample;
pub mod snmp;
pub mod sources;
pub mod table;

pub use collect::collect;
pub use reported::Reported;
pub use sample::{Monitored, Statistics, sample};
pub use sources::{Groups, Sources};
