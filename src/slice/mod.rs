//! What a container was given, and the verbs that make, alter and end it. The only place where order matters.
//!
//! [`prepare`] makes the host ready and [`undo`] puts it back, [`attach()`] gives a container its slice, [`change()`] alters it while the container
//! runs, [`detach()`] takes it back, [`mod@reclaim`] takes back what nobody else did. Each is idempotent. Nothing here
//! knows which face called.

pub mod account;
pub mod attach;
pub mod change;
pub mod detach;
mod fair;
mod limit;
pub mod prepare;
mod processor;
pub mod reclaim;
mod refused;
mod shaper;
pub mod undo;
mod wire;

pub use attach::{Container, attach};
pub use change::change;
pub use detach::detach;
