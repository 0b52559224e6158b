//! The container that a verb is about, as its caller names it.

use std::path::Path;

use crate::error::{Error, Result};
use crate::host::process::Worker;
use crate::net::Netns;
use crate::request::ContainerId;

/// Where the container's namespace is.
#[derive(Clone, Copy, Debug)]
pub enum Container<'a> {
    /// The namespace of a process.
    Pid(u32),
    /// A path to the namespace.
    Path(&'a Path),
    /// It does not exist yet: what it will have is leased, for as long as this process runs, which creates it.
    Expected(Worker),
}

impl Container<'_> {
    /// Opens the namespace; with it the container's process, where one was named.
    pub(super) fn open(self) -> Result<(Option<Netns>, Option<u32>)> {
        match self {
            Container::Pid(pid) => Ok((Some(Netns::of_pid(pid)?), Some(pid))),
            Container::Path(path) => Ok((Some(Netns::open(path)?), None)),
            Container::Expected(_) => Ok((None, None)),
        }
    }
}

/// The refusal of a container that shares the host's namespace.
pub fn without_namespace(id: &ContainerId) -> Error {
    Error::unsupported(
        format!("container {id} has no network namespace of its own"),
        "give it one (linux.namespaces in the bundle; docker and podman: --network none), or leave portslice out",
    )
}
