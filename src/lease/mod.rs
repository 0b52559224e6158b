//! Leases: who may use which ports. The ledger is the file-locked store.
//!
//! What does not live here: making a lease work ([`crate::slice`]).

pub mod cached;
pub mod index;
pub mod journal;
pub mod ledger;
pub mod record;

pub use cached::Leases;
pub use ledger::Ledger;
pub use record::{Asked, CpuTerms, Dropped, Lease, Placed, Second, Stage, Terms};
