//! The ways in. Each decodes its input into a request, calls one verb of [`crate::slice`], and encodes the outcome in
//! its own protocol. Nothing here decides anything about ports, devices or packets.

pub mod cli;
mod command;
pub mod follow;
pub mod hook;
pub mod serve;

use std::io::{Write, stderr};

/// One line for whoever runs the program. That nobody listens any more changes nothing.
fn complain(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}
