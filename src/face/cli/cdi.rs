//! `portslice cdi`.

use std::path::{Path, PathBuf};

use super::print_json;
use crate::config::Config;
use crate::error::Result;
use crate::oci::cdi::{Hooks, Spec};

/// Where the hooks are when they are not beside this program.
const INSTALLED: &str = "/usr/libexec/portslice";

/// Prints the specification. Nothing of the host is looked at.
pub fn run(config: &Config) -> Result<()> {
    print_json(&document(config))
}

/// The specification, with the profiles of the configuration and the hooks that belong to this program.
pub fn document(config: &Config) -> Spec {
    let beside = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_path_buf));
    let directory = beside.filter(|directory| directory.join("portslice-prestart").exists());
    let directory = directory.unwrap_or_else(|| PathBuf::from(INSTALLED));
    Spec::of(&Hooks { directory: &directory, env: &environment(config) }, config.profiles())
}

/// What leads the hooks to the configuration file and the state directory that were named to this program.
fn environment(config: &Config) -> Vec<String> {
    let file = config.file.as_ref().map(|file| format!("PORTSLICE_CONFIG={}", file.display()));
    let state = (config.state_dir != Config::default().state_dir)
        .then(|| format!("PORTSLICE_STATE_DIR={}", config.state_dir.display()));
    file.into_iter().chain(state).collect()
}
