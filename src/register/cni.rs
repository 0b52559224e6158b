//! What callers of CNI plugins need: a list of plugins in their directory of networks, and the plugin in their directory of
//! programs, under the name of its type.

use std::path::Path;

use super::files::{Content, Wanted};
use super::system::System;
use crate::error::{Error, Result};

/// Where callers look for networks unless they are told.
pub const DIRECTORY: &str = "/etc/cni/net.d";

/// As it is shipped.
pub const LIST: &str = include_str!("../../config/cni/10-portslice.conflist");

const LIST_NAME: &str = "10-portslice.conflist";

/// The list in the directory `networks`, and a link in `plugins`. Nothing where the plugin is not installed.
pub fn files(system: &System, networks: &str, plugins: &str) -> Result<Vec<Wanted>> {
    match plugin(system, plugins) {
        Ok(plugin) => {
            let list = Wanted::new(Path::new(networks).join(LIST_NAME), Content::Whole(LIST.to_owned()));
            Ok([Some(list), plugin].into_iter().flatten().collect())
        }
        Err(Error::NotFound(_)) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The link in `plugins`; `None` where the plugin is installed there itself.
pub fn plugin(system: &System, plugins: &str) -> Result<Option<Wanted>> {
    Wanted::program(system, &Path::new(plugins).join("portslice"), "portslice-cni")
}
