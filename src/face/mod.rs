//! The ways in. Each decodes its input into a request, calls one verb of [`crate::slice`], and encodes the outcome in
//! its own protocol. Nothing here decides anything about ports, devices or packets.

pub mod cli;
mod command;
pub mod follow;
pub mod hook;
pub mod runtime;
pub mod serve;

use std::io::{Write, stderr};

use crate::log::Place;

/// One line for the log, and for whoever runs the program `name`: once where the log goes there as well.
fn report(name: &str, level: log::Level, line: &str) {
    let place = crate::log::place();
    if place != Place::Terminal {
        log::log!(level, "{line}");
    }
    if place != Place::Journal {
        complain(&format!("{name}: {line}"));
    }
}

/// One line for whoever runs the program. That nobody listens any more changes nothing.
fn complain(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}
