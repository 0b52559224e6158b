//! Which files of the host's configuration setup keeps here.

use std::path::{Path, PathBuf};

use crate::net::netns::NetnsId;
use crate::plan::Step;
use crate::plan::host::{self, Kept, SYSCTL_FILE, UNIT};
use crate::wire::keep;

/// Those whose directories are there, of those that reserve ports at boot the one that this host reads. None in a namespace
/// that is not the machine's first: the files configure that one.
pub fn kept(here: NetnsId) -> Kept {
    if !keep::concern(here) {
        return Kept::default();
    }
    let wanted = |path: &Path| match path {
        path if path == Path::new(UNIT) => keep::is_systemd(),
        path if path == Path::new(SYSCTL_FILE) => !keep::is_systemd() && keep::reserved_by().is_none(),
        _ => true,
    };
    let there = |path: &Path| path.parent().is_some_and(Path::is_dir);
    let files = host::files().map(PathBuf::from).filter(|path| there(path) && wanted(path)).collect();
    Kept { files, program: std::env::current_exe().unwrap_or_else(|_| "/usr/bin/portslice".into()) }
}

/// What an earlier setup wrote that reserves ports at boot and is not kept any more.
pub fn obsolete(kept: &Kept) -> Vec<Step> {
    let boots = [UNIT, SYSCTL_FILE].map(PathBuf::from).into_iter();
    let gone = boots.filter(|path| !kept.files.is_empty() && !kept.files.contains(path) && keep::is_ours(path));
    gone.map(|path| Step::Keep { path, text: String::new() }).collect()
}

/// Is one of them there that we wrote?
pub fn left(here: NetnsId) -> bool {
    keep::concern(here) && host::files().any(|path| keep::is_ours(Path::new(path)))
}

/// Why nothing reserves the ports again at boot, if that is so here.
pub fn boot_gap(here: NetnsId) -> Option<String> {
    if !keep::concern(here) || keep::is_systemd() {
        return None;
    }
    let other = keep::reserved_by()?;
    Some(format!(
        "{} sets net.ipv4.ip_local_reserved_ports at boot, and only one file can: run `portslice setup` after each boot",
        other.display()
    ))
}
