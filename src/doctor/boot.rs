//! The next boot: whether the ports of containers are reserved again, before a connection of the host could take one.

use std::path::Path;

use super::{Finding, Scene, ok, unseen, warn};
use crate::error::Result;
use crate::net::Netns;
use crate::plan::Step;
use crate::plan::host::{SYSCTL_FILE, UNIT, Wanted, host, leasable};
use crate::slice::files;
use crate::wire::keep;

/// A unit reserves them where systemd runs the host, else a file in sysctl.d, of which only the last one counts.
pub fn look(scene: &Scene<'_>) -> Vec<Finding> {
    if !scene.record.ready {
        return Vec::new();
    }
    match reserved_again(scene) {
        Ok(found) => found,
        Err(e) => vec![unseen("boot", &e)],
    }
}

const WHY: &str = "after a boot the host's own connections may take ports of containers, and none can start before the next \
                   `portslice setup`";

fn reserved_again(scene: &Scene<'_>) -> Result<Vec<Finding>> {
    let here = Netns::here()?;
    let Some(facts) = scene.facts.as_ref().filter(|_| keep::concern(here)) else { return Ok(Vec::new()) };
    if let Some(finding) = other_file(scene) {
        return Ok(vec![finding]);
    }
    let wanted = Wanted { version: scene.record.version.clone(), kept: files::kept(here), ..Wanted::default() };
    let plan = host(scene.config, facts, &wanted);
    let missing = plan.iter().find_map(|step| match step {
        Step::Keep { path, text } if [UNIT, SYSCTL_FILE].map(Path::new).contains(&path.as_path()) => {
            (!keep::is_kept(path, text)).then_some(path)
        }
        _ => None,
    });
    Ok(vec![match missing {
        None => ok("boot", "the ports of containers are reserved again at boot"),
        Some(path) => {
            let seen = format!("{} is not in force as setup leaves it", path.display());
            warn("boot", seen, WHY, scene.command("setup"))
        }
    }])
}

/// Where no unit merges the ports, a file of somebody else must name ours beside its own, and ours must not be there.
fn other_file(scene: &Scene<'_>) -> Option<Finding> {
    if keep::is_systemd() {
        return None;
    }
    let other = keep::reserved_by()?;
    let (theirs, ours) = (keep::reserved_in_file(&other), leasable(scene.config));
    let both = keep::is_ours(Path::new(SYSCTL_FILE));
    if ours.is_subset(&theirs) && !both {
        return None;
    }
    let path = other.display();
    let seen = if both {
        format!("{path} and {SYSCTL_FILE} both set net.ipv4.ip_local_reserved_ports, and only the last one counts")
    } else {
        format!("{path} sets net.ipv4.ip_local_reserved_ports at boot, without the ports of containers")
    };
    let all = theirs.union(&ours);
    let key = "net[./]ipv4[./]ip_local_reserved_ports";
    let merge = format!("sed -i 's|^\\([ -]*{key} *=\\).*|\\1 {all}|' {path}");
    Some(warn("boot", seen, WHY, format!("{merge} && {}", scene.command("setup"))))
}
