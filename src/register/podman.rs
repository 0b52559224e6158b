//! Podman: files in a directory of hooks that it reads. They name when our hooks run: for containers that ask.

use std::path::Path;

use super::document::{Document, Edit, Format};
use super::files::{Content, Wanted};
use super::system::{System, ask, version};
use super::{Desk, Plan};
use crate::error::{Error, Result};

/// The files as they are shipped.
const HOOKS: [(&str, &str); 4] = [
    ("50-portslice-prestart.json", include_str!("../../config/oci-hooks.d/50-portslice-prestart.json")),
    ("50-portslice-precreate.json", include_str!("../../config/oci-hooks.d/50-portslice-precreate.json")),
    ("50-portslice-poststop.json", include_str!("../../config/oci-hooks.d/50-portslice-poststop.json")),
    ("50-portslice-poststop-pod.json", include_str!("../../config/oci-hooks.d/50-portslice-poststop-pod.json")),
];

/// Where the administrator's hooks are, if Podman is told to look there.
const LOCAL: &str = "/etc/containers/oci/hooks.d";
/// Where Podman and CRI-O look if they are told nothing.
pub const COMMON: &str = "/usr/share/containers/oci/hooks.d";

/// Where netavark looks for drivers of networks that are not its own, and the first Podman that lets it.
const DRIVERS: &str = "/usr/libexec/netavark";
const HAS_DRIVERS: (u32, u32) = (4, 5);

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    let mut then = Vec::new();
    let mut driver = None;
    let directory = match desk.engine("podman")? {
        Some(podman) => {
            if version(&ask(&podman, &["--version"])?.out).is_some_and(|version| version >= HAS_DRIVERS) {
                driver = driver_link(desk.system)?;
            }
            directory(&ask(&podman, &["--help"])?.out)?
        }
        None => {
            then.push(desk.system.unasked("podman"));
            COMMON.to_owned()
        }
    };
    then.push("containers ask with --annotation portslice/ports=31000 --network none".to_owned());
    let mut wanted = hooks(desk.system, &directory)?;
    if let Some(link) = driver {
        wanted.push(link);
        then.push("networks have the driver portslice: podman network create --driver portslice NAME".to_owned());
    }
    Ok(Plan { wanted, then })
}

/// The link to our driver, if that is installed and not there itself.
fn driver_link(system: &System) -> Result<Option<Wanted>> {
    match Wanted::program(system, &Path::new(DRIVERS).join("portslice"), "portslice-netavark") {
        Err(Error::NotFound(_)) => Ok(None),
        link => link,
    }
}

/// The files for a directory of hooks, with the programs where they are on this system.
pub fn hooks(system: &System, directory: &str) -> Result<Vec<Wanted>> {
    let file = |(name, text): &(&str, &str)| {
        let mut document = Document::parse(Format::Json, text, *name)?;
        let shipped = document.get(&["hook", "path"]).unwrap_or_default();
        let program = shipped.as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        document.apply(&[Edit::new(&["hook"], "path", system.program(program)?.display().to_string())])?;
        Ok(Wanted::new(Path::new(directory).join(name), Content::Whole(document.text())))
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
        let mut registered = HOOKS.map(|(file, _)| file.to_owned());
        registered.sort();
        assert_eq!(shipped, registered);
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
