//! What the kernel itself takes longer for the more ingress hooks a machine has.
//!
//! For a device whose driver takes no filters, as veth's, it keeps one list of all hooks in every namespace, and walks all of it to add
//! one (`indir_dev_add`, net/core/flow_offload.c). The list is larger than what a processor keeps at hand, so a walk takes as long as
//! the machine's memory lets it.

use super::judge::Failure;
use super::milliseconds;
use nix::sched::{CloneFlags, unshare};
use portslice::net::{Netlink, filter};
use std::thread;
use std::time::Instant;

/// How many hooks a slice has: on the host's end of its pair, and on its own end and lo.
pub const OF_A_SLICE: f64 = 3.0;

const LO: u32 = 1;

/// The lo of a namespace that lives as long as this.
pub struct Hook(Netlink);

impl Hook {
    pub fn prepare() -> Result<Hook, Failure> {
        // A thread of its own: this one stays on its host.
        let opened = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
            Netlink::route().map_err(|e| e.to_string())
        });
        Ok(Hook(opened.join().expect("opening a socket does not panic")?))
    }

    /// Milliseconds that adding one takes. It is removed again.
    pub fn add(&mut self) -> Result<f64, Failure> {
        let begun = Instant::now();
        self.0.send(filter::add_ingress_qdisc(LO, "lo"))?;
        let took = milliseconds(begun.elapsed());
        self.0.send(filter::delete_ingress_qdisc(LO, "lo"))?;
        Ok(took)
    }
}
