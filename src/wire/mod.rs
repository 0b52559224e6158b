//! Carrying out steps: one file a kind of step, each looked at, performed and undone there.
//!
//! [`Site`] is where the steps of one slice are carried out, [`host::HostSite`] the same for the steps of the host. What does
//! not live here: which steps there are (`plan`), in which order and what happens when one fails (`slice::run`).

pub mod claims;
mod cpu;
pub mod fair;
mod fib;
mod furnish;
pub mod guard;
pub mod hook;
pub mod host;
pub mod keep;
pub mod naming;
mod pair;
pub mod programs;
pub mod queue;
mod refurnish;
pub mod reserve;
mod settings;
pub mod shaper;
mod site;
mod slot;
pub mod sockets;
mod steer;
mod survey;

pub use cpu::{at as cgroups_at, find as find_cgroups, intend as intend_cpu};
pub use host::HostSite;
pub use queue::Queue;
pub use refurnish::carried;
pub use site::{Host, Others, Site};
pub use survey::Survey;

use crate::error::Result;
use crate::plan::{Action, Step};

/// Where steps are carried out.
pub trait Carry {
    /// Does what an action says. Undoing what is not there is success.
    fn act(&mut self, action: &Action) -> Result<()>;

    /// Compares what is there with a step, and says what differs: one line each, none where all is as planned.
    fn look(&mut self, step: &Step) -> Result<Vec<String>>;
}
