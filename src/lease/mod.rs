//! Leases: who may use which ports. [`record`] and [`member`] say what a lease is, [`ledger`] keeps them as files, [`desk`]
//! is the view of the kernel's tables that a decision takes, [`lock`] keeps two decisions apart, [`journal`] keeps what was
//! counted for containers that ended.
//!
//! What does not live here: who gets what ([`crate::plan`]), and making a lease work ([`crate::slice`]).

pub mod cached;
pub mod desk;
pub mod journal;
pub mod ledger;
pub mod lock;
pub mod member;
pub mod names;
pub mod record;
pub mod view;

pub use cached::Leases;
pub use desk::Desk;
pub use ledger::Ledger;
pub use member::{CpuAsked, CpuTerms, Member};
pub use record::{Asked, Dropped, Lease, Offer, Placed, Second, Stage, State, Terms};
