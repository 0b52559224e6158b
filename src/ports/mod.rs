//! Port numbers: ranges, sets of them with one spelling, blocks, and the pool that blocks are cut from.
//!
//! Everything here is arithmetic and does no I/O. What does not live here: which port belongs to whom
//! ([`crate::lease`]), and whether a port is in use on the host ([`crate::net::diag`]).

pub mod block;
mod names;
mod open;
pub mod pool;
mod set;
mod text;

pub use block::{Block, BlockSize};
pub use names::{NameProtocol, PortNames, PortNamesError};
pub use open::{OpenPorts, OpenPortsError};
pub use pool::Pool;
pub use set::{PortRange, PortSet};
pub use text::PortError;
