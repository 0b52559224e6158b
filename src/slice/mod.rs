//! What a container was given, and the verbs that make, alter and end it. The only place where order matters.
//!
//! [`setup`] makes the host ready and [`mod@undo`] puts it back; [`ready`] opens it. [`attach()`] gives a container its slice,
//! or lets it join that of its namespace; [`change()`] alters it while the container runs; [`detach()`] takes a container out,
//! and the last one ends the slice (`end`); [`reclaim`] ends what nobody else did; [`fsck`] compares everything with the
//! kernel. A join, a leave and a change are each a `turn`. All of them are runs over the steps of a plan (`run`). Each is
//! idempotent. Nothing here knows which face called.

pub mod account;
pub mod attach;
pub mod boot;
pub mod change;
mod container;
pub mod detach;
mod end;
pub mod files;
pub mod follow;
pub mod fsck;
mod join;
pub mod network;
mod open;
pub mod power;
pub mod ready;
pub mod reclaim;
mod refused;
mod reserve;
mod run;
pub mod setup;
pub mod state;
mod turn;
pub mod undo;
mod wanted;

pub use attach::attach;
pub use change::change;
pub use container::{Container, without_namespace};
pub use detach::{By, detach};
