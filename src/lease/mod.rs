//! Leases: who may use which ports. Block arithmetic and the pool are pure; the ledger is the file-locked store.
//!
//! What does not live here: making a lease work ([`crate::slice`]).

pub mod block;
pub mod cached;
pub mod id;
pub mod index;
pub mod journal;
pub mod ledger;
pub mod pool;
pub mod record;

pub use cached::Leases;
pub use id::ContainerId;
pub use ledger::Ledger;
pub use record::{Asked, CpuTerms, Dropped, Lease, Placed, Second, Stage, Terms};
