//! Which network a container is attached to, where somebody who attaches containers to networks asks for it (CNI).

use serde::{Deserialize, Serialize};

/// One attachment of a container to a network. With the container's id it is the key by which CNI names it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name in its configuration.
    pub network: String,
    /// What the container's device is called.
    pub device: String,
}
