//! What a container was given, and the verbs that make and end it. The only place where order matters.
//!
//! [`prepare`] makes the host ready, [`attach`] gives a container its slice, [`detach`] takes it back, [`reclaim`]
//! takes back what nobody else did. Each is idempotent. Nothing here knows which face called.

pub mod attach;
pub mod detach;
pub mod prepare;
pub mod reclaim;
mod wire;

pub use attach::{Container, attach};
pub use detach::detach;
