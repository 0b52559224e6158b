//! Pure decisions: from a request, what is taken and the host's facts to a lease, and from a lease to the ordered steps that
//! make it work. Nothing here reads or writes anything.
//!
//! [`grant`] says what a container gets, [`limits`] how much it may send and receive, [`steer`] what the data path must know
//! of the host. [`step`] is what there is to do; [`host`], [`mod@slice`] and [`mod@change`] say which steps, in which order.
//! Carrying them out is `wire`'s.

pub mod change;
pub mod grant;
pub mod host;
pub mod limits;
pub mod slice;
pub mod steer;
pub mod step;

pub use change::change;
pub use slice::slice;
pub use step::{Action, Done, Step, Verb};
