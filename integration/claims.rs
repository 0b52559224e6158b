//! Promise: open ports are taken by bind() and given back by close(), as on a plain host, whoever binds: the host or a container.

mod differential;
mod runner;

use crate::lab::Host;

/// A host whose containers may have open ports. Its programs see the sockets of this test process.
fn host(name: &str) -> Host {
    Host::with(name).judged("require").build()
}
