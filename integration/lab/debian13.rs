//! Hosts with the engines of the next Debian: `/usr` and `/etc` of the root that `integration/debian13` makes lie over the
//! machine's, so that whatever drives an engine of the machine drives these as well. What is written there is the host's own.

use super::host::{Host, Plan};
use std::path::PathBuf;

/// Whose engines a host has.
#[derive(Clone, Copy)]
pub enum Engines {
    /// Those that are installed on the machine.
    Installed,
    /// Docker 26, containerd 1.7 and Podman 5. They take long.
    Debian13,
}

impl Engines {
    /// A host with all defaults that has them; `None`, with the reason said, where they are not there.
    pub fn host(self, name: &str) -> Option<Host> {
        self.build(Host::with(name))
    }

    /// The same for any plan.
    pub fn build(self, plan: Plan) -> Option<Host> {
        match self {
            Engines::Installed => Some(plan.build()),
            Engines::Debian13 => Some(plan.debian13(root()?).build()),
        }
    }
}

fn root() -> Option<PathBuf> {
    if !super::long() {
        eprintln!("skipped: engines in a root of Debian 13 take long (PORTSLICE_LONG)");
        return None;
    }
    let root = std::env::var_os("PORTSLICE_DEBIAN13").map(PathBuf::from);
    let root = root.filter(|root| root.join(".complete").exists());
    if root.is_none() {
        eprintln!("skipped: no root of Debian 13 (PORTSLICE_DEBIAN13; integration/debian13 makes one)");
    }
    root
}
