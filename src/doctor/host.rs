//! The host as a whole: its uplink, its addresses, whether it is prepared, and by whom.

use std::net::IpAddr;

use super::{Finding, Origin, Scene, fail, ok, some_of, unseen, warn};
use crate::config::Acceptable;
use crate::error::Error;
use crate::host::carried::MOST;
use crate::plan::host::bpf_directory;
use crate::slice::ready::others;
use crate::wire::programs::is_mounted;

/// Uplink, addresses, installations, in this order. `unread`: why the host's facts are not known.
pub fn look(scene: &Scene<'_>, unread: Option<Error>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = unread.iter().map(uplink_unknown).collect();
    findings.extend(uplink(scene));
    findings.extend(addresses(scene));
    findings.extend(rules(scene));
    match prepared(scene) {
        Ok(found) => findings.extend(found),
        Err(e) => findings.push(unseen("host", &e)),
    }
    findings
}

/// The record of what was done to the host cannot be read.
pub fn damaged(error: &Error, origin: &Origin) -> Finding {
    let why = "no container can start, and nothing can be undone; the kernel has a copy";
    fail("host", error.to_string(), why, format!("{} fsck --rebuild", origin.command))
}

fn uplink(scene: &Scene<'_>) -> Option<Finding> {
    let facts = scene.facts.as_ref()?;
    let beside = |ip: &&IpAddr| !facts.beside.iter().any(|device| device.addresses.contains(ip));
    let addresses: Vec<String> = facts.addresses.iter().filter(beside).map(ToString::to_string).collect();
    let (name, mtu) = (&facts.uplink.name, facts.uplink.mtu);
    Some(ok("uplink", format!("{name} carries {}, MTU {mtu}", some_of(&addresses))))
}

/// Without an uplink there is nothing to share. A device that is down can be brought up.
fn uplink_unknown(error: &Error) -> Finding {
    const WHY: &str = "containers share the uplink's addresses: without them none can start";
    match error {
        Error::Unsupported { what, remedy } => {
            let down = what.strip_prefix("uplink ").and_then(|rest| rest.strip_suffix(" is down"));
            let command = down.map(|device| format!("ip link set dev {device} up")).unwrap_or_default();
            fail("uplink", what, format!("{WHY}; {remedy}"), command)
        }
        other => fail("uplink", other.to_string(), WHY, ""),
    }
}

fn addresses(scene: &Scene<'_>) -> Option<Finding> {
    let facts = scene.facts.as_ref()?;
    if facts.uncarried == 0 || scene.accepts(Acceptable::Addresses) {
        return None;
    }
    let all = facts.addresses.len() + facts.uncarried;
    let why = "nobody reaches a container at another one; take away what is not needed, or say that you know";
    let bearer =
        if facts.beside.iter().all(|device| device.addresses.is_empty()) { &facts.uplink.name } else { "the host" };
    let seen = format!("{bearer} carries {all} addresses, containers the first {MOST} of them");
    Some(warn("addresses", seen, why, scene.accept(Acceptable::Addresses)))
}

/// A VPN that takes everything (wg-quick) has such a rule: containers would go past it.
fn rules(scene: &Scene<'_>) -> Option<Finding> {
    if !scene.facts.as_ref()?.suppress_v6 || scene.accepts(Acceptable::Rules) {
        return None;
    }
    let seen = "an IPv6 routing rule has suppress_prefixlength, which the kernel does not heed for containers";
    let why = "what it leads elsewhere, to a VPN for everything, goes by the main table's default route instead: lead it there with \
               rules that name networks, or say that you know";
    Some(warn("rules", seen, why, scene.accept(Acceptable::Rules)))
}

/// Is the host prepared, by this installation alone?
fn prepared(scene: &Scene<'_>) -> crate::error::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let own = &scene.config.state_dir;
    for theirs in others(&scene.record)? {
        let place = theirs.state_dir.display();
        findings.push(if theirs.state_dir == *own {
            let seen = format!("an installation in {place} serves this host, and its record is lost");
            fail("host", seen, "no container can start; the kernel has a copy", scene.command("fsck --rebuild"))
        } else {
            let seen = format!("another installation serves this host, in {place}");
            let why = format!(
                "two would take each other's ports: name {place} (--state-dir) if that is the one you mean, or undo it if {} is",
                own.display()
            );
            fail("host", seen, why, format!("portslice --state-dir {place} setup --undo"))
        });
    }
    let directory = bpf_directory(own);
    if scene.record.ready && !is_mounted(&directory) {
        let seen = format!("the BPF file system on {} is not there", directory.display());
        let why = "containers that run go on, but none can start or end; where it is only out of view, run doctor in the \
                   host's own mount namespace";
        findings.push(fail("host", seen, why, scene.command("sync")));
    }
    if findings.is_empty() && !scene.record.ready {
        let why = "the first container prepares it, which makes its start slow";
        findings.push(warn("host", "is not prepared", why, scene.command("setup")));
    }
    Ok(findings)
}
