//! From a refusal that [`crate::plan::grant`] could only half explain to the line an operator reads.

use crate::error::Error;
use crate::net::diag;
use crate::plan::grant;

/// The holder of a port is looked for only now: it takes a walk through every process.
pub fn refused(refusal: grant::Refusal) -> Error {
    match refusal {
        grant::Refusal::Error(e) => e,
        grant::Refusal::Socket(holder) => {
            let by = match diag::process_of(holder.inode) {
                Some(process) => format!("process {} ({})", process.pid, process.name),
                None => "a process of the host".into(),
            };
            let protocol = if holder.tcp { "TCP" } else { "UDP" };
            Error::PortInUse(format!(
                "port {} is in use by {by} of the host ({protocol}): ask for another port, or end it",
                holder.port
            ))
        }
    }
}
