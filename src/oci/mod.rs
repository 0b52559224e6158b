//! What OCI documents say: the state a runtime hands to a hook, and the bundle of a container. Read leniently, since
//! runtimes differ and newer ones say more.

pub mod asked;
pub mod bundle;
pub mod cdi;
pub mod edit;
pub mod engine;
mod object;
mod state;

pub use bundle::Bundle;
pub use object::Object;
pub use state::State;
