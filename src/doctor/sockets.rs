//! The programs at the sockets: whether bind() tells the truth on this host, and if not, why.

use super::{Finding, Scene, ok, warn};

/// Nothing where the operator wants none, and before the host is prepared; that they are not as they were left is told with the
/// rest of the host.
pub fn look(scene: &Scene<'_>) -> Option<Finding> {
    let sockets = scene.record.sockets.as_ref().filter(|_| scene.record.ready)?;
    let Some(missing) = &sockets.missing else {
        return Some(ok("sockets", "bind() of a port that is somebody else's fails"));
    };
    let why = "a container that binds a port of somebody else's, and a program of the host that binds a leased one, hear nothing \
               there, and nothing tells them; when it is mended, setup tries again";
    let why = if scene.config.open_ports.is_none() {
        why.into()
    } else {
        format!("{why}; open_ports is not given to anybody")
    };
    Some(warn("sockets", format!("bind() is not judged: {missing}"), why, scene.command("setup")))
}
