//! The ways in. Each decodes its input into a request, calls one verb of [`crate::slice`], and encodes the outcome in
//! its own protocol. Nothing here decides anything about ports, devices or packets.

pub mod cli;
pub mod cni;
mod command;
pub mod follow;
pub mod hook;
pub mod netavark;
pub mod runtime;
pub mod serve;

use std::io::{Write, stderr};

use crate::error::Error;
use crate::host::process::{in_the_hosts_user_namespace, missing_capability};
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

/// What failed. Where the kernel forbade it to somebody who is not root, that is said.
fn explained(error: Error) -> Error {
    if !error.is_denied() {
        return error;
    }
    match (in_the_hosts_user_namespace(), missing_capability()) {
        (Err(rootless), _) => rootless,
        (Ok(()), Some(capability)) => {
            Error::unsupported(error.to_string(), format!("run as root (lacks {capability})"))
        }
        (Ok(()), None) => error,
    }
}

/// One line for whoever runs the program. That nobody listens any more changes nothing.
fn complain(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}
