//! The ways in. Each decodes its input into a request, calls one verb of [`crate::slice`], and encodes the outcome in
//! its own protocol. Nothing here decides anything about ports, devices or packets.

mod bundle;
pub mod cli;
pub mod hook;
pub mod serve;
mod state;
