//! Podman: files in a directory of hooks that it reads. They name when our hooks run: for containers that ask.

use std::path::Path;

use super::files::{Content, Wanted};
use super::system::{System, ask};
use super::{Desk, Plan};
use crate::error::{Error, Result};

/// The files as they are shipped, and the program that each names.
const HOOKS: [(&str, &str, &str); 3] = [
    (
        "50-portslice-prestart.json",
        "portslice-prestart",
        include_str!("../../config/oci-hooks.d/50-portslice-prestart.json"),
    ),
    (
        "50-portslice-poststop.json",
        "portslice-poststop",
        include_str!("../../config/oci-hooks.d/50-portslice-poststop.json"),
    ),
    (
        "50-portslice-poststop-pod.json",
        "portslice-poststop",
        include_str!("../../config/oci-hooks.d/50-portslice-poststop-pod.json"),
    ),
];

/// Where the administrator's hooks are, if Podman is told to look there.
const LOCAL: &str = "/etc/containers/oci/hooks.d";
/// Where Podman and CRI-O look if they are told nothing.
pub const COMMON: &str = "/usr/share/containers/oci/hooks.d";

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    let mut then = Vec::new();
    let directory = match desk.engine("podman")? {
        Some(podman) => directory(&ask(&podman, &["--help"])?.out)?,
        None => {
            then.push(desk.system.unasked("podman"));
            COMMON.to_owned()
        }
    };
    then.push("containers ask with --annotation portslice/ports=31000 --network none".to_owned());
    Ok(Plan { wanted: hooks(desk.system, &directory)?, then })
}

/// The files for a directory of hooks.
pub fn hooks(system: &System, directory: &str) -> Result<Vec<Wanted>> {
    let file = |(file, program, text): &(&str, &str, &str)| {
        let there = system.program(program)?;
        let text = text.replace(&format!("/usr/libexec/portslice/{program}"), &there.display().to_string());
        Ok(Wanted::new(Path::new(directory).join(file), Content::Whole(text)))
    };
    HOOKS.iter().map(file).collect()
}

/// Which directory to take of those that Podman reads. Its help names them as its configuration has them:
/// `--hooks-dir strings   Set the OCI hooks directory path (may be set multiple times) (default [A,B])`.
fn directory(help: &str) -> Result<String> {
    let line = help.lines().find(|line| line.contains("--hooks-dir")).unwrap_or_default();
    let listed = line.rsplit_once("(default [").and_then(|(_, list)| list.split(']').next()).unwrap_or(COMMON);
    let directories: Vec<&str> = listed.split([',', ' ']).filter(|directory| directory.starts_with('/')).collect();
    let chosen = directories.iter().find(|directory| **directory == LOCAL).or(directories.first());
    chosen.map(|directory| (*directory).to_owned()).ok_or_else(|| {
        Error::Refused("podman reads no directory of hooks: give it one (hooks_dir in containers.conf)".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_that_is_shipped_is_registered() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/oci-hooks.d");
        let mut shipped: Vec<String> = std::fs::read_dir(shipped)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        shipped.sort();
        let mut registered = HOOKS.map(|(file, ..)| file.to_owned());
        registered.sort();
        assert_eq!(shipped, registered);
        for (file, program, text) in HOOKS {
            assert!(text.contains(&format!("\"/usr/libexec/portslice/{program}\"")), "{file}");
        }
    }

    #[test]
    fn a_directory_that_podman_reads_is_chosen() {
        let line =
            |default: &str| format!("  --hooks-dir strings   Set the OCI hooks directory path (default {default})\n");
        assert_eq!(directory(&line(&format!("[{COMMON}]"))).unwrap(), COMMON);
        assert_eq!(directory(&line(&format!("[{COMMON},{LOCAL}]"))).unwrap(), LOCAL);
        assert_eq!(directory(&line("[/srv/hooks]")).unwrap(), "/srv/hooks");
        assert_eq!(directory("no such option").unwrap(), COMMON);
        assert!(directory(&line("[]")).is_err());
    }
}
