//! From a refusal that [`crate::plan::grant`] could only half explain to the line an operator reads.

use crate::config::Config;
use crate::error::Error;
use crate::lease::Desk;
use crate::net::diag;
use crate::plan::grant::{Refusal, exhausted};
use crate::ports::PortSet;

/// What is needed to find out who is in the way.
pub struct InTheWay<'a> {
    /// What the operator set.
    pub config: &'a Config,
    /// Who has what.
    pub desk: Desk<'a>,
    /// Ports that sockets of the host hold.
    pub used: &'a PortSet,
}

/// The holder of a port is looked for only now: it takes a walk through every process.
pub fn refused(refusal: Refusal, way: &InTheWay<'_>) -> Error {
    /// Leases that are named.
    const SHOWN: usize = 8;
    match refusal {
        Refusal::Error(e) => e,
        Refusal::Socket(holder) => {
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
        Refusal::Leased(port) => Error::PortInUse(format!(
            "port {port} is leased to {}: ask for another port, or end that container",
            way.desk.owner(port)
        )),
        Refusal::Full(full) => {
            let slots: Vec<u16> = way.desk.leased().collect();
            let name = |slot: &u16| way.desk.name(*slot).trim_start_matches("container ").to_owned();
            let holders: Vec<String> = slots.iter().take(SHOWN).map(name).collect();
            exhausted(&full, way.config, &holders, slots.len(), way.used)
        }
    }
}
